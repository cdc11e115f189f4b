"""Our whole stage from nothing, and any function in a child process, as contenders of a benchmark."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from experiments.benchmarks.contenders.plain_colmap import Registered
from groundwork.child import preload
from groundwork.executors import LocalExecutor
from sfm.reconstruct import PRELOAD, ReconstructConfig, reconstruct

T = TypeVar("T")


def ours(photos: Path, out: Path, config: ReconstructConfig, *, workers: int) -> Registered:
    """The whole stage into an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    with _executor(workers) as executor:
        models = reconstruct(photos, out, config, executor).models
    sizes = [model.num_images for model in models]
    return Registered(largest=max(sizes, default=0), total=sum(sizes))


def in_child(function: Callable[..., T], *given: Any) -> T:
    """The answer of a call in a child process like those of our tasks: one thread a native library."""
    with _executor(1) as executor:
        answer: T = executor.submit(function, *given).result()
    return answer


def _executor(workers: int) -> LocalExecutor:
    # The first child decides what all find loaded, whichever contender starts it.
    preload(*PRELOAD)
    return LocalExecutor(workers)
