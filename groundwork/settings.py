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
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise ValueError(f"{path}: {where}: {first['msg'].lower()}; {REMEDY}") from error
