import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep what they like")
def test_holes_between_what_threads_made_do_not_grow_from_job_to_job():
    """Each job leaves holes that the arrays of the next ones, a little larger, do not fit into."""
    script = """
import os
from functools import partial

import numpy as np
import torch

from cnnimretrieval.descriptors import passes
from groundwork.memory import Slack, give_back, resident_bytes

def job(number):
    return [np.full(60_000 + 2_000 * number, number, np.uint8) for _ in range(200)][::2]

for threads in (1, 2):
    torch.set_num_threads(threads)
    for most_bytes in (1 << 24, 1 << 40):
        passes._slack = Slack(most_bytes)
        made = list(passes.in_threads(partial(job, number) for number in range(24)))
        assert [(len(arrays), arrays[0][0]) for arrays in made] == [(100, number) for number in range(24)]
        before = resident_bytes(os.getpid())
        give_back()
        print(before - resident_bytes(os.getpid()))
        del made
        give_back()
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    bounded, unbounded, bounded_by_two, unbounded_by_two = map(int, told.split())
    assert bounded < 0.5 * unbounded
    assert bounded_by_two < 0.5 * unbounded_by_two
