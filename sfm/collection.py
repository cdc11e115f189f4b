"""Stage: a folder of files to the list of usable photos, with a reason for each file that is none."""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, UInt8
from pydantic import Field

from groundwork.batches import CHILD_BYTES, Batch, BatchResult, LazyBatches
from groundwork.executors import Guarded
from groundwork.files import atomic_path, read_table
from groundwork.folder import list_files
from groundwork.keys import key_of, key_of_table
from groundwork.memory import give_back
from groundwork.names import counted
from groundwork.photos import MAX_MEGAPIXELS, UnusablePhoto, inspect_photo
from groundwork.records import finish, last_done, load_done
from groundwork.settings import Settings
from groundwork.tasks import run_batches, usage
from sfm.nearcopies import near_copies
from sfm.numbering import by_precedence, number, without_copies
from sfm.thumbnails import Source, gather_thumbnails, no_thumbnails, write_with_thumbnails

_VERSION = 4
_BATCH = 128
# Of fewer files, starting a task takes a quarter of the time that reading them does.
_MIN_BATCH = 16
_TABLE = "collection.parquet"
_THUMBNAILS = Path("scan", "thumbnails.npy")
_SEARCHED_BYTES = 1000
Rows = Int[np.ndarray, " n"]
# Tables of batches that are kept apart: each has a cost of its own, and so has joining them.
_JOINED = 512
# What the inspection of a file finds, a reason against it or facts of the photo; with what else holds.
_FINDINGS: dict[str, Any] = {
    **{"reason": "", "sha256": "", "width": 0, "height": 0, "orientation": 1},
    **{"focal_px": np.nan, "camera": "", "latitude": np.nan, "longitude": np.nan},
}
_STAMP = {"name": "", "size": 0, "modified_ns": 0}
_COLUMNS = {"name": "", "status": "", **_FINDINGS, "image_id": 0, "size": 0, "modified_ns": 0}


class ScanConfig(Settings):
    """Which files are used as photos."""

    max_megapixels: float = Field(
        default=MAX_MEGAPIXELS, gt=0, le=MAX_MEGAPIXELS, description="larger photos are rejected undecoded"
    )
    min_side_px: int = Field(
        default=64, ge=1, description="smaller photos are rejected: nothing to match in them"
    )
    near_copies: bool = Field(
        default=True,
        description="of copies that differ in size, compression, tone or a turn only, use the largest",
    )


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
    path = out / _TABLE
    if not load_done(out, "scan", key):
        before = _last_table(out, path, settings)
        table, thumbnails, took = _inspect(found, before, photos, out, config, settings, executor)
        table = number(table, before)[list(_COLUMNS)]
        _require_usable(photos, table)
        near = 0
        if config.near_copies:
            search = partial(_search_near_copies, out / _THUMBNAILS, executor)
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
    collection = Collection(photos=photos, table=read_table(path, list(_COLUMNS)), key="")
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
        return read_table(path, list(_COLUMNS))
    return _typed(pd.DataFrame(columns=list(_COLUMNS)))


def _inspect(
    found: pd.DataFrame,
    before: pd.DataFrame,
    photos: Path,
    out: Path,
    config: ScanConfig,
    settings: str,
    executor: Executor,
) -> tuple[pd.DataFrame, UInt8[np.ndarray, "n p"], dict[str, Any]]:
    """`found` with the findings about each file, its thumbnail, and what it took (`groundwork.tasks.usage`).

    Files that were inspected before are not opened again.
    """
    known = _known_rows(found, before)
    fresh = np.flatnonzero((found["reason"] == "").to_numpy() & (known < 0))
    files = _Files(found[list(_STAMP)], fresh, settings)
    work = partial(_inspect_batch, photos=photos, folder=out / "scan", config=config)
    results = run_batches(work, files, out / "scan", executor, label="scan")
    again = np.flatnonzero(known >= 0)
    recalled = before[list(_FINDINGS)].iloc[known[again]].set_axis(again)
    duplicate = (before["status"] == "duplicate").to_numpy()[known[again]]
    recalled["reason"] = recalled["reason"].mask(duplicate, "")
    rows = [fresh[start : start + files.size] for start in range(0, len(fresh), files.size)]
    parts = [recalled, _without_findings(found.loc[found["reason"] != "", "reason"])]
    for first in range(0, len(results), _JOINED):
        parts += _joined(results[first : first + _JOINED], rows[first : first + _JOINED])
    table = pd.concat([found[list(_STAMP)], pd.concat(parts).sort_index()], axis=1)
    sources = [
        Source(path, np.arange(len(inspected)), inspected)
        for inspected, result in zip(map(_without_killers, rows, results), results, strict=True)
        for path in result.outputs
    ]
    if len(again):
        sources.append(Source(out / _TABLE, known[again], again))
    thumbnails = gather_thumbnails(out / _THUMBNAILS, len(found), sources)
    return table, thumbnails, usage(results)


