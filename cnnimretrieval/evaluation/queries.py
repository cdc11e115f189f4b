"""The queries that mining drew, as pictures to describe and as truths in the situations that users are in.

A person searches among other photos than the network was fitted to, or among the very photos it was, for
places that it learned from or not. Whitening alone makes these differ by more than training gains, so each is
a situation of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from cnnimretrieval.descriptors.distort import Relit
from cnnimretrieval.descriptors.images import Edit, ImageRequest
from cnnimretrieval.descriptors.retake import Retaken
from pairs.heldout import HeldoutQuery, Kind, Purpose
from pairs.pair_table import PairTable

# unseen_database: neither the place nor any photo searched was fitted to.
# own_collection: all photos searched were, the place without its pairs.
# own_places: the place was trained on; the crops are new.
SituationName = Literal["unseen_database", "own_collection", "own_places"]

Rows = Int[np.ndarray, " r"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Situation:
    """Which queries are asked (numbers in the set), which rows of the table are searched: None for all."""

    name: SituationName
    queries: Rows
    database: Rows | None

    def searched(self, database: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "k d"]:
        """Of the descriptors of the whole table those that are searched."""
        return database if self.database is None else database[self.database]


@dataclass(frozen=True, kw_only=True, eq=False)
class QuerySet:
    """The queries with what they are asked of."""

    queries: tuple[HeldoutQuery, ...]
    requests: tuple[ImageRequest, ...]
    table: PairTable

    def situations(self, purpose: Purpose) -> tuple[Situation, ...]:
        """Those there are queries of, the one that decides first.

        Distractors of held-out places are all held-out photos; but choices see none of reported places.
        """
        table = self.table
        of_purpose = np.array([query.purpose == purpose for query in self.queries], np.bool_)
        is_held_out = table.is_val[self._rows]
        unseen = table.is_val & ((purpose == "report") | table.is_choosing | (table.place < 0))
        asked = {
            "held out": np.flatnonzero(of_purpose & is_held_out),
            # Networks are never chosen by places that they were trained on; only whitening's shares are.
            "trained on": np.flatnonzero(of_purpose & ~is_held_out & (purpose == "report")),
        }
        found = (
            Situation(name="unseen_database", queries=asked["held out"], database=np.flatnonzero(unseen)),
            Situation(name="own_collection", queries=asked["held out"], database=None),
            Situation(name="own_places", queries=asked["trained on"], database=None),
        )
        return tuple(situation for situation in found if len(situation.queries))

    def truth(self, number: int, situation: Situation) -> tuple[Rows, Rows, Rows]:
        """Of one query, as positions in what is searched: near positives, far positives, junk.

        Junk is the rest of its place, the query's own photo among it.
        """
        query = self.queries[number]
        far = self._positions(query.far, situation)
        near = np.setdiff1d(self._positions(query.positives, situation), far)
        members = self._members[query.place]
        if situation.database is not None:
            members = _found(members, situation.database)
        return near, far, np.setdiff1d(members, np.concatenate([near, far]))

    def _positions(self, names: Sequence[str], situation: Situation) -> Rows:
        rows = np.sort(np.array([self._row_of[name] for name in names], np.int64))
        return rows if situation.database is None else _found(rows, situation.database)

    @cached_property
    def _rows(self) -> Rows:
        return np.array([self._row_of[query.query] for query in self.queries], np.int64)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.table.names)}

    @cached_property
    def _members(self) -> dict[int, Rows]:
        order = np.argsort(self.table.place, kind="stable")
        places, start = np.unique(self.table.place[order], return_index=True)
        return dict(zip(places.tolist(), np.split(order, start[1:]), strict=True))


def query_set(
    queries: Sequence[HeldoutQuery], table: PairTable, photos: Path, *, needed: Purpose = "report"
) -> QuerySet:
    """The queries that mining drew of the images in `table`.

    A crop is a photo of its own: cut, turned, and relit or retaken by the query's seed, and described like
    any other photo. ValueError when no query is there of the purpose that is
    `needed`.
    """
    if not any(query.purpose == needed for query in queries):
        raise ValueError(
            "held-out places: expected at least one test query, got none; "
            "add photos that overlap more, or lower pairs.heldout.min_shared_points"
        )
    requests = tuple(_request(query, photos) for query in queries)
    return QuerySet(queries=tuple(queries), requests=requests, table=table)


def edit_of(kind: Kind, seed: int) -> Edit | None:
    """What becomes of a query's picture once it is cut out."""
    edits: dict[Kind, type[Relit | Retaken]] = {"crop": Relit, "retaken": Retaken}
    return edits[kind](seed) if kind in edits else None


def _request(query: HeldoutQuery, photos: Path) -> ImageRequest:
    if query.kind == "whole":
        return ImageRequest(path=photos / query.query)
    x1, y1, x2, y2 = (float(edge) for edge in query.box)
    return ImageRequest(
        path=photos / query.query,
        box=(x1, y1, x2, y2),
        rotation_deg=query.rotation_deg,
        edit=edit_of(query.kind, query.seed),
        as_photo=True,
    )


def _found(rows: Rows, among: Rows) -> Rows:
    """Positions of `rows` in the rising `among`; those that are not there are left out."""
    position = np.searchsorted(among, rows).clip(max=len(among) - 1)
    found: Rows = position[among[position] == rows]
    return found
