"""Descriptors of pictures, and the gradient for the weights of what a loss makes of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from cnnimretrieval.descriptors.halves import above, below, stacked
from cnnimretrieval.descriptors.passes import in_threads
from cnnimretrieval.distributed import num_ranks, summed
from cnnimretrieval.networks.pooling import l2_normalise
from cnnimretrieval.networks.trunk_stages import Stage, map_at
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.whitening.apply import Whitening

Result = TypeVar("Result")
# What the network is given: levels, or activations of the layers that stay as they are; None: another rank
# has it.
Pictures = Sequence[Shaped[Tensor, "_ _ _"] | None]
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
    return as_seen(training, _of_all(training, pictures, groups, made))


def add_gradient(
    training: Training,
    pictures: Pictures,
    values_of: Callable[[Float[Tensor, "k d"]], Float[Tensor, " v"]],
    divisor: int = 1,
    scaled: Callable[[Tensor], Tensor] = lambda value: value,
) -> Float[Tensor, " v"]:
    """Values of the descriptors; the gradient of their sum, divided and scaled, is added to the weights'.

    The gradient of the descriptors comes first; pictures that it does not move need no way back. Of more
    pictures than may be at once, those that it moves go through the network again, a part at a time (Gao et
    al., RepL4NLP 2021). On a CPU a thread takes a group of pictures all the way: what comes out does not
    depend on the number of threads.
    """
    most, groups = at_once(training), _groups(training, pictures)
    whole = most is None or sum(map(len, groups)) <= most
    with training.clock.part("forward"):
        made = list(_passed(training, pictures, groups, with_graph=whole))
        found = [vectors.detach() for vectors in made]
        descriptors = _of_all(training, pictures, groups, found).requires_grad_()
        values = values_of(as_seen(training, descriptors))
    with training.clock.part("backward"):
        value, graphs = scaled(values.sum() / divisor), made if whole else None
        _add_way_back(training, pictures, groups, graphs, descriptors, value)
    return values.detach()


def add_gradient_of_maps(
    training: Training,
    stage: Stage,
    several: Sequence[Sequence[Shaped[Tensor, "_ _ _"]]],
    value_of: Callable[[int, list[Float[Tensor, "1 c _ _"]]], Float[Tensor, ""]],
    scaled: Callable[[Tensor], Tensor] = lambda value: value,
) -> list[float]:
    """A value of the maps at `stage` of each of several pictures; the gradient of their sum is added.

    `value_of` gets the number of the pictures in `several`, and their maps in float32.
    """
    weights, num_layers = _learned(training), training.inputs.num_layers

    def one(number: int, pictures: Sequence[Tensor]) -> tuple[float, tuple[Tensor | None, ...]]:
        # Here, because each thread has a mode of its own.
        with torch.enable_grad():
            maps = []
            for picture in pictures:
                given = _as_given(training, [picture])
                with training.look.autocast(given.device.type):
                    run = partial(training.network.trunk.above, given, num_layers)
                    maps.append(map_at(stage, run).float())
            value = value_of(number, maps)
            return float(value.detach()), torch.autograd.grad(scaled(value), weights, allow_unused=True)

    values = []
    jobs = (partial(one, number, pictures) for number, pictures in enumerate(several))
    for value, gradient in _mapped(training, jobs):
        _add(weights, gradient)
        values.append(value)
    return values


def _add_way_back(
    training: Training,
    pictures: Pictures,
    groups: Sequence[Group],
    made: Sequence[Tensor] | None,
    descriptors: Float[Tensor, "k d"],
    value: Float[Tensor, ""],
) -> None:
    """Add the gradient of a value of the descriptors; `made` are those of the groups with their graphs."""
    value.backward()  # type: ignore[no-untyped-call]
    assert descriptors.grad is not None
    # At least one: a gradient of zero is another thing to an optimiser than none.
    moved = descriptors.grad.any(dim=1).nonzero()[:, 0].tolist() or [0]
    if made is not None:
        ways = [(group, found) for group, found in zip(groups, made, strict=True) if not _apart(group, moved)]
        _add_back(training, ways, descriptors.grad)
        return
    own = [row for row in moved if pictures[row] is not None]
    most = at_once(training) or 1
    for start in range(0, len(own), most):
        again = _groups(training, pictures, own[start : start + most])
        passed = _passed(training, pictures, again, with_graph=True)
        _add_back(training, list(zip(again, passed, strict=True)), descriptors.grad)


def at_once(training: Training) -> int | None:
    """Pictures of this rank that may keep their activations together; None: all."""
    most = training.config.pictures_at_once
    return _AT_ONCE if most is None and training.inputs.num_layers else most


def _apart(group: Group, rows: Sequence[int]) -> bool:
    return set(group).isdisjoint(rows)


def _groups(training: Training, pictures: Pictures, some: Iterable[int] | None = None) -> list[Group]:
    """Rows of this rank's pictures that go through together: of equal shape, on a CPU a few."""
    of_shape: dict[torch.Size, Group] = {}
    for row in range(len(pictures)) if some is None else some:
        picture = pictures[row]
        if picture is not None:
            of_shape.setdefault(picture.shape, []).append(row)
    size = _TOGETHER if _on_cpu(training) else len(pictures)
    return [rows[at : at + size] for rows in of_shape.values() for at in range(0, len(rows), size)]


