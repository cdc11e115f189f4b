"""Descriptors in several arrays, memory maps most often, searched as one and read block by block."""

import mmap
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from groundwork.arrays import starts_of
from groundwork.files import release

# What is read of a map this small stays mapped: opening it anew for every search would take as long again as
# the search. Its pages then count as this process's memory, once.
_KEPT_BYTES = 1 << 28


class Shards:
    """The rows of `parts`, one below the other, without copying them: (n, d) in all.

    It is indexed like an array: by a slice of rows or by an array of them, which copies those rows.
    ValueError when there is no part or the parts' descriptors differ in length.
    """

    ndim = 2

    def __init__(self, parts: Sequence["Rows"]) -> None:
        if not parts:
            raise ValueError("shards: expected at least one array, got none; give one")
        for part in parts:
            if part.ndim != 2 or part.shape[1] != parts[0].shape[1]:
                raise ValueError(
                    f"shards: expected descriptors (n, d) of one length d, got {parts[0].shape} and "
                    f"{part.shape}; describe all of them with the same network and whitening"
                )
        self.parts = tuple(parts)
        self._starts = starts_of(parts)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return int(self._starts[-1]), self.parts[0].shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Int[np.ndarray, " r"]) -> Float[np.ndarray, "r d"]:
        if isinstance(rows, slice):
            return self._slice(*rows.indices(len(self))[:2])
        found = np.empty((*rows.shape, self.shape[1]), np.float32)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for index in np.unique(owner):
            inside = owner == index
            found[inside] = self.parts[index][rows[inside] - self._starts[index]]
        return found

    def _slice(self, start: int, stop: int) -> Float[np.ndarray, "r d"]:
        whole_bytes = len(self) * self.shape[1] * np.dtype(np.float32).itemsize
        pieces = [
            read_block(part, max(start, first) - first, min(stop, last) - first, whole_bytes)
            for part, (first, last) in zip(self.parts, pairwise(self._starts.tolist()), strict=True)
            if max(start, first) < min(stop, last)
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [np.empty((0, self.shape[1]))])


class Selection:
    """Some rows of an array in an order of their own, copied only when they are read.

    What a memory map keeps in memory of what was read is let go of at once.
    """

    ndim = 2

    def __init__(self, array: Float[np.ndarray, "n d"], rows: Int[np.ndarray, " r"]) -> None:
        self.array = array
        self.rows = rows

    @property
    def shape(self) -> tuple[int, int]:
        """(r, d)."""
        return len(self.rows), self.array.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | Int[np.ndarray, " r"]) -> Float[np.ndarray, "r d"]:
        selected: np.ndarray = self.array[self.rows[rows]]
        release(self.array)
        return selected


Rows: TypeAlias = Float[np.ndarray, "n d"] | Shards | Selection


def blocks(database: Rows, size: int) -> Iterator[tuple[int, Float[np.ndarray, "b d"]]]:
    """First row and rows, float32, of every `size` rows of `database`."""
    for start in range(0, len(database), size):
        stop = min(start + size, len(database))
        yield start, np.asarray(read_block(database, start, stop), np.float32)


def read_block(database: Rows, start: int, stop: int, whole_bytes: int = 0) -> Float[np.ndarray, "b d"]:
    """The rows from `start` up to `stop`; `whole_bytes` are those of all that it is a part of, if it is one.

    Those of a large memory map come as a map of their own: the system counts the pages that were read through
    a map as this process's memory until the map is closed, so reading a large file through one map would
    fill it.
    """
    # A part of a map has the offset of the whole one in its attributes: only whole ones are read so.
    if not (isinstance(database, np.memmap) and isinstance(database.base, mmap.mmap)):
        return database[start:stop]
    if database.filename is None or not database.flags.c_contiguous:
        return database[start:stop]
    if max(database.nbytes, whole_bytes) <= _KEPT_BYTES:
        return database[start:stop]
    row_bytes = database.shape[1] * database.itemsize
    shape = (stop - start, database.shape[1])
    offset = database.offset + start * row_bytes
    return np.memmap(database.filename, database.dtype, "r", offset=offset, shape=shape)
