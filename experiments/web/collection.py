"""The photos that are served: those that a folder of descriptors names, below one folder and nowhere else."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from stat import S_ISREG

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from cnnimretrieval.descriptors.images import Box
from cnnimretrieval.search.photo_rows import PhotoRows
from experiments.web.faults import RequestFault
from groundwork.descriptor_folder import BOX
from groundwork.names import printable


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """Descriptors and the photos they describe. Row r of all is one photo, or a box of one.

    Where `photo_rows` says that a photo has several, the first stands for it wherever photos are shown.
    `version` changes with the descriptors: addresses of pictures carry it, so that browsers may keep them.
    """

    photos: Path
    vectors: Float[np.ndarray, "n d"]
    images: pd.DataFrame
    version: str
    photo_rows: PhotoRows | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    @cached_property
    def shown(self) -> Int[np.ndarray, " p"]:
        """The rows that photos are shown by, rising."""
        return np.arange(len(self)) if self.photo_rows is None else self.photo_rows.photos

    @cached_property
    def names(self) -> list[str]:
        """The name of each row."""
        return list(self.images["name"])

    @cached_property
    def _boxes(self) -> Float[np.ndarray, "n 4"]:
        return self.images[list(BOX)].to_numpy(np.float64)

    @cached_property
    def _rows(self) -> dict[str, int]:
        """The first row of each name, of the whole photo where there is one."""
        found: dict[str, int] = {}
        boxed = ~np.isnan(self._boxes[:, 0])
        for row in (*np.flatnonzero(~boxed).tolist(), *np.flatnonzero(boxed).tolist()):
            found.setdefault(self.names[row], row)
        return found

    @cached_property
    def _root(self) -> Path:
        return self.photos.resolve()

    def box(self, row: int) -> Box | None:
        """The part of the photo that a row describes; None for the whole."""
        x1, y1, x2, y2 = self._boxes[row].tolist()
        return None if np.isnan(x1) else (x1, y1, x2, y2)

    def row_of(self, name: str, field: str = "name") -> int:
        """The row of a name; RequestFault for one that is not in the collection."""
        row = self._rows.get(name)
        if row is None:
            raise RequestFault(
                field,
                f"{field}: expected the name of a photo of this collection, got '{printable(name[:200])}'; "
                "take it from a result",
                404,
            )
        return row

    def checked(self, row: int, field: str = "row") -> int:
        """`row`, if there is one of that number; RequestFault otherwise."""
        if not 0 <= row < len(self):
            raise RequestFault(
                field, f"{field}: expected a number from 0 to {len(self) - 1}, got {row}; start anew", 404
            )
        return row

    def path(self, row: int) -> Path:
        """The file of a row, without links in it.

        RequestFault where the photo is gone, or lies outside the collection: a name, or a link on the way,
        that leads out.
        """
        shown = printable(self.names[row])
        try:
            found = (self._root / self.names[row]).resolve(strict=True)
            regular = S_ISREG(os.stat(found, follow_symlinks=False).st_mode)
        except (OSError, ValueError):
            raise RequestFault(
                "photo", f"photo '{shown}': expected a file, got none: it is gone since; extract again", 404
            ) from None
        if not found.is_relative_to(self._root) or not regular:
            raise RequestFault(
                "photo", f"photo '{shown}': expected a file of the collection, got one outside of it", 403
            )
        return found

    def state(self, row: int) -> str:
        """Why the picture of a row cannot be shown; nothing when it can."""
        try:
            self.path(row)
        except RequestFault as fault:
            return "outside the collection" if fault.status == 403 else "deleted since"
        return ""

    def matching(self, text: str) -> Int[np.ndarray, " m"]:
        """The rows whose names contain a text, in any case."""
        wanted = text.casefold()
        found = [row for row in self.shown.tolist() if wanted in self.names[row].casefold()]
        return np.array(found, np.int64)

    def rows_named(self, names: Iterable[str], field: str) -> tuple[int, ...]:
        """The rows of several names."""
        return tuple(self.row_of(name, field) for name in names)
