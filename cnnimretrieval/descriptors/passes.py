"""Inputs through a network: on a CPU several batches at a time, each in a thread; on a GPU one by one."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from cnnimretrieval.descriptors.halves import Parts, stacked
from groundwork.ahead import in_order
from groundwork.memory import Slack

# A row, and what the network is given for it.
Input = tuple[int, Parts]
Result = TypeVar("Result")
Describe = Callable[[list[Shaped[Tensor, "b _ _ _"]]], Float[Tensor, "b d"]]

# Inputs that wait for others of their size, as a multiple of the batch: what bounds memory when all sizes
# differ.
_WAITING_BATCHES = 4
# Memory that was given back and is wanted again costs up to a second for a GB.
_slack = Slack(1 << 29)


def one_by_one(inputs: Iterable[Input]) -> Iterator[list[Input]]:
    """Yield each alone: a descriptor depends on its picture alone then, to the last bit."""
    return ([one] for one in inputs)


def in_batches(inputs: Iterable[Input], batch_size: int) -> Iterator[list[Input]]:
    """Yield inputs of equal shapes together, which depends on their order alone.

    A full batch leaves at once, the fullest one when too many inputs wait.
    """
    waiting: dict[tuple[torch.Size, ...], list[Input]] = {}
    num_waiting = 0
    for row, parts in inputs:
        shapes = tuple(part.shape for part in parts)
        waiting.setdefault(shapes, []).append((row, parts))
        num_waiting += 1
        if len(waiting[shapes]) < batch_size:
            if num_waiting < _WAITING_BATCHES * batch_size:
                continue
            shapes = max(waiting, key=lambda other: len(waiting[other]))
        batch = waiting.pop(shapes)
        num_waiting -= len(batch)
        yield batch
    yield from waiting.values()


def described(
    batches: Iterable[list[Input]], describe: Describe, *, threads: bool
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield the rows of each batch with their descriptors, in order.

    With `threads` each batch is made by one thread (see `in_threads`), else by as many as there are.
    """

    def made(batch: list[Input]) -> tuple[list[int], Tensor]:
        return [row for row, _ in batch], describe(stacked([parts for _, parts in batch]))

    jobs = (partial(made, batch) for batch in batches)
    return in_threads(jobs) if threads else (job() for job in jobs)


def in_threads(jobs: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    """Yield what each job returns, in order; as many are at work as torch has threads, each in one.

    Libraries compute in other ways, with other roundings, for other numbers of threads; and no thread waits
    for another. What is freed on the way is given back once it is much.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _, done in in_order(pool.submit, jobs, threads + 1):
                yield done.result()
                _slack.settle()
    finally:
        torch.set_num_threads(threads)  # also of threads that are yet to come
