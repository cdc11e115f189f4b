"""Recipes of a TOML file: settings laid over a protocol, by name, that a benchmark compares."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from groundwork.settings import Settings


class Recipes(Settings):
    """The recipes of a file: settings of all of them, then of each, as `--set` takes them."""

    all: tuple[str, ...] = ()
    recipes: dict[str, tuple[str, ...]] = Field(min_length=1)


def read_recipes(path: Path, only: Sequence[str] | None = None) -> Recipes:
    """The recipes in a file, all or `only` some; ValueError in one line for anything else."""
    try:
        read = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"recipes {path}: expected a TOML file, got one that cannot be read: {error}; mend it"
        ) from error
    found = Recipes.checked(read, f"recipes {path}", "lists of settings", "mend it")
    unknown = sorted({*(only or ())} - {*found.recipes})
    if unknown:
        raise ValueError(
            f"--only: expected some of {', '.join(found.recipes)}, got {unknown[0]!r}; choose one of them"
        )
    return found.model_copy(update={"recipes": {name: found.recipes[name] for name in only or found.recipes}})
