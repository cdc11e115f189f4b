"""Stage: a folder of files to the list of usable photos, with a reason for each file that is none."""

import logging
import os
import shutil
import stat
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from pydantic import Field

from sfm.photo import UnusablePhoto, inspect_photo
from sfm.settings import Settings
from sfm.store import finish, key_of, key_of_table, last_done, load_done, read_table, write_table
from sfm.tasks import Batch, run_batches

logger = logging.getLogger(__name__)

_VERSION = 3
_BATCH = 128
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
            longitude (degrees), image_id (1.. for usable photos, else 0), size (bytes), modified_ns`.
        key: changes with the usable photos' names, bytes or numbers, and with nothing else.

    """

    photos: Path
    table: pd.DataFrame
    key: str

    @property
    def usable(self) -> pd.DataFrame:
        """The usable photos, row r holding image_id r + 1."""
        usable = self.table[self.table["status"] == "usable"]
        return usable.sort_values("image_id", ignore_index=True)


def scan(photos: Path, out: Path, config: ScanConfig, executor: Executor) -> Collection:
    """List every file below `photos`, decode each, and write `out`/collection.parquet.

    Byte-identical files are used once, under the first name. Links to files are followed, links to folders
    are listed as rejected; `out` itself is left out where it lies below `photos`.

    Usable photos are numbered in order of name. When photos are added later, known ones keep their image_id
    and new ones are numbered after them, in order of name. Where a known usable photo is gone or its bytes
    changed, all are numbered afresh. Only files of a new size or time are decoded again.

    FileNotFoundError and NotADirectoryError when there is no such folder, ValueError when no photo in it is
    usable.
    """
    require_folder(photos)
    photos, started = photos.resolve(), time.perf_counter()
    found = _list_files(photos, leave_out=out.resolve())
    settings = key_of("scan", _VERSION, str(photos), config)
    key = key_of(settings, key_of_table(found))
    path = out / "collection.parquet"
    if not load_done(out, "scan", key):
        before = _last_table(out, path, settings)
        table = _number(_inspect(found, before, photos, out, config, settings, executor), before)
        _require_usable(photos, table)
        finish(
            out,
            "scan",
            key,
            path,
            partial(table.to_parquet, index=False),
            seconds=time.perf_counter() - started,
            facts={"files": len(table)} | dict(Counter(table["status"])),
            basis={"settings": settings},
        )
        shutil.rmtree(out / "scan", ignore_errors=True)  # all of it is in the table
    collection = Collection(photos=photos, table=read_table(path), key="")
    return Collection(
        photos=photos, table=collection.table, key=key_of_table(collection.usable[["name", "sha256"]])
    )


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


def _list_files(photos: Path, leave_out: Path) -> pd.DataFrame:
    """All files by name: `name, size, modified_ns`, and the `reason` for what is no file to be read."""
    found = pd.DataFrame(_walk(photos, leave_out), columns=[*_STAMP, "reason"])
    return _typed(found).sort_values("name", ignore_index=True)


def _walk(photos: Path, leave_out: Path) -> Iterator[tuple[str, int, int, str]]:
    unreadable: list[OSError] = []
    for folder, subfolders, files in os.walk(photos, onerror=unreadable.append):
        root = Path(folder)
        subfolders[:] = [sub for sub in subfolders if (root / sub).resolve() != leave_out]
        for sub in subfolders:
            if (root / sub).is_symlink():
                yield _name(root / sub, photos), 0, 0, "link to a folder"
        for file in files:
            yield _examine(root / file, photos)
    for error in unreadable:
        yield _name(Path(error.filename), photos), 0, 0, f"cannot be read: {error.strerror}"


def _examine(path: Path, photos: Path) -> tuple[str, int, int, str]:
    name = _name(path, photos)
    if name != path.relative_to(photos).as_posix():
        return name, 0, 0, "name is not UTF-8"
    try:
        facts = path.stat()
    except OSError as error:
        return name, 0, 0, f"cannot be read: {error.strerror}"
    if not stat.S_ISREG(facts.st_mode):
        return name, 0, 0, "not a regular file"
    return name, facts.st_size, facts.st_mtime_ns, ""


def _name(path: Path, photos: Path) -> str:
    # Bytes that are no UTF-8 come as lone surrogates, which no table can hold: they are shown as \xNN.
    return os.fsencode(path.relative_to(photos).as_posix()).decode("utf-8", "backslashreplace")


def _last_table(out: Path, path: Path, settings: str) -> pd.DataFrame:
    """What the last scan of this folder with these settings found; no rows where there was none."""
    record = last_done(out, "scan")
    if record and record.basis.get("settings") == settings:
        return read_table(path)
    return _typed(pd.DataFrame(columns=list(_COLUMNS)))


def _inspect(
    found: pd.DataFrame,
    before: pd.DataFrame,
    photos: Path,
    out: Path,
    config: ScanConfig,
    settings: str,
    executor: Executor,
) -> pd.DataFrame:
    """`found` with the findings about each file; files that were inspected before are not opened again."""
    known = before.loc[before["size"] > 0, [*_STAMP, *_FINDINGS]]
    known["reason"] = known["reason"].where(before["status"] != "duplicate", "")
    readable = found.loc[found["reason"] == "", list(_STAMP)]
    fresh = readable.merge(known[list(_STAMP)], how="left", indicator=True).query("_merge == 'left_only'")
    batches = _batches(fresh, settings)
    work = partial(_inspect_batch, photos=photos, folder=out / "scan", config=config)
    results = run_batches(work, batches, out / "scan", executor, label="scan")
    parts = [read_table(path) for result in results for path in result.outputs]
    killers = {
        batch.items[position]: reason
        for batch, result in zip(batches, results, strict=True)
        for position, reason in result.quarantined.items()
    }
    not_inspected = found.loc[found["reason"] != "", ["name", "reason"]]
    parts.append(pd.DataFrame({"name": list(killers), "reason": list(killers.values())}))
    parts += [not_inspected, known.merge(readable)[["name", *_FINDINGS]]]
    findings = _typed(pd.concat([pd.DataFrame(columns=["name", *_FINDINGS]), *parts], ignore_index=True))
    return found.drop(columns="reason").merge(findings, how="left", on="name", validate="one_to_one")


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a type for each column, and with what holds where nothing was found."""
    defaults = {column: _COLUMNS[column] for column in map(str, table)}
    return table.fillna(defaults).astype({column: type(value) for column, value in defaults.items()})


def _batches(fresh: pd.DataFrame, settings: str) -> list[Batch[str]]:
    size = min(_BATCH, max(8, ceil(len(fresh) / 64)))
    batches = []
    for number, start in enumerate(range(0, len(fresh), size)):
        part = fresh.iloc[start : start + size]
        key = key_of(settings, part[list(_STAMP)].to_numpy().tolist())
        batches.append(Batch(name=f"files-{number:05d}", key=key, items=tuple(part["name"])))
    return batches


def _inspect_batch(
    batch: Batch[str], *, photos: Path, folder: Path, config: ScanConfig
) -> tuple[dict[str, Any], Sequence[Path]]:
    rows: list[dict[str, Any]] = []
    for name in batch.items:
        try:
            photo = inspect_photo(
                photos / name, max_megapixels=config.max_megapixels, min_side_px=config.min_side_px
            )
        except UnusablePhoto as finding:
            rows.append({**_FINDINGS, "name": name, "reason": str(finding)})
        else:
            rows.append({**_FINDINGS, "name": name, **asdict(photo)})
    path = folder / f"{batch.name}.parquet"
    write_table(path, pd.DataFrame(rows, columns=["name", *_FINDINGS]))
    return {}, [path]


def _number(files: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """Give each file its status and each usable photo its image_id."""
    known_id = _known_ids(files, before)
    sound = files["reason"] == ""
    # Of equal files a known one is used, else the first by name.
    order = np.lexsort((np.arange(len(files)), known_id == 0))
    ordered = files.iloc[order][sound.to_numpy()[order]]
    first = ordered.drop_duplicates("sha256").set_index("sha256")["name"]
    first_name = files["sha256"].map(first)
    used = (sound & (first_name == files["name"])).to_numpy()
    new = used & (known_id == 0)
    image_id = np.where(used, known_id, 0)
    image_id[new] = known_id.max(initial=0) + 1 + np.arange(int(new.sum()))
    copies = (sound & ~used).to_numpy()
    reason = files["reason"].mask(copies, "same bytes as " + first_name.astype("str"))
    status = pd.Series(np.select([used, copies], ["usable", "duplicate"], "rejected"), dtype="str")
    return files.assign(status=status, reason=reason, image_id=image_id)[list(_COLUMNS)]


def _known_ids(files: pd.DataFrame, before: pd.DataFrame) -> Int[np.ndarray, " n"]:
    """The image_id each file has already, 0 for new ones; all 0 where a known photo is gone or changed."""
    known = before.loc[before["image_id"] > 0, ["name", "sha256", "image_id"]]
    columns = ["name", "sha256"]
    ids = files[columns].merge(known, how="left", on=columns)["image_id"] if len(known) else None
    if ids is None or int(ids.notna().sum()) < len(known):
        if ids is not None:
            logger.info("scan: known photos are gone or changed; all photos are numbered afresh")
        return np.zeros(len(files), dtype=np.int64)
    return ids.fillna(0).to_numpy(dtype=np.int64)
