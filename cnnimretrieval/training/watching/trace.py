"""A few steps of a training, operation by operation, in a file that trace viewers open."""

from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile, schedule

from groundwork.files import atomic_path

NAME = "trace.json.gz"
# One to warm up, and so many that are traced: a step has up to some 100,000 operations.
_TRACED = 2


class StepTrace:
    """Traces the third and fourth step that it is told of, into `folder`; nothing without one.

    It is left by a `with` block: a training of fewer steps has a trace of those that there were, or none.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._path = None if folder is None else folder / NAME
        self._profile: profile | None = None

    def __enter__(self) -> Self:
        """Begin with the first step that is told."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Write what was traced."""
        if self._profile is not None:
            self._profile.stop()
        self._path = self._profile = None

    def step(self) -> None:
        """A step is done."""
        if self._path is None:
            return
        if self._profile is not None:
            self._profile.step()
        else:
            self._profile = profile(
                activities=_activities(),
                schedule=schedule(wait=0, warmup=1, active=_TRACED, repeat=1),
                on_trace_ready=self._write,
                experimental_config=_all_threads(),
            )
            self._profile.start()

    def _write(self, traced: profile) -> None:
        assert self._path is not None
        with atomic_path(self._path) as unfinished:
            traced.export_chrome_trace(str(unfinished))
        self._path = None


def _activities() -> list[ProfilerActivity]:
    # Asked for without a GPU, those of one are an error on stderr.
    on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    return [ProfilerActivity.CPU, *on_gpu]


def _all_threads() -> _ExperimentalConfig:
    """Each group of pictures has a thread; earlier versions of torch see the one that steps alone."""
    try:
        return _ExperimentalConfig(profile_all_threads=True)
    except TypeError:
        return _ExperimentalConfig()
