"""From what the validation library says about a setting to one line: the key, the value and what to do."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

_BOUNDS = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
_NOUNS = {
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "object": "a table of settings",
    "null": "nothing",
}


def explain_all(
    errors: Iterable[ErrorDetails],
    config: type[BaseModel],
    section: str,
    source: str,
    overrides: Mapping[str, str],
) -> list[str]:
    """One line for each wrong setting: the first thing that is wrong with it, as `explain` says it.

    Where a value may be of several kinds the library tells an error for each of them.
    """
    lines: dict[tuple[str, ...], str] = {}
    for error in errors:
        path, _ = _locate(config, error["loc"])
        lines.setdefault(tuple(path), explain(error, config, section, source, overrides))
    return list(lines.values())


def explain(
    error: ErrorDetails, config: type[BaseModel], section: str, source: str, overrides: Mapping[str, str]
) -> str:
    """One line for one error that validating `config` found.

    `section` is where `config` lies in the file `source` ("" is the top); `overrides` maps the dotted keys
    that were set on the command line to how they were written there.
    """
    path, owner = _locate(config, error["loc"])
    key = ".".join([section, *path] if section else path)
    where = _origin(key, source, overrides)
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key '{key}'; {did_you_mean(key, _keys(config, section))}"
    if error["type"] == "value_error":
        text = _prefixed(str(error["ctx"]["error"]), key)
        # The check of a whole table names the key in it that is wrong.
        return f"{text}; see {_origin(text.partition(':')[0], source, overrides)}"
    if error["type"] == "missing":
        return f"{source}: expected key '{key}', got none; add it, or use --set {key}=VALUE"
    expected = _expected(owner.model_json_schema(), path[-1]) if path else "a table of settings"
    return f"{key or source}: expected {expected}, got {error['input']!r}; change it in {where}"


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """What to do about an unknown `key`: the most similar of the `known` dotted keys, or all names."""
    candidates = list(known)
    parent, _, last = key.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in candidates if name.rpartition(".")[0] == parent}
    elsewhere = [name for name in candidates if name.rpartition(".")[2] == last]
    near = [siblings[name] for name in get_close_matches(last, siblings, 1)]
    best = near or elsewhere
    if best:
        return f"did you mean '{best[0]}'?"
    return f"expected one of {', '.join(sorted(siblings or candidates))}"


def _locate(config: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[list[str], type[BaseModel]]:
    """The keys along an error's location, and the class that holds the last of them.

    Positions inside a list and the tags that the library puts in for unions are no keys and are left out.
    """
    path: list[str] = []
    owner = config
    for part in loc:
        path.append(str(part))
        inner = _nested(owner, str(part))
        if inner is None or len(path) == len(loc):
            break
        owner = inner
    return path, owner


def _nested(owner: type[BaseModel], name: str) -> type[BaseModel] | None:
    field = owner.model_fields.get(name)
    annotation = field.annotation if field else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _keys(config: type[BaseModel], prefix: str) -> list[str]:
    """Every key of a config class and of the tables inside it, dotted."""
    keys: list[str] = []
    for name in config.model_fields:
        key = f"{prefix}.{name}" if prefix else name
        keys.append(key)
        inner = _nested(config, name)
        keys.extend(_keys(inner, key) if inner else [])
    return keys


def _prefixed(text: str, key: str) -> str:
    """A config class's own message, which knows of the dotted key its last parts only, or nothing."""
    parts = key.split(".")
    for number in range(len(parts) if key else 0):
        known = ".".join(parts[number:])
        if text.startswith((f"{known}:", f"{known}.")):
            return ".".join([*parts[:number], text])
    return f"{key}: {text}" if key else text


def _origin(key: str, source: str, overrides: Mapping[str, str]) -> str:
    """How the key got its value: the `--set` of it or of a table around it, else the file."""
    parts = key.split(".")
    around = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((overrides[name] for name in around if name in overrides), source)


def _expected(schema: Mapping[str, Any], name: str) -> str:
    """A field's JSON schema in words: `an integer >= 0`, `one of 'max', 'mean'`, `a list of numbers > 0`."""
    return _words(schema.get("properties", {}).get(name, {}), schema.get("$defs", {}))


def _words(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return _words(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return " or ".join(_words(option, definitions) for option in schema["anyOf"])
    if "enum" in schema:
        return f"one of {', '.join(repr(value) for value in schema['enum'])}"
    if "const" in schema:
        return repr(schema["const"])
    if schema.get("type") == "array":
        items: Mapping[str, Any] = schema.get("items") or next(iter(schema.get("prefixItems", ())), {})
        return f"a list, each {_words(items, definitions)}"
    noun = _NOUNS.get(schema.get("type", ""), "another value")
    bounds = [f"{sign} {schema[bound]:g}" for bound, sign in _BOUNDS if bound in schema]
    return " ".join([noun, " and ".join(bounds)]) if bounds else noun
