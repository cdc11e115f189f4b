"""The collection at a glance: its places, a map of its photos, near-copies."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from experiments.web import layout
from experiments.web.collection import Served
from experiments.web.faults import RequestFault
from groundwork.child import Limits, WorkerDied, preload
from groundwork.executors import Guarded
from groundwork.files import read_table

logger = logging.getLogger(__name__)

# Photos on the map at most: more could not be told apart, and would take minutes to lay out.
MOST_ON_MAP = 2000
_LIMITS = Limits(seconds=600.0, memory_bytes=3_000_000_000)

preload(layout.__name__)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Photos that belong together, as rows of the collection."""

    title: str
    rows: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Map:
    """Rows and where each lies in the unit square; how that was found."""

    rows: Int[np.ndarray, " m"]
    positions: Float[np.ndarray, "m 2"]
    method: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Glance:
    """Groups of photos, and the map, which is drawn once, by a child process, when it is first asked for."""

    served: Served
    places: tuple[Group, ...]
    copies: tuple[Group, ...]
    executor: Executor
    _maps: list["asyncio.Task[Map]"] = field(default_factory=list)

    async def map(self) -> Map:
        """The map of all photos, or of so many spread evenly over the collection."""
        if not self._maps or (self._maps[0].done() and self._maps[0].exception() is not None):
            self._maps[:] = [asyncio.create_task(self._lay_out())]
        return await asyncio.shield(self._maps[0])

    async def _lay_out(self) -> Map:
        n = len(self.served)
        rows = np.unique(np.linspace(0, n - 1, min(n, MOST_ON_MAP)).astype(np.int64))
        vectors = np.asarray(self.served.vectors[rows], np.float32)
        task = Guarded(fn=layout.lay_out, memory_bytes=500_000_000, limits=_LIMITS)
        try:
            positions, method = await asyncio.wrap_future(self.executor.submit(task, vectors))
        except (WorkerDied, MemoryError) as death:
            raise RequestFault("", f"map: expected it to be drawn, got '{death}'; try again", 503) from death
        return Map(rows=rows, positions=positions, method=method)


def read_places(work: Path, served: Served) -> tuple[Group, ...]:
    """The places of a run, largest first, as far as the collection has their photos."""
    table = read_table(work / "sfm" / "images.parquet", ["name", "place"])
    row_of: Mapping[str, int] = {name: row for row, name in reversed(list(enumerate(served.names)))}
    rows: dict[int, list[int]] = {}
    for name, place in zip(table["name"].tolist(), table["place"].tolist(), strict=True):
        if place >= 0 and name in row_of:
            rows.setdefault(place, []).append(row_of[name])
    groups: Sequence[tuple[int, list[int]]] = sorted(rows.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(Group(title=f"Place {place}", rows=tuple(found)) for place, found in groups)
