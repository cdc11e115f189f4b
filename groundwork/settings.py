"""The frozen, validated base of settings, where defaults live, once, and of the records that are kept."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from groundwork.files import REMEDY

# What libraries in C take: whole numbers of 32 bits with a sign, real ones of single precision.
MAX_INTEGER = 2**31 - 1
_MIN_REAL, _MAX_REAL = 1e-37, 1e37


class Values(BaseModel):
    """Keyword-only values that cannot be changed after they were checked; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @classmethod
    def load(
        cls, path: Path, *, thing: str = "", expected: str = "values of ours", remedy: str = REMEDY
    ) -> Self:
        """The values stored in a JSON file.

        ValueError `<thing> <path>: expected <expected>, got ...; <remedy>` with the first wrong value.
        """
        with _told(f"{thing} {path}".lstrip(), expected, remedy):
            return cls.model_validate_json(path.read_bytes())

    @classmethod
    def checked(cls, values: Any, thing: str, expected: str, remedy: str) -> Self:
        """`values` as these; ValueError `<thing>: expected <expected>, got ...; <remedy>`, as of `load`."""
        with _told(thing, expected, remedy):
            return cls.model_validate(values)


class Settings(Values):
    """What a person sets; no number is too large for the libraries that compute with it in the end."""

    @field_validator("*")
    @classmethod
    def _fits(cls, value: Any, info: ValidationInfo) -> Any:
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, int) and abs(one) > MAX_INTEGER:
                raise ValueError(
                    f"{info.field_name}: expected an integer up to {MAX_INTEGER:,} either way, got {one}; "
                    "choose a smaller one"
                )
            if isinstance(one, float) and one != 0.0 and not _MIN_REAL < math.fabs(one) < _MAX_REAL:
                raise ValueError(
                    f"{info.field_name}: expected 0 or a number between {_MIN_REAL:g} and {_MAX_REAL:g} "
                    f"either way, got {one:g}; choose one nearer to 1"
                )
        return value


@contextmanager
def _told(thing: str, expected: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise ValueError(f"{thing}: expected {expected}, got {first_fault(error)}; {remedy}") from error


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong with a file's values, for a line that names the file: key and reason."""
    fault = error.errors()[0]
    key = ".".join(map(str, fault["loc"]))
    reason = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"the unknown key '{key}'"
    return f"'{key}' = {fault['input']!r:.60}: {reason}" if key else reason
