"""What a published name stands for: files on the web, and where they are kept below the data folder."""

from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One file on the web.

    Attributes:
        url: where it is published.
        path: where it is kept, below the data folder; an archive only until it is unpacked.
        into: the folder below the data folder that an archive is unpacked to; "" for other files.
        flat: unpack the files of all the archive's folders into one.
        sha256: hex digits that the file's SHA-256 begins with; "" where none is published.
        md5_url: where its MD5 is published; "" if it is not.
        about_bytes: its size, roughly; None when nobody says.

    """

    url: str
    path: str
    into: str = ""
    flat: bool = False
    sha256: str = ""
    md5_url: str = ""
    about_bytes: int | None = None

    @property
    def name(self) -> str:
        """The file's own name."""
        return PurePosixPath(self.path).name

    @property
    def is_archive(self) -> bool:
        """Whether it is unpacked, and not kept as it is."""
        return bool(self.into)

    @property
    def check(self) -> str:
        """In words, what the file is compared with."""
        if self.sha256:
            digits = len(self.sha256)
            return "sha256" if digits == 64 else f"sha256 ({digits} digits)"
        return "md5" if self.md5_url else "size; sha256 of the first download"


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What a name stands for: files, and links from one folder below the data folder to another."""

    name: str
    title: str
    files: tuple[PublishedFile, ...]
    links: tuple[tuple[str, str], ...] = ()

    @property
    def about_bytes(self) -> int | None:
        """The size of all files, roughly; None when that of none is known."""
        known = [file.about_bytes for file in self.files if file.about_bytes is not None]
        return sum(known) if known else None
