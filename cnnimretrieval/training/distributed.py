"""One training on several processes (ranks), as `torchrun` starts them: all learn the same weights.

Each reads and describes its share of the photos; descriptors and gradients are handed to all. So every rank
comes to the same loss, and takes the same step. Rank 0 alone writes; the others read what it wrote.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from cnnimretrieval.descriptors.extract import Described, ExtractConfig, describe
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.inputs import Inputs
from cnnimretrieval.networks.network import RetrievalNetwork

Value = TypeVar("Value")
# How long a rank waits for the others, who may be at work that is theirs alone.
_WAIT = timedelta(minutes=30)


class OtherRanksGone(RuntimeError):
    """Another rank ended before its time; what it said is the reason."""


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the ranks that `torchrun` started this process with, if it did, and yield the device of this one.

    "cuda" is the GPU of the number that the rank has on its machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_WAIT)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def num_ranks() -> int:
    """Processes of this training; 1 unless they were joined."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this one."""
    return dist.get_rank() if num_ranks() > 1 else 0


def is_first() -> bool:
    """Whether this is the one that writes."""
    return rank() == 0


def of_all(own: Value) -> list[Value]:
    """What each rank has, in their order; all must ask."""
    if num_ranks() == 1:
        return [own]
    found: list[Any] = [None] * num_ranks()
    _together(lambda: dist.all_gather_object(found, own))
    return found


def first_says(own: Value) -> Value:
    """What rank 0 has, for all: the others may see a folder, or a clock, otherwise."""
    if num_ranks() == 1:
        return own
    found: list[Any] = [own]
    _together(lambda: dist.broadcast_object_list(found, src=0))
    said: Value = found[0]
    return said


def wait() -> None:
    """Go on when all ranks have come here."""
    of_all(None)


def summed(own: Tensor) -> Tensor:
    """The sum over all ranks, in place of what this one has."""
    if num_ranks() > 1:
        _together(lambda: dist.all_reduce(own))
    return own


def sum_gradients(module: nn.Module) -> None:
    """Give the weights of all ranks the sum of their gradients; none to a weight that has none anywhere."""
    if num_ranks() == 1:
        return
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    gradients = [weight.grad if weight.grad is not None else torch.zeros_like(weight) for weight in weights]
    there = torch.tensor([float(weight.grad is not None) for weight in weights], device=weights[0].device)
    whole = summed(torch.cat([*(gradient.flatten() for gradient in gradients), there]))
    *parts, there = whole.split_with_sizes([*(weight.numel() for weight in weights), len(weights)])
    for weight, part, has in zip(weights, parts, there.tolist(), strict=True):
        weight.grad = part.view_as(weight) if has else None


def same_weights(module: nn.Module) -> None:
    """Give all ranks the weights of rank 0: machines that round otherwise must not drift apart."""
    if num_ranks() > 1:
        for weight in module.parameters():
            values = weight.detach().contiguous()
            _together(lambda values=values: dist.broadcast(values, src=0))  # type: ignore[misc]
            weight.detach().copy_(values)


def describe_together(
    network: RetrievalNetwork,
    requests: Sequence[ImageRequest],
    config: ExtractConfig,
    *,
    device: str,
    workers: int,
    inputs: Inputs,
    desc: str = "describe",
) -> Described:
    """As `describe`; each rank describes its share, and has the descriptors of all in the end."""
    size = num_ranks()
    own = requests[rank() :: size]
    found = describe(network, own, config, device=device, workers=workers, inputs=inputs, desc=desc)
    if size == 1:
        return found
    parts = of_all(found)
    positions = np.concatenate([part.positions * size + number for number, part in enumerate(parts)])
    order = np.argsort(positions)
    failures = chain.from_iterable(
        (replace(failure, position=failure.position * size + number) for failure in part.failures)
        for number, part in enumerate(parts)
    )
    vectors: Float[np.ndarray, "n d"] = np.concatenate([part.vectors for part in parts])
    return Described(
        vectors=vectors[order],
        positions=positions[order],
        failures=tuple(sorted(failures, key=lambda failure: failure.position)),
    )


def _together(exchange: Callable[[], object]) -> None:
    try:
        exchange()
    except RuntimeError as error:  # of gloo and NCCL alike
        raise OtherRanksGone(
            f"training, rank {rank()} of {num_ranks()}: expected all ranks to go on, got "
            f"'{str(error).splitlines()[0]}'; see what the others said, and run the same command again to "
            "continue"
        ) from error
