"""What was downloaded, in checksums.json beside the files: the hash that every later download must have."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from groundwork.files import write_json
from groundwork.settings import Values

FILE = "checksums.json"


class Record(Values):
    """One file as it arrived."""

    url: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)
    unpacked: int | None = Field(default=None, description="files that came out of it; None: not unpacked")


_TABLE = TypeAdapter(dict[str, Record])


def read(folder: Path) -> Mapping[str, Record]:
    """The records of `folder` by file name, none if it has no ledger; ValueError when it cannot be read."""
    path = folder / FILE
    try:
        return _TABLE.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        raise ValueError(
            f"{path}: expected the record of what was downloaded, got another text; "
            "remove it if the files beside it can be trusted"
        ) from error


def write(folder: Path, name: str, record: Record) -> None:
    """Add the record of the file `name`, or put it in place of the former one."""
    _save(folder, {**read(folder), name: record})


def forget(folder: Path, name: str) -> None:
    """Remove the record of the file `name`."""
    _save(folder, {key: record for key, record in read(folder).items() if key != name})


def _save(folder: Path, table: Mapping[str, Record]) -> None:
    write_json(folder / FILE, {key: record.model_dump(mode="json") for key, record in table.items()})
