"""Files that are either whole or absent, and the records that say which stage is done with which inputs."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

import pandas as pd
from pydantic import Field, ValidationError

from sfm.settings import Settings

# Names that start so belong to work in progress, or to a process that was killed at it.
UNFINISHED = ".unfinished-"
_FULL_BYTES = 1 << 20


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the name `path` when the block ends well, and is removed otherwise.

    The block may write a file or make a folder; what stood at `path` before is replaced. Missing parent
    folders are made. A process killed inside the block leaves only a hidden leftover, which `sweep` removes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f"{UNFINISHED}{os.getpid()}-{token_hex(4)}-{path.name}"
    try:
        yield unfinished
        _flush_to_disk(unfinished)
        _replace(unfinished, path)
    except BaseException:
        _remove(unfinished)
        raise


def sweep(folder: Path) -> None:
    """Remove what killed processes left unfinished below `folder`; only while nothing else writes there."""
    for leftover in folder.rglob(f"{UNFINISHED}*"):
        _remove(leftover)


def require_space(folder: Path) -> None:
    """Raise OSError (no space left) where the disk of `folder` is as good as full.

    For native code, which fails at a full disk in ways that look like anything else.
    """
    if shutil.disk_usage(folder).free < _FULL_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys; NaN is refused, for no other reader knows it."""
    with atomic_path(path) as unfinished:
        text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
        unfinished.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Return the value stored in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as Parquet, without its index."""
    with atomic_path(path) as unfinished:
        frame.to_parquet(unfinished, index=False)


def read_table(path: Path) -> pd.DataFrame:
    """Return the table stored in a Parquet file."""
    return pd.read_parquet(path)


def key_of(*parts: Any) -> str:
    """Return the SHA-256 (hex) of the parts as canonical JSON: equal values give equal keys on every machine.

    Parts are str, int, float, bool, None, Settings, and lists, tuples and dicts of these; anything else is
    a TypeError, because its text might differ between two runs.
    """
    text = json.dumps(parts, sort_keys=True, allow_nan=False, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


class StageRecord(Settings):
    """What a finished stage leaves behind: the key of its inputs, its counts, its files and their sizes."""

    stage: str
    key: str
    seconds: float = 0.0
    facts: dict[str, Any] = Field(default_factory=dict)
    outputs: dict[str, int] = Field(default_factory=dict)


def load_done(out: Path, stage: str, key: str) -> StageRecord | None:
    """Return the record of a stage that was finished in `out` with this key and whose files are all there.

    None means: work to do. That is so when there is no readable record, when it was made with another key,
    and when a file it lists is missing or of another size.
    """
    try:
        record = StageRecord.model_validate_json(_record_path(out, stage).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    if record.key != key:
        return None
    whole = all(_size(out / name) == size for name, size in record.outputs.items())
    return record if whole else None


def mark_done(
    out: Path,
    stage: str,
    key: str,
    *,
    seconds: float = 0.0,
    facts: dict[str, Any] | None = None,
    outputs: Iterable[Path] = (),
) -> StageRecord:
    """Record a stage as finished, its last act; `outputs` are files or whole folders below `out`."""
    files = sorted(file for path in outputs for file in _files_of(path))
    sizes = {file.relative_to(out).as_posix(): file.stat().st_size for file in files}
    record = StageRecord(stage=stage, key=key, seconds=round(seconds, 3), facts=facts or {}, outputs=sizes)
    write_json(_record_path(out, stage), record.model_dump(mode="json"))
    return record


def _record_path(out: Path, stage: str) -> Path:
    return out / "done" / f"{stage}.json"


def _files_of(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return -1


def _plain(value: object) -> Any:
    if isinstance(value, Settings):
        return value.model_dump(mode="json")
    raise TypeError(f"key: expected plain values or Settings, got {type(value).__name__}; convert it first")


def _flush_to_disk(path: Path) -> None:
    # Without this a power cut can leave the new name pointing at an empty file.
    for file in _files_of(path):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace(source: Path, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        # A folder cannot be renamed onto a full one: the old one steps aside first.
        aside = target.parent / f"{UNFINISHED}{os.getpid()}-{token_hex(4)}-{target.name}"
        target.rename(aside)
        source.rename(target)
        _remove(aside)
    else:
        source.replace(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
