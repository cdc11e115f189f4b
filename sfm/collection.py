"""Stage: a folder of files to the list of usable photos, with a reason for each file that is none."""

import shutil
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int

from groundwork.batches import CHILD_BYTES
from groundwork.executors import Guarded
from groundwork.files import read_table
from groundwork.folder import list_files
from groundwork.keys import key_of, key_of_table
from groundwork.memory import give_back
from groundwork.names import counted
from groundwork.records import finish, last_done, load_done
from sfm.inspection import COLUMNS, TABLE, THUMBNAILS, ScanConfig, inspect_files, typed
from sfm.nearcopies import near_copies
from sfm.numbering import by_precedence, number, without_copies
from sfm.thumbnails import write_with_thumbnails

_VERSION = 4
_SEARCHED_BYTES = 1000
Rows = Int[np.ndarray, " n"]


@dataclass(frozen=True, kw_only=True)
class Collection:
    """The files found in a folder.

    Attributes:
        photos: absolute path of the folder.
        table: one row per file, sorted by name: `name, status (usable|duplicate|rejected), reason, sha256,
            width, height (stored pixels), orientation (EXIF, 1..8), focal_px, camera, latitude,
            longitude (degrees), image_id (1.. for usable photos, else 0), size (bytes), modified_ns`.
        key: changes with the usable photos' names, bytes or numbers, and with nothing else.

    """

    photos: Path
    table: pd.DataFrame
    key: str

    @property
    def usable(self) -> pd.DataFrame:
        """The usable photos, row r holding image_id r + 1."""
        return self.of_usable(*self.table.columns)

    def of_usable(self, *columns: str) -> pd.DataFrame:
        """Some columns of `usable`: all of them take a quarter of a gigabyte for a million photos."""
        image_id = self.table["image_id"].to_numpy()
        order = np.argsort(image_id, kind="stable")[np.count_nonzero(image_id == 0) :]
        return self.table[list(columns)].iloc[order].reset_index(drop=True)


def scan(photos: Path, out: Path, config: ScanConfig, executor: Executor) -> Collection:
    """List every file below `photos`, decode each, and write `out`/collection.parquet.

    Byte-identical files are used once, under the first name, which changes no model. Of near-copies
    (`sfm.nearcopies`) a known photo is used, else the largest; the others are listed as duplicates of it.
    `groundwork.folder` says which files there are; `out` itself is left out where it lies below `photos`.

    Usable photos are numbered in order of content (`sfm.numbering`). When photos are added later, known ones
    keep their image_id, under any name, and new ones are numbered after them, in order of content. Where a
    known usable photo is gone or its bytes changed, all are numbered afresh. Only files of a new name, size
    or time are decoded again.

    FileNotFoundError and NotADirectoryError when there is no such folder, ValueError when no photo in it is
    usable.
    """
    require_folder(photos)
    photos, started = photos.resolve(), time.perf_counter()
    found = list_files(photos, leave_out=out.resolve())
    settings = key_of("scan", _VERSION, str(photos), config)
    key = key_of(settings, key_of_table(found))
    path = out / TABLE
    if not load_done(out, "scan", key):
        before = _last_table(out, path, settings)
        table, thumbnails, took = inspect_files(found, before, photos, out, config, settings, executor)
        table = number(table, before)[list(COLUMNS)]
        _require_usable(photos, table)
        near = 0
        if config.near_copies:
            search = partial(_search_near_copies, out / THUMBNAILS, executor)
            table, near = _without_near_copies(table, before, search)
        del found, before  # of a million files each takes a quarter of a gigabyte
        finish(
            out,
            "scan",
            key,
            path,
            partial(write_with_thumbnails, table=table, thumbnails=thumbnails),
            seconds=time.perf_counter() - started,
            facts={"files": len(table)} | dict(Counter(table["status"])) | {"near-copies": near} | took,
            basis={"settings": settings},
        )
        del table, thumbnails
        shutil.rmtree(out / "scan", ignore_errors=True)  # all of it is in the table
    collection = Collection(photos=photos, table=read_table(path, list(COLUMNS)), key="")
    key = key_of_table(collection.of_usable("name", "sha256"))
    give_back()
    return replace(collection, key=key)


def require_folder(photos: Path) -> None:
    """Raise FileNotFoundError or NotADirectoryError unless `photos` is a folder."""
    if not photos.exists():
        raise FileNotFoundError(f"photos: expected a folder, got {photos}, which is missing; check the path")
    if not photos.is_dir():
        raise NotADirectoryError(
            f"photos: expected a folder, got the file {photos}; name the folder it is in"
        )


def _require_usable(photos: Path, table: pd.DataFrame) -> None:
    if (table["status"] == "usable").any():
        return
    got = f"{len(table)} files ({counted(table['reason'])})" if len(table) else "an empty folder"
    raise ValueError(f"photos {photos}: expected at least one readable photo, got {got}; check the path")


def _last_table(out: Path, path: Path, settings: str) -> pd.DataFrame:
    """What the last scan of this folder with these settings found; no rows where there was none."""
    record = last_done(out, "scan")
    if record and record.basis.get("settings") == settings:
        return read_table(path, list(COLUMNS))
    return typed(pd.DataFrame(columns=list(COLUMNS)))


def _without_near_copies(
    table: pd.DataFrame, before: pd.DataFrame, search: Callable[[Rows, int], Rows]
) -> tuple[pd.DataFrame, int]:
    """The table with near-copies told as duplicates, and their number; `search` is `near_copies`."""
    rows, num_known = by_precedence(table, before)
    original = search(rows, num_known)
    copies = np.flatnonzero(original != np.arange(len(rows)))
    return without_copies(table, rows[copies], rows[original[copies]]), len(copies)


def _search_near_copies(file: Path, executor: Executor, rows: Rows, num_known: int) -> Rows:
    """`near_copies` as a task: what it holds on the way, a kilobyte a photo, is not this process's."""
    memory_bytes = CHILD_BYTES + _SEARCHED_BYTES * len(rows)
    task = Guarded(fn=_near_copies_in, memory_bytes=memory_bytes)
    found: Rows = executor.submit(task, file, rows, num_known).result()
    return found


def _near_copies_in(file: Path, rows: Rows, num_known: int) -> Rows:
    return near_copies(np.load(file, mmap_mode="r"), rows, num_known)
