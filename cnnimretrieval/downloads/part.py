"""An unfinished download on disk: its bytes in FILE.part, and in FILE.part.json what they are a part of."""

import shutil
from pathlib import Path

from pydantic import ValidationError

from groundwork.files import write_json
from groundwork.settings import Values


class Origin(Values):
    """What a .part file is a part of; `validator` is a strong ETag or a date, "" if none was given."""

    url: str
    validator: str
    total: int | None


def part_of(target: Path) -> Path:
    """Where the bytes of an unfinished `target` gather."""
    return target.with_name(f"{target.name}.part")


def discard(target: Path) -> None:
    """Forget the unfinished bytes of `target`."""
    part_of(target).unlink(missing_ok=True)
    _origin_path(part_of(target)).unlink(missing_ok=True)


def keep(target: Path) -> None:
    """Give the finished .part file its name."""
    part_of(target).replace(target)
    _origin_path(part_of(target)).unlink(missing_ok=True)


def begin(part: Path, origin: Origin) -> None:
    """Start an empty part of `origin`, which is on disk before the bytes are."""
    part.unlink(missing_ok=True)
    write_json(_origin_path(part), origin.model_dump())


def resumable(url: str, part: Path, hashed: bool) -> tuple[int, Origin]:
    """How many bytes of `part` count, and what they are of."""
    nothing = 0, Origin(url=url, validator="", total=None)
    try:
        origin = Origin.model_validate_json(_origin_path(part).read_bytes())
    except (FileNotFoundError, ValidationError):
        return nothing
    offset = size(part)
    trusted = origin.url == url and (origin.validator or hashed) and origin.total is not None
    if not trusted or offset > (origin.total or 0):
        return nothing
    return offset, origin


def require_room(part: Path, total: int | None) -> None:
    """OSError unless the disk has room for what is missing of `total` bytes, which may be unknown."""
    free = shutil.disk_usage(part.parent).free + size(part)
    if total is not None and total > free:
        raise OSError(
            f"{part.parent}: expected {total:,} bytes of free space for {part.name.removesuffix('.part')}, "
            f"got {free:,}; free some and run it again"
        )


def size(path: Path) -> int:
    """Its bytes; 0 when there is none."""
    return path.stat().st_size if path.exists() else 0


def _origin_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