def _joined(
    results: Sequence[BatchResult], rows: Sequence[Int[np.ndarray, " b"]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The findings of some batches, in columns of one piece; and the rows of what kills its worker."""
    killers = {
        int(part[position]): reason
        for part, result in zip(rows, results, strict=True)
        for position, reason in result.quarantined.items()
    }
    inspected = list(map(_without_killers, rows, results))
    paths = [path for result in results for path in result.outputs]
    findings = pa.concat_tables([pq.read_table(path, columns=list(_FINDINGS)) for path in paths])
    table = _typed(findings.combine_chunks().to_pandas(split_blocks=True, self_destruct=True))
    return table.set_axis(np.concatenate(inspected)), _without_findings(pd.Series(killers, dtype="str"))


def _without_killers(rows: Int[np.ndarray, " b"], result: BatchResult) -> Int[np.ndarray, " k"]:
    return np.delete(rows, list(result.quarantined))


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


def _known_rows(found: pd.DataFrame, before: pd.DataFrame) -> Int[np.ndarray, " n"]:
    """The row of `before` that holds each file, of the same size and time; -1 where none does."""
    stamps = before.loc[before["size"] > 0, list(_STAMP)]
    if not len(stamps):
        return np.full(len(found), -1)
    readable = found[list(_STAMP)].assign(size=found["size"].where(found["reason"] == "", 0))
    row = readable.merge(stamps.assign(row=stamps.index), how="left", on=list(_STAMP))["row"]
    return row.fillna(-1).to_numpy(dtype=np.int64)


def _without_findings(reasons: "pd.Series[str]") -> pd.DataFrame:
    """Rows of files that could not be inspected, with the reasons."""
    return _typed(pd.DataFrame(_FINDINGS, index=reasons.index).assign(reason=reasons))


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a type for each column, and with what holds where nothing was found."""
    defaults = {column: _COLUMNS[column] for column in map(str, table)}
    return table.fillna(defaults).astype({column: type(value) for column, value in defaults.items()})


class _Files(LazyBatches[str]):
    """The files to be inspected, a batch put together when it is asked for: memory holds few at a time."""

    def __init__(self, stamps: pd.DataFrame, fresh: Int[np.ndarray, " k"], settings: str) -> None:
        self._stamps, self._fresh, self._settings = stamps, fresh, settings
        self.size = min(_BATCH, max(_MIN_BATCH, ceil(len(fresh) / 64)))

    def __len__(self) -> int:
        return ceil(len(self._fresh) / self.size)

    def batch(self, number: int) -> Batch[str]:
        """The files of one batch."""
        part = self._stamps.iloc[self._fresh[number * self.size : (number + 1) * self.size]]
        key = key_of(self._settings, part.to_numpy().tolist())
        return Batch(name=f"files-{number:05d}", key=key, items=tuple(part["name"]))


def _inspect_batch(
    batch: Batch[str], *, photos: Path, folder: Path, config: ScanConfig
) -> tuple[dict[str, Any], Sequence[Path]]:
    rows: list[dict[str, Any]] = []
    thumbnails = no_thumbnails(len(batch.items))
    for position, name in enumerate(batch.items):
        try:
            photo = inspect_photo(
                photos / name, max_megapixels=config.max_megapixels, min_side_px=config.min_side_px
            )
        except UnusablePhoto as finding:
            rows.append({**_FINDINGS, "name": name, "reason": str(finding)})
        else:
            facts = asdict(photo)
            thumbnails[position] = np.frombuffer(facts.pop("thumbnail"), dtype=np.uint8)
            rows.append({**_FINDINGS, "name": name, **facts})
    path = folder / f"{batch.name}.parquet"
    with atomic_path(path) as unfinished:
        table = _typed(pd.DataFrame(rows, columns=["name", *_FINDINGS]))
        write_with_thumbnails(unfinished, table=table, thumbnails=thumbnails)
    return {}, [path]
