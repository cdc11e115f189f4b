"""Get a published data set: plan what is missing, fetch it, compare hashes, unpack; a rerun continues."""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from cnnimretrieval.downloads import ledger
from cnnimretrieval.downloads.archive import unpack
from cnnimretrieval.downloads.dataset import DataSet, PublishedFile
from cnnimretrieval.downloads.part import discard, keep, part_of
from cnnimretrieval.downloads.transfer import TransferConfig, TransferError, fetch
from groundwork.files import UNFINISHED

logger = logging.getLogger(__name__)

State = Literal["done", "fetched", "partial", "missing"]


class DownloadConfig(TransferConfig):
    """Where to look, and what to leave."""

    mirrors: tuple[str, ...] = ()
    keep_archives: bool = False


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """A file and how far it is: `fetched` means an archive that is yet to be unpacked."""

    file: PublishedFile
    state: State
    bytes_here: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What getting a data set comes to.

    Attributes:
        files: each with its state.
        needed_bytes: space that will be used at most while it is got, of the files whose size is known.
        unknown_sizes: files that have yet to come and whose size nobody says.
        free_bytes: space on the disk of the data folder.

    """

    data_set: DataSet
    files: tuple[PlannedFile, ...]
    needed_bytes: int
    unknown_sizes: int
    free_bytes: int


def is_present(data_set: DataSet, root: Path) -> bool:
    """Whether its files and filled folders are there, whoever put them there."""
    filled = [file.into for file in data_set.files if file.is_archive]
    kept = [file.path for file in data_set.files if not file.is_archive]
    folders = [*filled, *(link for link, _ in data_set.links)]
    return all((root / path).is_file() for path in kept) and all(_is_filled(root / path) for path in folders)


def free_bytes(folder: Path) -> int:
    """Free space on the disk of `folder`, which need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def plan(data_set: DataSet, root: Path) -> Plan:
    """What of `data_set` is below the folder `root`, and what its rest takes; nothing is written or asked.

    Photos are expected to be as large as the archive they come in, and an archive goes before the next comes.
    """
    files = tuple(_planned(file, root) for file in data_set.files)
    to_come = [one for one in files if one.state != "done"]
    sizes = [(one, one.file.about_bytes or 0) for one in to_come]
    largest = max((size for one, size in sizes if one.file.is_archive), default=0)
    return Plan(
        data_set=data_set,
        files=files,
        needed_bytes=max(
            0, sum(size for _, size in sizes) + largest - sum(one.bytes_here for one in to_come)
        ),
        unknown_sizes=sum(one.file.about_bytes is None for one in to_come),
        free_bytes=free_bytes(root),
    )


def download(data_set: DataSet, root: Path, config: DownloadConfig) -> int:
    """Get what is missing of `data_set` below the folder `root`; the number of files that came.

    Archives are unpacked one after the other and removed, unless `config.keep_archives`. Only one process may
    do this below `root` at a time.

    Raises:
        OSError: a file that no address gives, or too little space.
        ValueError: another content than published or than at its first download, or an unusable archive.

    """
    found = plan(data_set, root)
    if found.needed_bytes > found.free_bytes:
        raise OSError(
            f"{root}: expected about {found.needed_bytes:,} bytes of free space for {data_set.name}, "
            f"got {found.free_bytes:,}; free some or take another --data"
        )
    came = 0
    for number, one in enumerate(found.files, start=1):
        if one.state == "done":
            continue
        logger.info("[%d/%d] %s", number, len(found.files), one.file.name)
        _get(one.file, root, config)
        came += 1
    for link, target in data_set.links:
        _link(root / link, root / target)
    return came


def addresses(url: str, mirrors: Sequence[str]) -> list[str]:
    """Where to ask for a file: below each mirror, under the path it has on its host, and then at its host."""
    path = urlsplit(url).path
    return [*(f"{mirror.rstrip('/')}{path}" for mirror in mirrors), url]