def _of_all(
    training: Training, pictures: Pictures, groups: Sequence[Group], made: Sequence[Float[Tensor, "_ d"]]
) -> Float[Tensor, "k d"]:
    """The descriptors of all pictures in their order, those of other ranks among them."""
    order = torch.tensor(
        [row for group in groups for row in group], dtype=torch.int64, device=training.device
    )
    if num_ranks() == 1:
        return torch.cat(list(made))[order.argsort()]
    every = torch.zeros(len(pictures), training.network.dim, device=training.device)
    if made:
        every[order] = torch.cat(list(made))
    return summed(every)


def _passed(
    training: Training, pictures: Pictures, groups: Sequence[Group], *, with_graph: bool
) -> Iterator[Float[Tensor, "_ d"]]:
    """The descriptors of each group."""
    return _mapped(training, (partial(_described, training, pictures, group, with_graph) for group in groups))


def _described(
    training: Training, pictures: Pictures, group: Group, with_graph: bool
) -> Float[Tensor, "_ d"]:
    own = [picture for picture in (pictures[row] for row in group) if picture is not None]
    given, num_layers = _as_given(training, own), training.inputs.num_layers
    # Here, because each thread has a mode of its own.
    with torch.set_grad_enabled(with_graph):
        recompute = with_graph and training.config.recompute
        return above(training.network, num_layers, given, training.look, recompute=recompute).float()


def _as_given(training: Training, pictures: Sequence[Tensor]) -> Float[Tensor, "b c h w"]:
    """What the layers that learn are given of pictures of one size."""
    (given,) = stacked([(picture,) for picture in pictures])
    given = given.to(training.device)
    if training.inputs.num_layers == 0:
        (given,) = below(training.network, 0, given, training.look)
    return given


def _learned(training: Training) -> list[Tensor]:
    return [weight for weight in training.network.parameters() if weight.requires_grad]


def _add(weights: Sequence[Tensor], gradient: Sequence[Tensor | None]) -> None:
    for weight, part in zip(weights, gradient, strict=True):
        if part is not None:
            weight.grad = part if weight.grad is None else weight.grad.add_(part)


def _add_back(
    training: Training, ways: Sequence[tuple[Group, Tensor]], gradient: Float[Tensor, "k d"]
) -> None:
    """Add to the gradient of the weights, in the order of the groups, what each group of pictures gives."""
    weights = _learned(training)

    def back(group: Group, vectors: Tensor) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(vectors, weights, gradient[group], allow_unused=True)

    for found in _mapped(training, (partial(back, group, vectors) for group, vectors in ways)):
        _add(weights, found)


def _mapped(training: Training, jobs: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    return in_threads(jobs) if _on_cpu(training) else (job() for job in jobs)


def _on_cpu(training: Training) -> bool:
    return torch.device(training.device).type == "cpu"


def as_seen(training: Training, vectors: Float[Tensor, "k d"]) -> Float[Tensor, "k e"]:
    """Descriptors as the loss sees them."""
    return vectors if training.whitening is None else _whitened(vectors, training.whitening)


def _whitened(vectors: Float[Tensor, "k d"], whitening: Whitening) -> Float[Tensor, "k e"]:
    """`whitening.apply` with a gradient."""
    mean, projection = (torch.from_numpy(part).to(vectors) for part in (whitening.mean, whitening.projection))
    return l2_normalise((vectors - mean) @ projection.T)
