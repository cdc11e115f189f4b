"""Several processes (ranks) at one piece of work, as `torchrun` starts them.

Rank 0 leads: it does what one process can do, and has all take part in what more can do together. In a
training each describes its share of the photos; descriptors and gradients are handed to all, so every rank
comes to the same loss, and takes the same step. Rank 0 alone writes results; the others read them.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Value = TypeVar("Value")
# How long a rank waits for the others, who may be at work that is theirs alone.
_WAIT = timedelta(minutes=30)
# How long the others wait for rank 0 to call them: it may reconstruct a large collection before.
_IDLE = timedelta(days=30)


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


def is_follower() -> bool:
    """Whether `torchrun` started this process as another than rank 0."""
    return os.environ.get("RANK", "0") != "0"


class _Led:
    """How things stand in a block of `led`.

    `calls` is the group by which rank 0 calls the others; `together` whether it did, and a task is going on;
    `broken` whether one ended by an error here, while the others may still be at it.
    """

    calls: Any = None
    device: str = ""
    together: bool = False
    broken: bool = False


@contextmanager
def led(device: str) -> Iterator[str | None]:
    """Join the ranks as `joined` does, and yield the device of rank 0, which goes on alone.

    The others do what rank 0 asks for by `on_all` until it leaves the block, and get None: nothing is left
    for them to do. Outside of such tasks rank 0 is the only one for all that is asked here.
    """
    with joined(device) as own:
        if num_ranks() == 1:
            yield own
            return
        leads = is_first()
        _Led.calls, _Led.device = dist.new_group(backend="gloo", timeout=_IDLE), own
        try:
            if leads:
                try:
                    yield own
                finally:
                    # The others end well, so that an error is told once, by the rank that had it.
                    if not _Led.broken:
                        _called(None)
                return
            while (task := _called(None)) is not None:
                _take_part(task)
            yield None
        finally:
            _Led.calls, _Led.broken = None, False


def on_all(task: Callable[..., Value], device: str) -> Value:
    """What `task` gives here when all ranks do it at the same time, each with its own `device`.

    Rank 0 calls; in the block of `led` the task, which is pickled, goes to all others. Else it is done here.
    """
    if _Led.calls is None or _Led.together:
        return task(device=device)
    _called(task)
    return _take_part(task)


def _take_part(task: Callable[..., Value]) -> Value:
    _Led.together, _Led.broken = True, True
    try:
        result = task(device=_Led.device)
        _Led.broken = False
        return result
    finally:
        _Led.together = False


def _called(task: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """What rank 0 calls for, None when it has done."""
    said = [task]
    _together(lambda: dist.broadcast_object_list(said, src=0, group=_Led.calls))
    return said[0]


def num_on_call() -> int:
    """Ranks that would do a task of `on_all`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def num_ranks() -> int:
    """Processes at work together now; 1 unless they were joined."""
    alone = _Led.calls is not None and not _Led.together
    return 1 if alone else num_on_call()


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


def _together(exchange: Callable[[], object]) -> None:
    try:
        exchange()
    except RuntimeError as error:  # of gloo and NCCL alike
        raise OtherRanksGone(
            f"rank {dist.get_rank()} of {num_on_call()}: expected all ranks to go on, got "
            f"'{str(error).splitlines()[0]}'; see what the others said, and run the same command again to "
            "continue"
        ) from error
