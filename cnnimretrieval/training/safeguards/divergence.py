"""Notices at once that a training has left the finite numbers, or tells no photo from another any more."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cnnimretrieval.descriptors.extract import SEES_NOTHING, Described

# Descriptors of different photos that differ by less are those of a network whose activations have died out.
_ALIKE = 1e-6
_MOST_NAMES = 3
_LEAST_SCALE = 2.0**-10


class Diverged(ValueError):
    """What was expected and found; the loop, which knows epoch and step, says what to do about it."""


class NothingMoved(Diverged):
    """Found before the weights were moved: a training may go on without the step."""


@contextmanager
def before_training() -> Iterator[None]:
    """Blame what is found in here on the weights that a training starts from."""
    try:
        yield
    except Diverged as found:
        raise _damaged(found) from found


def stopped(found: Diverged, *, epoch: int, step: int, rate: float, kept: object) -> ValueError:
    """What is said of a training that stops in this step; `kept` says which weights are where."""
    if (epoch, step) == (1, 0):
        return _damaged(found)
    return ValueError(
        f"training, epoch {epoch}, step {step}: {found}; "
        f"learning rate {rate:g} is too large: lower train.loop.learning_rate ({kept})"
    )


def _damaged(found: Diverged) -> ValueError:
    return ValueError(f"network before training: {found}; its weights are damaged: start from others")


def check_loss(loss: float, queries: Sequence[str]) -> None:
    """Diverged unless `loss`, that of the tuples or clusters of these queries, is finite."""
    if not np.isfinite(loss):
        raise NothingMoved(f"expected a finite loss, got {loss:g} for {listed(queries)}")


def check_tensors(
    kind: Literal["gradient", "weight"], tensors: Mapping[str, Tensor], loss: float, queries: Sequence[str]
) -> None:
    """Diverged unless tensors of this `kind` are finite; for a GPU, one wait for all.

    Values whose squares add up to infinity have left the range, too: Adam divides by their root.
    """
    if not tensors or torch.nn.utils.get_total_norm(list(tensors.values())).isfinite():
        return
    largest = {name: float(value.detach().abs().max()) for name, value in tensors.items()}
    name = next(
        (one for one in largest if not np.isfinite(largest[one])), max(largest, key=largest.__getitem__)
    )
    raise (NothingMoved if kind == "gradient" else Diverged)(
        f"expected finite {kind}s, got {largest[name]:g} in {name} "
        f"at a loss of {loss:.4g} for {listed(queries)}"
    )


def check_scale(scale: float, loss: float, queries: Sequence[str]) -> None:
    """Diverged when float16 holds no gradient, however small the `scale` of the loss."""
    if scale < _LEAST_SCALE:
        raise Diverged(
            f"expected gradients that float16 holds, got none down to a scale of {scale:g} "
            f"at a loss of {loss:.4g} for {listed(queries)}"
        )


def sound_descriptors(found: Described, names: Sequence[str], *, differ: bool) -> Float[np.ndarray, "n d"]:
    """The descriptors of all photos; Diverged as by `check_descriptors`, OSError for an unreadable photo."""
    blind = [names[failure.position] for failure in found.failures if failure.reason == SEES_NOTHING]
    if blind:
        raise Diverged(f"expected finite descriptors, got NaN, infinity or 0 for {listed(blind)}")
    vectors = found.require_all()
    check_descriptors(vectors, names, differ=differ)
    return vectors


def check_descriptors(vectors: Float[np.ndarray, "n d"], names: Sequence[str], *, differ: bool) -> None:
    """Diverged unless all numbers are finite and, where the photos `differ`, the rows do, too."""
    # The sum of a unit row is finite unless one of its numbers is not.
    broken = np.flatnonzero(~np.isfinite(vectors.sum(axis=1)))
    if len(broken):
        raise Diverged(f"expected finite descriptors, got NaN or infinity for {names[broken[0]]}")
    if differ and len(vectors) > 1 and np.ptp(vectors, axis=0).max() < _ALIKE:
        raise Diverged(f"expected descriptors that differ, got the same one for {listed(names)}")


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:_MOST_NAMES])
    return shown if len(names) <= _MOST_NAMES else f"{shown} and {len(names) - _MOST_NAMES} more"
