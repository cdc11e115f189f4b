"""Records that say which stage is done, with which inputs and files: what a run that goes on relies on."""

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from groundwork.digest import sha256_of
from groundwork.files import atomic_path, discard, files_of, json_text
from groundwork.settings import Values

logger = logging.getLogger(__name__)
_ANNOUNCED = ".announced.json"


class OutputFile(Values):
    """What a file was when it was recorded: bytes, time of the last change, SHA-256 of its content."""

    size: int
    modified_ns: int
    sha256: str


class StageRecord(Values):
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


def record_of(out: Path, stage: str) -> StageRecord | None:
    """The record that a stage left in `out` when it was finished last; None where there is none.

    For what it tells of the stage: its files are not looked at, which `load_done` does.
    """
    return _read_record(out, stage)


def records_in(out: Path, pattern: str = "*") -> Iterator[StageRecord]:
    """The records in `out` whose stages' names match a pattern, by name; damaged ones are left out."""
    for path in sorted((out / "done").glob(f"{pattern}.json")):
        record = None if path.name.endswith(_ANNOUNCED) else _read_record(out, path.stem)
        if record is not None:
            yield record


def forget(out: Path, stage: str) -> None:
    """Remove the record of a stage, so that it is done again."""
    discard(_record_path(out, stage))


def verify(folder: Path) -> list[Path]:
    """Read all files that records in `folder` or below tell of, and list those that are not as recorded.

    What a failing disk changed, size and time being the same, is found in no other way. The time of such a
    file is set to now: the stage that relies on it next then compares its hash, and makes it again.
    """
    damaged = []
    for done in sorted(path for path in folder.rglob("done") if path.is_dir()):
        for record in records_in(done.parent):
            files = ((done.parent / name, expected) for name, expected in record.outputs.items())
            damaged += [
                path for path, expected in files if path.is_file() and not _as_recorded(path, expected)
            ]
    for path in damaged:
        os.utime(path)
    return damaged


def read_done(out: Path, stage: str, *, remedy: str) -> StageRecord | None:
    """The record of a stage for those who read its files and cannot do it again; None when there is none.

    ValueError naming the first file that is not as the stage left it, or the record itself when that is
    damaged; `remedy` says what to do.
    """
    path = _record_path(out, stage)
    if not path.is_file():
        return None
    record = _parse(path.read_bytes())
    unfit = (path, "damaged") if record is None else _first_unfit(out, record)
    if unfit is not None:
        raise ValueError(f"{unfit[0]}: expected the file that {stage} left, got it {unfit[1]}; {remedy}")
    return record


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
    files = sorted(file for path in outputs for file in files_of(path))
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


def prune(folder: Path, pattern: str, current: Collection[str]) -> None:
    """Remove the results in `folder` that match a pattern and are none of the current ones, with records."""
    for result in folder.glob(pattern):
        if result.stem not in current:
            discard(result)
    for record in (folder / "done").glob(f"{pattern}.json"):
        if record.stem not in current:
            discard(record)


def _write_record(path: Path, record: StageRecord) -> None:
    # The first line holds the hash of all that follows it; together they are JSON.
    body = json_text(record.model_dump(mode="json")).removeprefix("{\n").encode()
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
    unfit = _first_unfit(out, record)
    if unfit is not None:
        logger.warning("%s: %s; %s is done again", *unfit, record.stage)
    return unfit is None


def _first_unfit(out: Path, record: StageRecord) -> tuple[Path, str] | None:
    """The first file that is not what its record says, and what is wrong with it."""
    touched: dict[str, OutputFile] = {}
    for name, expected in record.outputs.items():
        path = out / name
        try:
            facts = path.stat()
            if (facts.st_size, facts.st_mtime_ns) == (expected.size, expected.modified_ns):
                continue
            found = _output_file(path)
        except (FileNotFoundError, NotADirectoryError):
            return path, "missing"
        if (found.size, found.sha256) != (expected.size, expected.sha256):
            return path, "damaged, or changed since"
        touched[name] = found
    if touched:  # copied, say: so that it need not be read again next time
        with suppress(OSError):
            whole = record.model_copy(update={"outputs": record.outputs | touched})
            _write_record(_record_path(out, record.stage), whole)
    return None


def _output_file(path: Path) -> OutputFile:
    facts = path.stat()
    return OutputFile(size=facts.st_size, modified_ns=facts.st_mtime_ns, sha256=sha256_of(path))


def _record_path(out: Path, stage: str) -> Path:
    return out / "done" / f"{stage}.json"


def _announced_path(out: Path, stage: str) -> Path:
    return out / "done" / f"{stage}{_ANNOUNCED}"
