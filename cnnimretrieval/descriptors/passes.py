"""Pictures through a network: on a CPU each alone, several at a time; on a GPU in batches of one size."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from groundwork.ahead import in_order

Picture = tuple[int, UInt8[Tensor, "3 _ _"]]
Describe = Callable[[UInt8[Tensor, "b 3 h w"]], Float[Tensor, "b d"]]

# Photos that wait for others of their size, as a multiple of the batch: what bounds memory when all sizes
# differ.
_WAITING_BATCHES = 4


def one_by_one(pictures: Iterable[Picture], describe: Describe) -> Iterator[tuple[list[int], Tensor]]:
    """Yield the row of each picture with its descriptor, each made by one thread; in order.

    Libraries compute in other ways, with other roundings, for other numbers of threads and of pictures in a
    batch. Here a descriptor depends on its picture alone. As many pictures as torch has threads are at work
    at a time, which needs the memory of as large a batch, and no thread waits for another.
    """

    def submit(picture: Picture) -> Future[Tensor]:
        return pool.submit(describe, picture[1][None])

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # also of the threads of the pool, which are new
    try:
        with ThreadPoolExecutor(threads) as pool:
            for (row, _), descriptor in in_order(submit, pictures, threads + 1):
                yield [row], descriptor.result()
    finally:
        torch.set_num_threads(threads)


def in_batches(
    pictures: Iterable[Picture], batch_size: int, describe: Describe
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield the rows of pictures of one size with their descriptors.

    A full batch leaves at once, the fullest one when too many pictures wait.
    """
    waiting: dict[tuple[int, ...], list[Picture]] = {}
    num_waiting = 0
    for row, levels in pictures:
        size = tuple(levels.shape)
        waiting.setdefault(size, []).append((row, levels))
        num_waiting += 1
        if len(waiting[size]) < batch_size:
            if num_waiting < _WAITING_BATCHES * batch_size:
                continue
            size = max(waiting, key=lambda other: len(waiting[other]))
        group = waiting.pop(size)
        num_waiting -= len(group)
        yield _together(group, describe)
    for group in waiting.values():
        yield _together(group, describe)


def _together(group: list[Picture], describe: Describe) -> tuple[list[int], Tensor]:
    return [row for row, _ in group], describe(torch.stack([levels for _, levels in group]))
