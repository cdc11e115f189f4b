"""Descriptors of pictures, and the gradient for the weights of what a loss makes of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from cnnimretrieval.descriptors.halves import above, below, stacked
from cnnimretrieval.descriptors.passes import in_threads
from cnnimretrieval.networks.pooling import l2_normalise
from cnnimretrieval.training.context import Training
from cnnimretrieval.whitening.apply import Whitening

Result = TypeVar("Result")
# What the network is given: levels, or activations of the layers that stay as they are.
Pictures = Sequence[Shaped[Tensor, "_ _ _"]]
# Rows of pictures of one size.
Group = list[int]

# Pictures that go through together on a CPU: a thread has as many at a time, so that no thread waits long.
_TOGETHER = 8
# Pictures that keep their activations at a time where the lowest layers stay and the settings do not say.
_AT_ONCE = 16


def describe_with_gradient(training: Training, pictures: Pictures) -> Float[Tensor, "k d"]:
    """Unit descriptors as the loss sees them, in float32 whatever the precision of the activations.

    Pictures of one size go through the network together, which changes nothing but rounding.
    """
    groups = _groups(training, pictures)
    made = list(_passed(training, pictures, groups, with_graph=torch.is_grad_enabled()))
    return _as_seen(training, _in_order(groups, made))


def add_gradient(
    training: Training,
    pictures: Pictures,
    values_of: Callable[[Float[Tensor, "k d"]], Float[Tensor, " v"]],
    divisor: int = 1,
) -> Float[Tensor, " v"]:
    """Values of the descriptors; the gradient of their sum, divided, is added to that of the weights.

    The gradient of the descriptors comes first; pictures that it does not move need no way back. Of more
    pictures than may be at once, those that it moves go through the network again, a part at a time (Gao et
    al., RepL4NLP 2021). On a CPU a thread takes a group of pictures all the way: what comes out does not
    depend on the number of threads.
    """
    at_once = training.config.pictures_at_once
    if at_once is None and training.inputs.num_layers:
        at_once = _AT_ONCE
    whole = at_once is None or len(pictures) <= at_once
    groups = _groups(training, pictures)
    made = list(_passed(training, pictures, groups, with_graph=whole))
    descriptors = _in_order(groups, [vectors.detach() for vectors in made]).requires_grad_()
    values = values_of(_as_seen(training, descriptors))
    (values.sum() / divisor).backward()  # type: ignore[no-untyped-call]
    assert descriptors.grad is not None
    # At least one: a gradient of zero is another thing to an optimiser than none.
    moved = descriptors.grad.any(dim=1).nonzero()[:, 0].tolist() or [0]
    if whole:
        ways = [(group, found) for group, found in zip(groups, made, strict=True) if not _apart(group, moved)]
        _add_back(training, ways, descriptors.grad)
        return values.detach()
    for start in range(0, len(moved), at_once or 1):
        part = moved[start : start + (at_once or 1)]
        again = _groups(training, pictures, part)
        _add_back(
            training,
            list(zip(again, _passed(training, pictures, again, with_graph=True), strict=True)),
            descriptors.grad,
        )
    return values.detach()


def _apart(group: Group, rows: Sequence[int]) -> bool:
    return set(group).isdisjoint(rows)


def _groups(training: Training, pictures: Pictures, some: Iterable[int] | None = None) -> list[Group]:
    """Rows of pictures that go through together: of equal shape, on a CPU a few."""
    of_shape: dict[torch.Size, Group] = {}
    for row in range(len(pictures)) if some is None else some:
        of_shape.setdefault(pictures[row].shape, []).append(row)
    size = _TOGETHER if _on_cpu(training) else len(pictures)
    return [rows[at : at + size] for rows in of_shape.values() for at in range(0, len(rows), size)]


def _in_order(groups: Sequence[Group], made: Sequence[Float[Tensor, "_ d"]]) -> Float[Tensor, "k d"]:
    order = torch.tensor([row for group in groups for row in group], device=made[0].device)
    return torch.cat(list(made))[order.argsort()]


def _passed(
    training: Training, pictures: Pictures, groups: Sequence[Group], *, with_graph: bool
) -> Iterator[Float[Tensor, "_ d"]]:
    """The descriptors of each group."""
    return _mapped(training, (partial(_described, training, pictures, group, with_graph) for group in groups))


def _described(
    training: Training, pictures: Pictures, group: Group, with_graph: bool
) -> Float[Tensor, "_ d"]:
    (given,) = stacked([(pictures[row],) for row in group])
    given, num_layers = given.to(training.device), training.inputs.num_layers
    # Here, because each thread has a mode of its own.
    with torch.set_grad_enabled(with_graph):
        if num_layers == 0:
            (given,) = below(training.network, 0, given, training.look)
        return above(training.network, num_layers, given, training.look).float()


def _add_back(
    training: Training, ways: Sequence[tuple[Group, Tensor]], gradient: Float[Tensor, "k d"]
) -> None:
    """Add to the gradient of the weights, in the order of the groups, what each group of pictures gives."""
    weights = [weight for weight in training.network.parameters() if weight.requires_grad]

    def back(group: Group, vectors: Tensor) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(vectors, weights, gradient[group], allow_unused=True)

    for found in _mapped(training, (partial(back, group, vectors) for group, vectors in ways)):
        for weight, part in zip(weights, found, strict=True):
            if part is not None:
                weight.grad = part if weight.grad is None else weight.grad.add_(part)


def _mapped(training: Training, jobs: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    return in_threads(jobs) if _on_cpu(training) else (job() for job in jobs)


def _on_cpu(training: Training) -> bool:
    return torch.device(training.device).type == "cpu"


def _as_seen(training: Training, vectors: Float[Tensor, "k d"]) -> Float[Tensor, "k e"]:
    """Descriptors as the loss sees them."""
    return vectors if training.whitening is None else _whitened(vectors, training.whitening)


def _whitened(vectors: Float[Tensor, "k d"], whitening: Whitening) -> Float[Tensor, "k e"]:
    """`whitening.apply` with a gradient."""
    mean, projection = (torch.from_numpy(part).to(vectors) for part in (whitening.mean, whitening.projection))
    return l2_normalise((vectors - mean) @ projection.T)
