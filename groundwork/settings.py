"""The frozen, validated base of every stage's settings: where the defaults live, once."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Keyword-only values that cannot be changed after they were checked; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
