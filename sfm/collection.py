"""Stage: a folder of files to the list of usable photos, with a reason for each file that is none."""

import os
import stat
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from math import ceil, isnan, nan
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from sfm.photo import UnusablePhoto, inspect_photo
from sfm.settings import Settings
from sfm.store import key_of, load_done, mark_done, read_table, write_table
from sfm.tasks import Batch, run_batches

_VERSION = 2
_BATCH = 128
_COLUMNS = (
    *("name", "status", "reason", "sha256", "width", "height"),
    *("orientation", "focal_px", "camera", "latitude", "longitude", "image_id"),
)
_NUMBERS = ("focal_px", "latitude", "longitude")


class ScanConfig(Settings):
    """Which files are used as photos."""

    max_megapixels: float = Field(
        default=150.0, gt=0, le=178, description="larger photos are rejected undecoded"
    )
    min_side_px: int = Field(
        default=64, ge=1, description="smaller photos are rejected: nothing to match in them"
    )


@dataclass(frozen=True, kw_only=True)
class Collection:
    """The files found in a folder.

    Attributes:
        photos: absolute path of the folder.
        table: one row per file, sorted by name: `name, status (usable|duplicate|rejected), reason, sha256,
            width, height (stored pixels), orientation (EXIF, 1..8), focal_px, camera, latitude,
            longitude (degrees), image_id (1.. in order of name for usable photos, else 0)`.
        key: changes with the usable photos' names or bytes, and with nothing else.

    """

    photos: Path
    table: pd.DataFrame
    key: str

    @property
    def usable(self) -> pd.DataFrame:
        """The usable photos, row r holding image_id r + 1."""
        return self.table[self.table["status"] == "usable"].reset_index(drop=True)


def scan(photos: Path, out: Path, config: ScanConfig, executor: Executor) -> Collection:
    """List every file below `photos`, decode each, and write `out`/collection.parquet.

    Byte-identical files are used once, under the first name. Links to files are followed, links to folders
    are listed as rejected; `out` itself is left out where it lies below `photos`. FileNotFoundError and
    NotADirectoryError when there is no such folder, ValueError when no photo in it is usable.
    """
    require_folder(photos)
    photos, started = photos.resolve(), time.perf_counter()
    found = sorted(_walk(photos, leave_out=out.resolve()), key=lambda file: file.name)
    key = key_of("scan", _VERSION, str(photos), config, [asdict(file) for file in found])
    table_path = out / "collection.parquet"
    if not load_done(out, "scan", key):
        table = _table(found, _inspect_all(found, photos, out, config, executor))
        _require_usable(photos, table)
        write_table(table_path, table)
        facts = {"files": len(table)} | dict(Counter(table["status"]))
        mark_done(out, "scan", key, seconds=time.perf_counter() - started, facts=facts, outputs=[table_path])
    table = read_table(table_path)
    usable = table[table["status"] == "usable"]
    return Collection(
        photos=photos, table=table, key=key_of(usable["name"].tolist(), usable["sha256"].tolist())
    )


@dataclass(frozen=True, kw_only=True)
class _Found:
    name: str
    size: int = 0
    modified_ns: int = 0
    reason: str = ""


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
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(table["reason"]).most_common(3))
    got = f"{len(table)} files ({reasons})" if len(table) else "an empty folder"
    raise ValueError(f"photos {photos}: expected at least one readable photo, got {got}; check the path")


def _walk(photos: Path, leave_out: Path) -> Iterator[_Found]:
    unreadable: list[OSError] = []
    for folder, subfolders, files in os.walk(photos, onerror=unreadable.append):
        root = Path(folder)
        subfolders[:] = [sub for sub in subfolders if (root / sub).resolve() != leave_out]
        for sub in subfolders:
            if (root / sub).is_symlink():
                yield _Found(name=_name(root / sub, photos), reason="link to a folder")
        for file in files:
            yield _examine(root / file, photos)
    for error in unreadable:
        yield _Found(name=_name(Path(error.filename), photos), reason=f"cannot be read: {error.strerror}")


def _examine(path: Path, photos: Path) -> _Found:
    name = _name(path, photos)
    if name != path.relative_to(photos).as_posix():
        return _Found(name=name, reason="name is not UTF-8")
    try:
        facts = path.stat()
    except OSError as error:
        return _Found(name=name, reason=f"cannot be read: {error.strerror}")
    if not stat.S_ISREG(facts.st_mode):
        return _Found(name=name, reason="not a regular file")
    return _Found(name=name, size=facts.st_size, modified_ns=facts.st_mtime_ns)


def _name(path: Path, photos: Path) -> str:
    # Bytes that are no UTF-8 come as lone surrogates, which no table can hold: they are shown as \xNN.
    return os.fsencode(path.relative_to(photos).as_posix()).decode("utf-8", "backslashreplace")


def _inspect_all(
    found: Sequence[_Found], photos: Path, out: Path, config: ScanConfig, executor: Executor
) -> list[dict[str, Any]]:
    names = [file.name for file in found if not file.reason]
    stamps = [(file.size, file.modified_ns) for file in found if not file.reason]
    size = min(_BATCH, max(8, ceil(len(names) / 64)))
    batches = []
    for start in range(0, len(names), size):
        items = tuple(names[start : start + size])
        key = key_of(_VERSION, str(photos), config, items, stamps[start : start + size])
        batches.append(Batch(name=f"files-{start // size:05d}", key=key, items=items))
    inspect = partial(_inspect_batch, photos=photos, config=config)
    rows: dict[str, dict[str, Any]] = {}
    for batch, result in zip(
        batches, run_batches(inspect, batches, out / "scan", executor, label="scan"), strict=True
    ):
        rows |= result.facts
        rows |= {batch.items[position]: {"reason": text} for position, text in result.quarantined.items()}
    return [rows.get(file.name, {"reason": file.reason}) for file in found]


def _inspect_batch(
    batch: Batch[str], *, photos: Path, config: ScanConfig
) -> tuple[dict[str, Any], Sequence[Path]]:
    rows: dict[str, Any] = {}
    for name in batch.items:
        try:
            photo = inspect_photo(
                photos / name, max_megapixels=config.max_megapixels, min_side_px=config.min_side_px
            )
        except UnusablePhoto as finding:
            rows[name] = {"reason": str(finding)}
        else:
            facts = asdict(photo)
            rows[name] = facts | {column: None for column in _NUMBERS if isnan(facts[column])}
    return rows, ()


def _table(found: Sequence[_Found], rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    first_with: dict[str, str] = {}
    table = []
    next_id = 1
    for file, row in zip(found, rows, strict=True):
        status, reason, image_id = "usable", row.get("reason", ""), 0
        if reason:
            status = "rejected"
        elif (first := first_with.setdefault(row["sha256"], file.name)) != file.name:
            status, reason = "duplicate", f"same bytes as {first}"
        else:
            image_id, next_id = next_id, next_id + 1
        numbers = {column: row.get(column) for column in _NUMBERS}
        table.append(
            {
                "name": file.name,
                "status": status,
                "reason": reason,
                "sha256": row.get("sha256", ""),
                "width": row.get("width", 0),
                "height": row.get("height", 0),
                "orientation": row.get("orientation", 1),
                "camera": row.get("camera", ""),
                "image_id": image_id,
                **{column: nan if number is None else number for column, number in numbers.items()},
            }
        )
    return pd.DataFrame(table, columns=list(_COLUMNS)).astype(dict.fromkeys(_NUMBERS, "float64"))
