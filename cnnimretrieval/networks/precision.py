"""In which precision layers compute: what a person says, or bfloat16 where the machine is made for it."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import torch
from torch.nn import functional

Precision = Literal["float32", "bfloat16", "float16"]

_CPU_INFO = Path("/proc/cpuinfo")
# Instructions for products of bfloat16: Intel's and AMD's two, Arm's. Processors without them convert each
# number, which makes them slower than in float32.
_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
# What it must gain at least; less is not worth the digits.
_LEAST_GAIN = 1.2
_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A precision, and why it was chosen."""

    precision: Precision
    why: str

    def __str__(self) -> str:
        """Both in one line."""
        return f"{self.precision} ({self.why})"


def choose_precision(wanted: Precision | Literal["auto"], device: str) -> Choice:
    """What is `wanted`; "auto" is bfloat16 where the device has instructions for it and they are faster.

    A CPU is tried for a fraction of a second: what its flags promise, a virtual machine may not keep.
    """
    if wanted != "auto":
        return Choice(precision=wanted, why="as the settings say")
    if torch.device(device).type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        what = "has instructions for it" if able else "has none for it"
        return _choice(able, f"{torch.cuda.get_device_name(device)} {what}")
    flag = next((one for one in _FLAGS if one in cpu_flags()), None)
    if flag is None:
        return _choice(False, f"the processor has none of {', '.join(_FLAGS)}")
    gain = _gain()
    return _choice(gain >= _LEAST_GAIN, f"with {flag} a convolution is {gain:.1f} x as fast")


def cpu_flags(path: Path = _CPU_INFO) -> frozenset[str]:
    """What the processor can do besides, as the system names it; nothing where the system does not tell."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return frozenset()
    told = (line.partition(":") for line in lines)
    of_cores = (flags.split() for name, _, flags in told if name.strip() in ("flags", "Features"))
    return frozenset(chain.from_iterable(of_cores))


def _choice(half: bool, why: str) -> Choice:
    return Choice(precision="bfloat16" if half else "float32", why=f"bfloat16: {why}")


def _gain() -> float:
    """How many times the speed of float32 a convolution in the middle of a network has in bfloat16.

    By the processor time of one thread: other work on the machine must not decide.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            single, half = pool.map(_seconds, (torch.float32, torch.bfloat16))
    finally:
        torch.set_num_threads(threads)
    return single / half


def _seconds(dtype: torch.dtype) -> float:
    """The quickest of a few convolutions."""
    images = torch.ones(1, 128, 46, 34, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weights = torch.ones(128, 128, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    seconds = []
    with torch.inference_mode():
        for _ in range(1 + _TRIES):
            started = time.thread_time()
            functional.conv2d(images, weights, padding=1)
            seconds.append(time.thread_time() - started)
    return min(seconds[1:])  # the first one prepares
