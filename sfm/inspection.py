"""What files that may be photos hold: each decoded once, in a child, for a reason against it or its facts."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict
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

from groundwork.batches import Batch, BatchResult, LazyBatches
from groundwork.files import atomic_path
from groundwork.keys import key_of
from groundwork.photos import MAX_MEGAPIXELS, UnusablePhoto, inspect_photo
from groundwork.settings import Settings
from groundwork.tasks import run_batches, usage
from sfm.thumbnails import Source, gather_thumbnails, no_thumbnails, write_with_thumbnails

TABLE = "collection.parquet"
THUMBNAILS = Path("scan", "thumbnails.npy")
_BATCH = 128
# Of fewer files, starting a task takes a quarter of the time that reading them does.
_MIN_BATCH = 16
# Tables of batches that are kept apart: each has a cost of its own, and so has joining them.
_JOINED = 512
# What the inspection of a file finds, a reason against it or facts of the photo; with what else holds.
_FINDINGS: dict[str, Any] = {
    **{"reason": "", "sha256": "", "width": 0, "height": 0, "orientation": 1},
    **{"focal_px": np.nan, "camera": "", "latitude": np.nan, "longitude": np.nan},
}
_STAMP = {"name": "", "size": 0, "modified_ns": 0}
COLUMNS = {"name": "", "status": "", **_FINDINGS, "image_id": 0, "size": 0, "modified_ns": 0}


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


def inspect_files(
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
        sources.append(Source(out / TABLE, known[again], again))
    thumbnails = gather_thumbnails(out / THUMBNAILS, len(found), sources)
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
    table = typed(findings.combine_chunks().to_pandas(split_blocks=True, self_destruct=True))
    return table.set_axis(np.concatenate(inspected)), _without_findings(pd.Series(killers, dtype="str"))


def _without_killers(rows: Int[np.ndarray, " b"], result: BatchResult) -> Int[np.ndarray, " k"]:
    return np.delete(rows, list(result.quarantined))


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
    return typed(pd.DataFrame(_FINDINGS, index=reasons.index).assign(reason=reasons))


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a type for each column, and with what holds where nothing was found."""
    defaults = {column: COLUMNS[column] for column in map(str, table)}
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
        table = typed(pd.DataFrame(rows, columns=["name", *_FINDINGS]))
        write_with_thumbnails(unfinished, table=table, thumbnails=thumbnails)
    return {}, [path]
