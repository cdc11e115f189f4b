"""The frozen, validated base of settings and records: where the defaults live, once."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from groundwork.files import REMEDY, read_json


class Settings(BaseModel):
    """Keyword-only values that cannot be changed after they were checked; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The values stored in a JSON file; ValueError that names the file and its first wrong value."""
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            raise ValueError(
                f"{path}: expected values of ours, got {first_fault(error)}; {REMEDY}"
            ) from error


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong with a file's values, for a line that names the file: key and reason."""
    fault = error.errors()[0]
    key = ".".join(map(str, fault["loc"]))
    reason = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"the unknown key '{key}'"
    return f"'{key}' = {fault['input']!r:.60}: {reason}" if key else reason