def _planned(file: PublishedFile, root: Path) -> PlannedFile:
    path = root / file.path
    record = ledger.read(path.parent).get(path.name)
    whole = record is not None and path.is_file() and path.stat().st_size == record.bytes
    if file.is_archive and record is not None and record.unpacked and _is_filled(root / file.into):
        return PlannedFile(file=file, state="done", bytes_here=0)
    if whole:
        here = path.stat().st_size
        return PlannedFile(file=file, state="fetched" if file.is_archive else "done", bytes_here=here)
    part = part_of(path)
    if part.is_file():
        return PlannedFile(file=file, state="partial", bytes_here=part.stat().st_size)
    return PlannedFile(file=file, state="missing", bytes_here=0)


def _get(file: PublishedFile, root: Path, config: DownloadConfig) -> None:
    path = root / file.path
    if _planned(file, root).state in ("missing", "partial"):
        _fetch_checked(file, path, config)
    if not file.is_archive:
        return
    record = ledger.read(path.parent)[path.name]
    try:
        count = unpack(path, root / file.into, flat=file.flat)
    except ValueError:
        # What cannot be unpacked now will not be by waiting: the next run fetches it again.
        path.unlink()
        ledger.forget(path.parent, path.name)
        raise
    ledger.write(path.parent, path.name, record.model_copy(update={"unpacked": count}))
    logger.info("%s: %s files in %s", file.name, f"{count:,}", root / file.into)
    if not config.keep_archives:
        path.unlink()


def _fetch_checked(file: PublishedFile, path: Path, config: DownloadConfig) -> None:
    """Fetch `file` to `path`, compare it, and enter it in the ledger."""
    known = ledger.read(path.parent).get(path.name)
    expected = file.sha256 or (known.sha256 if known else "")
    md5 = _published_md5(file, path, config)
    url, patched = _fetch_somewhere(file.url, path, config, hashed=bool(expected or md5))
    wrong = _difference(part_of(path), expected, md5)
    if wrong and patched:
        # Put together from several answers: perhaps of two versions. Once more in one piece.
        discard(path)
        url, _ = _fetch_somewhere(file.url, path, config, hashed=bool(expected or md5))
        wrong = _difference(part_of(path), expected, md5)
    if wrong:
        discard(path)
        remedy = "give a --mirror, or wait for its publisher to mend it"
        if known and not file.sha256:
            remedy = f"if it was published anew, remove its entry from {path.parent / ledger.FILE}"
        raise ValueError(f"{url}: expected {wrong}; {remedy}")
    content = part_of(path)
    record = ledger.Record(url=url, sha256=_digest(content, "sha256"), bytes=content.stat().st_size)
    ledger.write(path.parent, path.name, record)
    keep(path)


def _fetch_somewhere(
    published_url: str, path: Path, config: DownloadConfig, *, hashed: bool
) -> tuple[str, bool]:
    """The address that had the file, and whether it came in several answers; the last one's error if none."""
    *mirrors, origin = addresses(published_url, config.mirrors)
    for url in mirrors:
        try:
            return url, fetch(url, path, config, hashed=hashed)
        except TransferError as error:
            logger.warning("%s", error)
    return origin, fetch(origin, path, config, hashed=hashed)


def _published_md5(file: PublishedFile, path: Path, config: DownloadConfig) -> str:
    """The MD5 (hex) that the publisher gives in a file of its own, "" where there is none."""
    if not file.md5_url:
        return ""
    listing = path.with_name(f"{path.name}.md5")
    url, _ = _fetch_somewhere(file.md5_url, listing, config, hashed=False)
    text = part_of(listing).read_text(encoding="utf-8", errors="replace")
    discard(listing)
    if not re.match(r"[0-9a-f]{32}\b", text):
        raise ValueError(f"{url}: expected an MD5 of 32 hex digits, got {text[:40]!r}; give a --mirror")
    return text[:32]


def _difference(content: Path, sha256: str, md5: str) -> str:
    """`<what was expected>, got <what came>`, or "" if the content is as it should be."""
    for kind, expected in (("sha256", sha256), ("md5", md5)):
        digest = _digest(content, kind) if expected else ""
        if not digest.startswith(expected):
            return f"{kind} {expected}, got {digest[: len(expected)]}"
    return ""


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _link(link: Path, target: Path) -> None:
    """Make `link` a relative symbolic link to the folder `target`, unless something is there already."""
    if link.exists():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)


def _is_filled(folder: Path) -> bool:
    return folder.is_dir() and any(not entry.name.startswith(UNFINISHED) for entry in folder.iterdir())


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest one around it that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())
