"""Batches of items: what one task works on, and what comes of it."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from groundwork.child import UNLIMITED, Limits

Item = TypeVar("Item")
# A child with our libraries loaded and next to no data: what a task needs that says nothing else.
CHILD_BYTES = 200_000_000


@dataclass(frozen=True, kw_only=True)
class Batch(Generic[Item]):
    """Items worked on together by one task.

    Attributes:
        name: unique among the batches of a folder; its record is `folder`/done/`name`.json.
        key: stands for everything that decides the outcome.
        items: handed to the function.
        memory_bytes: estimated peak of the resident memory, by which the number of tasks at a time is chosen.
        limits: at which the task is ended. A task of several items that reaches one is halved, an item that
            reaches one alone is quarantined.

    """

    name: str
    key: str
    items: tuple[Item, ...]
    memory_bytes: int = CHILD_BYTES
    limits: Limits = UNLIMITED


class LazyBatches(Sequence[Batch[Item]]):
    """Batches that are put together when they are asked for: memory holds few at a time."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, number: int, /) -> Batch[Item]:
        """The batch of a number from 0 up to the length."""

    @overload
    def __getitem__(self, number: int) -> Batch[Item]: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Batch[Item]]: ...
    def __getitem__(self, number: int | slice) -> Batch[Item] | Sequence[Batch[Item]]:
        if isinstance(number, slice):
            return [self.batch(each) for each in range(*number.indices(len(self)))]
        if number >= len(self):
            raise IndexError(number)
        return self.batch(number)


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """What one batch gave, in whichever run it was done.

    Attributes:
        name: of the batch.
        facts: what the function said.
        outputs: its files.
        quarantined: position of each item that kills its worker or reaches a limit -> the reason.
        cpu_seconds: processor time of the task.
        peak_bytes: resident memory of its process at most.
        retries: further times the whole batch was tried because its worker died.

    """

    name: str
    facts: dict[str, Any]
    outputs: tuple[Path, ...]
    quarantined: dict[int, str]
    cpu_seconds: float
    peak_bytes: int
    retries: int


# Takes a batch, writes files below the folder of the run, returns JSON-able facts and the files it wrote.
BatchFunction = Callable[[Batch[Item]], tuple[dict[str, Any], Sequence[Path]]]
