"""Settings as a person writes them: a protocol's TOML file with every `--set` laid over it, then checked."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from experiments.exit_codes import UsageFault
from experiments.settings.errors import did_you_mean, explain_all
from experiments.settings.recipe import Recipe, Target
from groundwork.settings import Settings

DEFAULT = "small"
LIST = "run --protocol list"
SECTIONS = ("sfm", "pairs", "train")
# What else a protocol may say: about the run as a whole,
_GENERAL = ("seed", "weights", "rounds")
# and which published row it repeats. No setting of a stage, so never part of what decides a run's result.
_ROW = ("published", "target")
# Names the protocol that a file builds on.
_EXTENDS = "extends"

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Settings that are not checked yet.

    Attributes:
        source: name of the TOML file, for messages and the manifest.
        values: nested tables; their first level is `seed`, `weights`, `published`, `target` or one of
            `SECTIONS`.
        overrides: dotted key -> the whole `--set` that gave its value.

    """

    source: str
    values: Mapping[str, Any]
    overrides: Mapping[str, str] = field(default_factory=dict)

    def resolve(self, config: type[S], section: str = "") -> S:
        """The settings of one section, or with `section` "" those of all stages; defaults fill the gaps.

        Raises:
            UsageFault: one line for each key that is unknown or has a wrong value.

        """
        stages = {key: value for key, value in self.values.items() if key not in _ROW}
        values = self._of_stage(section) if section in SECTIONS else self.values.get(section, stages)
        try:
            # Strict JSON rules: "3" is no integer and 3 is no name, yet a list may become a tuple.
            return config.model_validate_json(json.dumps(values, default=str), strict=True)
        except ValidationError as error:
            found = error.errors(include_url=False)
            lines = explain_all(found, config, section, self.source, self.overrides)
            raise UsageFault(*lines) from error

    def _of_stage(self, section: str) -> Any:
        """The values of one stage alone, whose seed is that of the whole unless it says otherwise."""
        values = self.values.get(section, {})
        seed = {"seed": self.values["seed"]} if "seed" in self.values else {}
        return {**seed, **values} if isinstance(values, Mapping) else values

    @property
    def recipe(self) -> Recipe | None:
        """The published row that is repeated, None for a protocol of photos; UsageFault as `resolve`."""
        return self.resolve(Recipe, "published") if "published" in self.values else None

    @property
    def target(self) -> Target | None:
        """The scores to reach, None where there are none; UsageFault as `resolve`."""
        return self.resolve(Target, "target") if "target" in self.values else None


def read(
    name: str, overrides: Sequence[str] = (), *, seed: int | None = None, weights: str | None = None
) -> Protocol:
    """The protocol `name`, one of the package's or a FILE.toml, with `overrides` (`key=value`) on top.

    `seed` and `weights` go over the file's where they are given. A file may build on another one: with
    `extends`, which names a protocol or a FILE.toml from where the file itself lies.

    Raises:
        UsageFault: no such protocol or file, no valid TOML, a section that no stage has, or files that build
            on each other in a circle.

    """
    source, values = _values_of(name)
    protocol = Protocol(source=source, values=values)
    for override in overrides:
        protocol = with_override(protocol, override)
    _check_sections(protocol)
    given = {key: value for key, value in (("seed", seed), ("weights", weights)) if value is not None}
    return replace(protocol, values={**protocol.values, **given})


def _values_of(name: str, users: tuple[str, ...] = ()) -> tuple[str, dict[str, Any]]:
    """Short name of the source, and what it says over what it extends; `users` are built on it."""
    if name in users:
        raise UsageFault(
            f"{name}: expected protocols that do not extend each other in a circle, got "
            f"{' -> '.join((*users, name))}; leave one 'extends' out"
        )
    source, text = _text_of(name)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageFault(f"{source}: expected a TOML file, got one that cannot be read: {error}") from error
    base = values.pop(_EXTENDS, None)
    if base is None:
        return source, values
    if not isinstance(base, str):
        raise UsageFault(
            f"{source}: {_EXTENDS}: expected the name of a protocol, got {base!r}; write one name"
        )
    if base not in names():
        base = str(Path(name).parent / base)
    return source, _merged(_values_of(base, (*users, name))[1], values)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables, key by key; what is no table is replaced."""
    both = {
        key: _merged(base[key], value)
        for key, value in over.items()
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
    }
    return {**base, **over, **both}


def _check_sections(protocol: Protocol) -> None:
    """Also the sections that the command at hand does not use are looked at."""
    known = (*SECTIONS, *_GENERAL, *_ROW)
    for section in protocol.values:
        if section not in known:
            told = (text for key, text in protocol.overrides.items() if key.split(".")[0] == section)
            where = next(told, protocol.source)
            raise UsageFault(f"{where}: unknown key '{section}'; {did_you_mean(section, known)}")


def names() -> list[str]:
    """The protocols that come with the package."""
    return sorted(p.name.removesuffix(".toml") for p in _folder().iterdir() if p.name.endswith(".toml"))


def table() -> str:
    """Every protocol: its name, the hours it takes where they are known, and what it is."""
    rows = [(name, read(name).target) for name in names()]
    width = max(len(name) for name, _ in rows)
    own = [
        f"{name:<{width}}  {'':>8}  settings for photos of one's own" for name, target in rows if not target
    ]
    published = [
        f"{name:<{width}}  {target.gpu_hours:>6g} h  {target.title}" for name, target in rows if target
    ]
    return "\n".join([*own, *published, "h: hours of one P100, estimated"])


def _nearest(name: str) -> str:
    near = get_close_matches(name, names(), 1)
    return f"did you mean '{near[0]}'?" if near else f"'{DEFAULT}' is the default"


def _folder() -> Any:
    return resources.files("experiments") / "protocols"


def _text_of(name: str) -> tuple[str, str]:
    """Short name of the source, and what it says."""
    if name in names():
        return f"{name}.toml", (_folder() / f"{name}.toml").read_text(encoding="utf-8")
    path = Path(name)
    if path.suffix != ".toml":
        raise UsageFault(
            f"--protocol: expected one that `{LIST}` shows or a FILE.toml, got '{name}'; {_nearest(name)}"
        )
    if not path.is_file():
        raise UsageFault(
            f"--protocol: expected a TOML file, got '{name}', which does not exist; check its path"
        )
    try:
        return path.name, path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageFault(f"{path.name}: expected text in UTF-8, got other bytes; save it as UTF-8") from error


def with_override(
    protocol: Protocol, override: str, option: str = "--set", example: str = "pairs.seed=3"
) -> Protocol:
    """The protocol with one `key=value` laid over it; keys of nested tables are joined by dots.

    Raises:
        UsageFault: something else than `key=value` stands there.

    """
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UsageFault(f"{option}: expected key=value, got '{override}'; write it like {option} {example}")
    values = _laid_over(protocol.values, parts, _value(text.strip()))
    overrides = {**protocol.overrides, ".".join(parts): f"{option} {override}"}
    return replace(protocol, values=values, overrides=overrides)


def _laid_over(values: Mapping[str, Any], parts: Sequence[str], value: Any) -> dict[str, Any]:
    head, *rest = parts
    if not rest:
        return {**values, head: value}
    inner = values.get(head, {})
    return {**values, head: _laid_over(inner if isinstance(inner, Mapping) else {}, rest, value)}


def _value(text: str) -> Any:
    """A TOML value; text that is none is a bare string, so that `--set pairs.strategy=m3` needs no quotes."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if set(table) == {"value"} else text
