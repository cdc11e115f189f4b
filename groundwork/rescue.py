"""One batch in its task; and of a batch that kills its worker, the items that do so, and all the others."""

import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic

from groundwork.batches import Batch, BatchFunction, Item
from groundwork.child import UNLIMITED, LimitReached, WorkerDied
from groundwork.executors import Guarded
from groundwork.files import require_space
from groundwork.memory import peak_bytes
from groundwork.records import StageRecord, load_done, mark_done


def task(fn: Callable[..., Any], batch: Batch[Any]) -> Guarded:
    """A function with what a batch needs and what it may take."""
    return Guarded(fn=fn, memory_bytes=batch.memory_bytes, limits=batch.limits)


def perform(
    function: BatchFunction[Item], folder: Path, poison: dict[int, str], retries: int, batch: Batch[Item]
) -> StageRecord:
    """Do what is left of a batch without its poison, and record both, all in the process of the task.

    It may be done already: its process or host was lost between the record and the answer.
    """
    if record := load_done(folder, batch.name, batch.key):
        return record
    started = time.process_time()
    facts, outputs = function(batch)
    stored = {
        "facts": facts,
        "quarantined": {str(position): reason for position, reason in sorted(poison.items())},
        "peak_bytes": peak_bytes(),
        "retries": retries,
    }
    seconds = time.process_time() - started
    return mark_done(folder, batch.name, batch.key, seconds=seconds, facts=stored, outputs=outputs)


class Rescue(Generic[Item]):
    """Finds the items of a batch that kill their worker, and does the batch without them."""

    def __init__(
        self, function: BatchFunction[Item], batch: Batch[Item], folder: Path, executor: Executor
    ) -> None:
        self._function = function
        self._batch = batch
        self._folder = folder
        self._executor = executor
        self._retries = 0
        self._poison: dict[int, str] = {}

    def run(self, death: Exception) -> StageRecord:
        """Do the batch, whose first try ended by `death`."""
        require_space(self._folder)  # a full disk kills workers too, and is no fault of the items
        while True:
            if isinstance(death, LimitReached):
                # It would end the same way. Parts that keep to the limits may pass them together.
                unlimited = replace(self._batch, limits=UNLIMITED)
            else:
                unlimited = self._batch
                self._retries += 1
                outcome = self._perform(self._batch)
                if isinstance(outcome, StageRecord):
                    return outcome
                death = outcome
            kept = [row for row in range(len(self._batch.items)) if row not in self._poison]
            before = len(self._poison)
            self._halve(kept, _reason(death))
            require_space(self._folder)
            if len(self._poison) == before and unlimited is self._batch:
                self._poison |= dict.fromkeys(kept, _reason(death))  # only together do they die
            outcome = self._perform(unlimited)
            if isinstance(outcome, StageRecord):
                return outcome
            if not kept:
                raise outcome
            death = outcome

    def _halve(self, positions: list[int], reason: str) -> None:
        """Find the poison among items that died for this reason when they were together."""
        if len(positions) == 1:
            self._poison[positions[0]] = reason
            return
        middle = len(positions) // 2
        for half in (positions[:middle], positions[middle:]):
            if half and (why := self._cause_of_death(half)):
                self._halve(half, why)

    def _cause_of_death(self, positions: list[int]) -> str:
        trial = replace(self._batch, items=tuple(self._batch.items[position] for position in positions))
        try:
            self._executor.submit(task(self._function, self._batch), trial).result()
        except (WorkerDied, MemoryError) as death:
            return _reason(death)
        return ""

    def _perform(self, batch: Batch[Item]) -> StageRecord | Exception:
        # Trials wrote their part over the batch's files: the last run is always one with all that is kept.
        kept = tuple(item for position, item in enumerate(batch.items) if position not in self._poison)
        arguments = (self._function, self._folder, self._poison, self._retries, replace(batch, items=kept))
        try:
            record: StageRecord = self._executor.submit(task(perform, batch), *arguments).result()
        except (WorkerDied, MemoryError) as death:
            return death
        return record


def _reason(death: Exception) -> str:
    return str(death) or "out of memory"
