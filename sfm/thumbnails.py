"""Thumbnails in a column of Parquet files, beside the facts of their photos: read and written in blocks."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, UInt8

from groundwork.arrays import slices
from groundwork.files import create_array, release
from groundwork.photos import THUMBNAIL_PX

_COLUMN = "thumbnail"
_BYTES = THUMBNAIL_PX**2
_ROWS = 65_536


class Source(NamedTuple):
    """A file of `write_with_thumbnails`, some of its rows, rising, and the places of their thumbnails."""

    file: Path
    rows: Int[np.ndarray, " k"]
    places: Int[np.ndarray, " k"]


def no_thumbnails(number: int) -> UInt8[np.ndarray, "n p"]:
    """Black ones, for files that are no photos."""
    return np.zeros((number, _BYTES), dtype=np.uint8)


def write_with_thumbnails(path: Path, table: pd.DataFrame, thumbnails: UInt8[np.ndarray, "n p"]) -> None:
    """Write a table as Parquet, without its index and with a thumbnail for each row.

    Of `thumbnails` that are a memory map a block is in memory at a time.
    """
    kind = pa.binary(_BYTES)
    facts = pa.Table.from_pandas(table, preserve_index=False)
    with pq.ParquetWriter(path, facts.schema.append(pa.field(_COLUMN, kind))) as file:
        for part in list(slices(len(facts), _ROWS)) or [slice(0, 0)]:
            block = np.ascontiguousarray(thumbnails[part])
            pixels = pa.FixedSizeBinaryArray.from_buffers(kind, len(block), [None, pa.py_buffer(block)])
            file.write_table(facts[part].append_column(_COLUMN, pixels))
            release(thumbnails)


def gather_thumbnails(path: Path, number: int, sources: Iterable[Source]) -> UInt8[np.ndarray, "n p"]:
    """A memory map in a new file at `path` with the thumbnails of all sources, black where none has one."""
    if not number:
        return no_thumbnails(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    gathered = create_array(path, (number, _BYTES), np.uint8)
    for source in sources:
        _copy_rows(source, gathered)
        release(gathered)
    gathered.flush()
    return gathered


def _copy_rows(source: Source, gathered: UInt8[np.ndarray, "n p"]) -> None:
    start = 0
    with pq.ParquetFile(source.file) as file:
        for batch in file.iter_batches(_ROWS, columns=[_COLUMN]):
            part = slice(*np.searchsorted(source.rows, [start, start + len(batch)]))
            column = batch.column(0)
            pixels = np.frombuffer(column.buffers()[1], dtype=np.uint8).reshape(-1, _BYTES)[column.offset :]
            gathered[source.places[part]] = pixels[source.rows[part] - start]
            start += len(batch)
