"""Unpacking of published archives: plain files only, never outside their folder, all of them or none."""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from groundwork.files import UNFINISHED

# What an archive that was cut off or is something else makes the readers raise.
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError, NotImplementedError)


def unpack(archive: Path, folder: Path, *, flat: bool = False) -> int:
    """Unpack a .tar, .tar.gz, .tgz or .zip into `folder`, beside what is there; the number of its files.

    `flat` drops the archive's own folders. Files appear in `folder` only after the whole archive was read;
    one that is there already is replaced.

    Raises:
        ValueError: the archive is broken or empty, or has a member that is a link, a device, or lies outside.
        OSError: the disk is full or cannot be written.

    """
    beside = folder.parent / f"{UNFINISHED}{archive.name}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        count = 0
        for name, content in _members(archive):
            target = beside / (name.name if flat else name)
            if target.exists():
                raise _unexpected(archive, "each name once", f"'{name}' again")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file, _told(archive):
                _pour(content, file)
            count += 1
        if not count:
            raise _unexpected(archive, "files", "none")
        _merge(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return count


def _members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    """Name and content of each file, in the archive's order."""
    if archive.suffix == ".zip":
        yield from _zip_members(archive)
    else:
        yield from _tar_members(archive)


def _tar_members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    with _told(archive):
        tar = tarfile.open(archive, "r:*")  # noqa: SIM115
    with tar:
        while True:
            with _told(archive):
                member = tar.next()
            if member is None:
                return
            name = _safe(archive, member.name)
            if member.isdir():
                continue
            # A hard link stands for a file further up in the archive, whose content is given once more.
            if not member.isreg() and not member.islnk():
                raise _unexpected(
                    archive, "files and folders only", f"'{member.name}', which is {_kind(member)}"
                )
            try:
                with _told(archive):
                    content = tar.extractfile(member)
            except KeyError as error:
                raise _unexpected(
                    archive, "links to its own files", f"'{member.name}' to '{member.linkname}'"
                ) from error
            if content is not None:
                with content:
                    yield name, content


def _zip_members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    with _told(archive):
        packed = zipfile.ZipFile(archive)
    with packed:
        for member in packed.infolist():
            name = _safe(archive, member.filename)
            if member.is_dir():
                continue
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise _unexpected(archive, "files and folders only", f"'{member.filename}', which is a link")
            if member.flag_bits & 1:
                raise _unexpected(archive, "files without a password", f"'{member.filename}', which has one")
            with _told(archive):
                content = packed.open(member)
            with content:
                yield name, content


def _safe(archive: Path, name: str) -> PurePosixPath:
    """The member's path, if it lies below the folder that it is unpacked to."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise _unexpected(archive, "members inside its own folder", f"'{name}'")
    return path


def _kind(member: tarfile.TarInfo) -> str:
    return "a link" if member.issym() else "a device or pipe"


def _pour(content: IO[bytes], file: IO[bytes]) -> None:
    shutil.copyfileobj(content, file, 1 << 20)


@contextmanager
def _told(archive: Path) -> Iterator[None]:
    """Errors of the archive's content as one line; those of the disk as they are."""
    try:
        yield
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(":")
        raise _unexpected(archive, "a whole archive", f"'{reason}'") from error


def _merge(source: Path, target: Path) -> None:
    """Move everything below `source` to the same place below `target`; folders that are new move whole."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            _merge(entry, place)
        else:
            entry.replace(place)


def _unexpected(archive: Path, expected: str, got: str) -> ValueError:
    return ValueError(f"{archive}: expected {expected}, got {got}; download it again or from a --mirror")
