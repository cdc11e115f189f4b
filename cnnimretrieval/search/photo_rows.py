"""Photos with several descriptors: the best of a photo's rows is its score, and each photo is found once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from groundwork.shards import Rows
from groundwork.top_k import Nearest, Ranking, search


@dataclass(frozen=True, kw_only=True, eq=False)
class PhotoRows:
    """Which rows of a database describe the same photo: `first_row[r]` is the first row of the photo of r."""

    first_row: Int[np.ndarray, " n"]

    @classmethod
    def of_names(cls, names: "pd.Series[str]") -> "PhotoRows":
        """Rows of one name are of one photo."""
        number, _ = pd.factorize(names)
        _, first = np.unique(number, return_index=True)
        return cls(first_row=first[number].astype(np.int64))

    @classmethod
    def below_each_other(cls, of_each: "Sequence[PhotoRows | int]") -> "PhotoRows":
        """Those of several databases in one; a number stands for so many photos of one row each."""
        parts, start = [], 0
        for one in of_each:
            first_row = np.arange(one) if isinstance(one, int) else one.first_row
            parts.append(start + first_row)
            start += len(first_row)
        return cls(first_row=np.concatenate(parts))

    @cached_property
    def photos(self) -> Int[np.ndarray, " p"]:
        """The first row of every photo, rising."""
        return np.unique(self.first_row)

    @cached_property
    def most(self) -> int:
        """Rows of a photo at most."""
        return int(np.bincount(self.first_row).max())

    def best(self, query: Float[np.ndarray, " d"], photo: int, database: Float[np.ndarray, "n d"]) -> int:
        """The row nearest to the query of the photo whose first row is `photo`."""
        rows = np.flatnonzero(self.first_row == photo)
        return int(rows[np.argmax(np.asarray(database[rows], np.float32) @ query)])


class ByPhoto:
    """Ranks photos in place of rows: each by the best of its rows, which stands for it in the ranking.

    Equal scores by rising row, as the search below it has them; whether that is exact, the ranking is.
    """

    def __init__(self, photo_rows: PhotoRows, database: Rows, nearest: Nearest | None = None) -> None:
        self.photo_rows = photo_rows
        self._nearest = nearest or (lambda queries, top: search(queries, database, top))

    def __call__(self, queries: Float[np.ndarray, "q d"], top: int) -> Ranking:
        """The `top` best photos of each query, fewer where there are fewer."""
        first_row = self.photo_rows.first_row
        count = min(top, len(self.photo_rows.photos))
        # Whatever the others have before it, the best row of the last photo is not further down than that.
        deep = self._nearest(queries, min(len(first_row), (count - 1) * self.photo_rows.most + 1))
        rows = np.empty((len(queries), count), np.int64)
        scores = np.empty((len(queries), count), np.float32)
        for query, (its_rows, its_scores) in enumerate(zip(deep.rows, deep.scores, strict=True)):
            _, places = np.unique(first_row[its_rows], return_index=True)
            best = np.sort(places)[:count]
            rows[query], scores[query] = its_rows[best], its_scores[best]
        return Ranking(rows=rows, scores=scores)
