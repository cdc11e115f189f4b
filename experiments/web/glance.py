"""The collection at a glance: its places, a map of its photos, near-copies."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.overview import groups, layout
from experiments.overview.groups import Group
from experiments.overview.plot import Map, spread
from experiments.web import copies
from experiments.web.collection import Served
from experiments.web.faults import RequestFault
from groundwork.child import Limits, WorkerDied, preload
from groundwork.executors import Guarded
from groundwork.files import read_table

logger = logging.getLogger(__name__)

# Every photo is compared with every other, which takes the square of their number.
_MOST_COMPARED = 50_000
_LIMITS = Limits(seconds=600.0, memory_bytes=3_000_000_000)

# Near-copies are looked for once and with tables, whose weight every other child would carry.
preload(layout.__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Glance:
    """Places, and what child processes find out once, when it is first asked for: the map, near-copies."""

    served: Served
    places: tuple[Group, ...]
    folder: Path
    executor: Executor
    _begun: dict[str, "asyncio.Task[Any]"] = field(default_factory=dict)

    async def map(self) -> Map:
        """The map of all photos, or of so many spread evenly over the collection."""
        found: Map = await self._once("map", self._lay_out)
        return found

    async def copies(self) -> tuple[Group, ...]:
        """Groups of near-copies, of all photos."""
        found: tuple[Group, ...] = await self._once("copies", self._look_for_copies)
        return found

    async def _once(self, name: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """The result of `work`, which is done again only after it failed."""
        begun = self._begun.get(name)
        if begun is None or (begun.done() and begun.exception() is not None):
            begun = self._begun[name] = asyncio.create_task(work())
        return await asyncio.shield(begun)

    async def _look_for_copies(self) -> tuple[Group, ...]:
        if len(self.served.shown) > _MOST_COMPARED:
            raise RequestFault(
                "",
                f"near-copies: expected at most {_MOST_COMPARED:,} photos to compare here, got "
                f"{len(self.served.shown):,}; cnnimretrieval duplicates {self.folder} lists them",
            )
        task = Guarded(fn=copies.groups_of_copies, memory_bytes=500_000_000, limits=_LIMITS)
        found = await self._by_child(task, self.folder, self.served.photos)
        return groups.numbered([self.served.row_of(name) for name in names] for names in found)

    async def _by_child(self, task: Guarded, *arguments: Any) -> Any:
        try:
            return await asyncio.wrap_future(self.executor.submit(task, *arguments))
        except (WorkerDied, MemoryError, ValueError) as fault:
            raise RequestFault("", f"expected it to be found out, got '{fault}'; try again", 503) from fault

    async def _lay_out(self) -> Map:
        rows = spread(self.served.shown)
        vectors = np.asarray(self.served.vectors[rows], np.float32)
        task = Guarded(fn=layout.lay_out, memory_bytes=500_000_000, limits=_LIMITS)
        positions, method = await self._by_child(task, vectors)
        return Map(rows=rows, positions=positions, method=method)


def read_places(work: Path, served: Served) -> tuple[Group, ...]:
    """The places of a run, largest first, as far as the collection has their photos."""
    table = read_table(work / "sfm" / "images.parquet", ["name", "place"])
    row_of: Mapping[str, int] = {name: row for row, name in reversed(list(enumerate(served.names)))}
    return groups.places(zip(table["name"].tolist(), table["place"].tolist(), strict=True), row_of)
