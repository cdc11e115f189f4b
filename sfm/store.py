"""Files that are either whole or absent, and the records that say which stage is done with which inputs."""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError

from sfm.settings import Settings

logger = logging.getLogger(__name__)

# Names that start so belong to work in progress, or to a process that was killed at it.
UNFINISHED = ".unfinished-"
_FULL_BYTES = 1 << 20
# Of a table, hashed at a time.
_ROWS = 65_536


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


def discard(path: Path) -> None:
    """Remove a file or folder at once, as far as anybody can see; no error where there is none."""
    with suppress(FileNotFoundError):
        _remove(_aside(path))


def prune(folder: Path, pattern: str, current: Collection[str]) -> None:
    """Remove the results in `folder` that match a pattern and are none of the current ones, with records."""
    for result in folder.glob(pattern):
        if result.stem not in current:
            discard(result)
    for record in (folder / "done").glob(f"{pattern}.json"):
        if record.stem not in current:
            discard(record)


def require_space(folder: Path) -> None:
    """Raise OSError (no space left) where the disk of `folder` is as good as full.

    For native code, which fails at a full disk in ways that look like anything else.
    """
    if shutil.disk_usage(folder).free < _FULL_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def create_array(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> np.memmap:
    """Return a new .npy file as a memory map to be written, zeros as yet, its room on the disk reserved.

    Without the reservation a full disk ends the process in the middle of an assignment (SIGBUS). OSError
    when there is no room.
    """
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("r+b") as file:
        reserve(file.fileno(), path.stat().st_size, path)
    return rows


def reserve(descriptor: int, size: int, where: Path) -> None:
    """Make room on the disk for an open file of `size` bytes; OSError that names `where` if there is none."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(where)) from None


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


def key_of_table(frame: pd.DataFrame) -> str:
    """Return a key of a table's columns and rows in their order, not the index; by 64 bits of each row."""
    digest = hashlib.sha256("\0".join(frame.columns).encode())
    for start in range(0, len(frame), _ROWS):
        part = frame.iloc[start : start + _ROWS]
        rows = pd.util.hash_pandas_object(part, index=False, categorize=False)
        digest.update(rows.to_numpy(dtype="<u8").tobytes())
    return digest.hexdigest()


class OutputFile(Settings):
    """What a file was when it was recorded: bytes, time of the last change, SHA-256 of its content."""

    size: int
    modified_ns: int
    sha256: str


class StageRecord(Settings):
    """What a finished stage leaves behind.

    Attributes:
        key: of its inputs.
        facts: counts, for people.
        basis: what a later run has to know that adds to the result instead of making it anew.
        outputs: its files, by path below the folder.

    """

    stage: str
    key: str
    seconds: float = 0.0
    facts: dict[str, Any] = Field(default_factory=dict)
    basis: dict[str, Any] = Field(default_factory=dict)
    outputs: dict[str, OutputFile] = Field(default_factory=dict)


def load_done(out: Path, stage: str, key: str) -> StageRecord | None:
    """Return the record of a stage that was finished in `out` with this key and whose files are whole.

    None means: work to do. That is so when there is no record, when it was made with another key, and when
    it or a file it lists is missing or damaged, which is logged with the file's name. A file whose size and
    time are those of the record is taken for whole; any other is read and compared by its hash.
    """
    record = _read_record(out, stage)
    return record if record and record.key == key and _is_whole(out, record) else None


def last_done(out: Path, stage: str) -> StageRecord | None:
    """As `load_done`, with whatever key the stage was finished last: for work that only adds to it."""
    record = _read_record(out, stage)
    return record if record and _is_whole(out, record) else None


def mark_done(
    out: Path,
    stage: str,
    key: str,
    *,
    seconds: float = 0.0,
    facts: dict[str, Any] | None = None,
    basis: dict[str, Any] | None = None,
    outputs: Iterable[Path] = (),
) -> StageRecord:
    """Record a stage as finished, its last act; `outputs` are files or whole folders below `out`."""
    files = sorted(file for path in outputs for file in _files_of(path))
    found = {file.relative_to(out).as_posix(): _output_file(file) for file in files}
    record = StageRecord(
        stage=stage,
        key=key,
        seconds=round(seconds, 3),
        facts=facts or {},
        basis=basis or {},
        outputs=found,
    )
    _write_record(_record_path(out, stage), record)
    return record


def finish(
    out: Path,
    stage: str,
    key: str,
    path: Path,
    write: Callable[[Path], object],
    *,
    seconds: float,
    facts: dict[str, Any],
    basis: dict[str, Any],
) -> StageRecord:
    """Let `write` make the one file of a stage, and record the stage as finished, both in one step.

    For results that are added to: a kill at any moment leaves the old file with the old record or the new
    ones, never a new file that no record knows.
    """
    with atomic_path(path) as unfinished:
        write(unfinished)
        outputs = {path.relative_to(out).as_posix(): _output_file(unfinished)}
        record = StageRecord(
            stage=stage, key=key, seconds=round(seconds, 3), facts=facts, basis=basis, outputs=outputs
        )
        _write_record(_announced_path(out, stage), record)
    _announced_path(out, stage).replace(_record_path(out, stage))
    return record


def _write_record(path: Path, record: StageRecord) -> None:
    # The first line holds the hash of all that follows it; together they are JSON.
    value = record.model_dump(mode="json")
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    body = text.removeprefix("{\n").encode() + b"\n"
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(_first_line(body) + body)


def _first_line(body: bytes) -> bytes:
    return b'{"sha256": "%s",\n' % hashlib.sha256(body).hexdigest().encode()


def _read_record(out: Path, stage: str) -> StageRecord | None:
    path = _record_path(out, stage)
    _settle(out, stage)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    record = _parse(content)
    if record is None:
        logger.warning("%s: the record of %s is damaged; it is done again", path, stage)
    return record


def _parse(content: bytes) -> StageRecord | None:
    """The record that some bytes hold; None when they are damaged or of another version."""
    head, newline, body = content.partition(b"\n")
    if head + newline != _first_line(body):
        return None
    with suppress(ValidationError):
        return StageRecord.model_validate_json(b"{" + body)
    return None


def _settle(out: Path, stage: str) -> None:
    """Finish what a process was killed at between a file's new name and its record's, or forget it."""
    announced = _announced_path(out, stage)
    if not announced.exists():
        return
    record = _parse(announced.read_bytes())
    if record and all(_as_recorded(out / name, file) for name, file in record.outputs.items()):
        announced.replace(_record_path(out, stage))
    else:
        announced.unlink()


def _as_recorded(path: Path, expected: OutputFile) -> bool:
    return path.is_file() and _output_file(path).sha256 == expected.sha256


def _is_whole(out: Path, record: StageRecord) -> bool:
    touched: dict[str, OutputFile] = {}
    for name, expected in record.outputs.items():
        path = out / name
        try:
            facts = path.stat()
            if (facts.st_size, facts.st_mtime_ns) == (expected.size, expected.modified_ns):
                continue
            found = _output_file(path)
        except (FileNotFoundError, NotADirectoryError):
            logger.warning("%s: missing; %s is done again", path, record.stage)
            return False
        if (found.size, found.sha256) != (expected.size, expected.sha256):
            logger.warning("%s: damaged, or changed since; %s is done again", path, record.stage)
            return False
        touched[name] = found
    if touched:  # copied, say: so that it need not be read again next time
        with suppress(OSError):
            whole = record.model_copy(update={"outputs": record.outputs | touched})
            _write_record(_record_path(out, record.stage), whole)
    return True


def _output_file(path: Path) -> OutputFile:
    facts = path.stat()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return OutputFile(size=facts.st_size, modified_ns=facts.st_mtime_ns, sha256=digest)


def _record_path(out: Path, stage: str) -> Path:
    return out / "done" / f"{stage}.json"


def _announced_path(out: Path, stage: str) -> Path:
    return out / "done" / f"{stage}.announced.json"


def _files_of(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


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
        aside = _aside(target)
        source.rename(target)
        _remove(aside)
    else:
        source.replace(target)


def _aside(path: Path) -> Path:
    """Give what stands at `path` the name of something unfinished, and return that."""
    aside = path.parent / f"{UNFINISHED}{os.getpid()}-{token_hex(4)}-{path.name}"
    return path.rename(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
