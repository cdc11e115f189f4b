"""photos.json: which photos a folder of results is of, for whoever goes on from there."""

import os
from pathlib import Path

from pydantic import Field

from groundwork.files import write_json
from groundwork.settings import Values

SOURCE = "photos.json"


class PhotoSource(Values):
    """The folder of the photos, and where it is known a key of the content of those that are used."""

    version: int = 1
    photos: str
    content: str = Field(default="", exclude_if=lambda content: not content)

    @property
    def folder(self) -> Path:
        """The folder, absolute."""
        return Path(os.path.abspath(self.photos))


def write_source(source: PhotoSource, folder: Path) -> None:
    """Leave it in a folder of results."""
    write_json(folder / SOURCE, source.model_dump(mode="json"))


def read_source(folder: Path) -> PhotoSource:
    """That of a folder of results; FileNotFoundError where there is none, ValueError for a damaged one."""
    return PhotoSource.load(folder / SOURCE)
