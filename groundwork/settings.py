"""The frozen, validated base of every stage's settings, where defaults live, once; and of what is kept."""

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

# What libraries in C take: whole numbers of 32 bits with a sign, real ones of single precision.
MAX_INTEGER = 2**31 - 1
_MIN_REAL, _MAX_REAL = 1e-37, 1e37


class Values(BaseModel):
    """Keyword-only values that cannot be changed after they were checked; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


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
