"""A step that does not fit into the memory of its GPU, and the settings with which it would."""

import gc
from collections.abc import Callable, Iterator, Mapping

import torch

# Settings of the loop with their values.
Changes = Mapping[str, int | bool]


class OutOfMemory(RuntimeError):
    """What was expected, found, and is to be set; the loop, which knows epoch and step, says it."""

    def at(self, *, epoch: int, step: int, kept: object) -> RuntimeError:
        """The same with its place; `kept` says which weights are where."""
        return RuntimeError(f"training, epoch {epoch}, step {step}: {self} ({kept})")


def settings_that_fit(pictures: int, fits: Callable[[Changes], bool]) -> str:
    """What to do where so many pictures do not go together: settings that `fits` finds right, by trying."""
    for changes in _smaller(pictures):
        gc.collect()
        torch.cuda.empty_cache()
        if fits(changes):
            told = (f"train.loop.{name}={str(value).lower()}" for name, value in changes.items())
            return f"set {' and '.join(told)}, with which this step fits"
    return "lower train.loop.image_size: not even one picture with train.loop.recompute=true fits"


def _smaller(pictures: int) -> Iterator[Changes]:
    while pictures := pictures // 2:
        yield {"pictures_at_once": pictures}
    yield {"pictures_at_once": 1, "recompute": True}
