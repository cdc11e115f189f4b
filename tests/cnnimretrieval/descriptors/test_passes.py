import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep what they like")
def test_threads_leave_no_more_freed_memory_behind_than_the_slack():
    script = """
import os
from functools import partial

import numpy as np

from cnnimretrieval.descriptors import passes
from groundwork.memory import Slack, give_back, resident_bytes

def job(number):
    return [np.full(100_000, number, np.uint8) for _ in range(1000)][::10]

for most_bytes in (1 << 25, 1 << 40):
    passes._slack = Slack(most_bytes)
    made = list(passes.in_threads(partial(job, number) for number in range(5)))
    assert [len(arrays) for arrays in made] == [100] * 5 and made[3][0][0] == 3
    before = resident_bytes(os.getpid())
    give_back()
    print(before - resident_bytes(os.getpid()))
    del made
    give_back()
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    bounded, kept = map(int, told.split())
    assert bounded < 1.2 * (1 << 25) < 2 * (1 << 25) < kept
