"""The frozen, validated base of every stage's settings: where the defaults live, once."""

from pydantic import BaseModel, ConfigDict, ValidationError


class Settings(BaseModel):
    """Keyword-only values that cannot be changed after they were checked; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong with a file's values, for a line that names the file: key and reason."""
    fault = error.errors()[0]
    key = ".".join(map(str, fault["loc"]))
    reason = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"the unknown key '{key}'"
    return f"'{key}' = {fault['input']!r:.60}: {reason}" if key else reason
