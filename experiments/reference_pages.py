"""Pages of the documentation that the code itself writes: every command with its options, every setting."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from experiments import cli
from experiments.exit_codes import NAME
from experiments.settings import protocol
from experiments.settings.run_config import RunConfig

_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "length at least"}


def commands_page() -> str:
    """Markdown: how each command is called, what it does, its options."""
    parts = [
        "# Commands",
        f"Every command of `{NAME}`, as `{NAME} COMMAND --help` prints it. Results go to stdout, progress "
        "and errors to stderr. Exit code 0 is done, 1 failed, 2 wrong usage or settings, 130 interrupted. "
        "`--quiet` anywhere leaves out progress, `--debug` anywhere shows where an error came from; "
        "`--install-completion` makes the shell complete commands and options.",
    ]
    found: Mapping[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for name, command in found.items():
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        options = [one for one in command.params if one.param_type_name == "option"]
        usage = " ".join([NAME, name, *(_argument(one) for one in arguments), "[OPTIONS]" if options else ""])
        rows = [(f"`{one.metavar}`", one.help) for one in arguments]
        rows += [(_flags(one), one.help) for one in options]
        table = ["| | |", "|---|---|", *(f"| {_cell(left)} | {_cell(right)} |" for left, right in rows)]
        parts += [f"## {name}", _prose(command.help), f"```\n{usage.strip()}\n```", "\n".join(table)]
    return "\n\n".join(parts) + "\n"


def settings_page() -> str:
    """Markdown: every setting of a run with its type, default and description, a table a part."""
    parts = [
        "# Settings",
        "What changes a result is a setting: in a protocol (`--protocol NAME` or a TOML file), or one by "
        "one with `--set KEY=VALUE`. Defaults here are those of the code, the published ones where there are "
        "any; "
        f"a run without `--protocol` takes `{protocol.DEFAULT}`, which sets some of them otherwise "
        f"(`{NAME} {protocol.LIST}` shows all protocols).",
    ]
    part, rows = None, list[str]()
    for key, field in settings():
        above = key.rpartition(".")[0]
        if above != part:
            parts += _table(part, rows)
            part, rows = above, []
        kind, default = _kind(field), _default(field)
        rows.append(
            f"| `{key}` | {_cell(kind)} | {_cell(default)} | {_cell(_prose(field.description or ''))} |"
        )
    return "\n\n".join([*parts, *_table(part, rows)]) + "\n"


def settings(config: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting below `config`: its dotted key and what the code says of it; parts after plain values."""
    parts = []
    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            parts.append((name, field.annotation))
        else:
            yield prefix + name, field
    for name, below in parts:
        yield from settings(below, f"{prefix}{name}.")


def _table(part: str | None, rows: list[str]) -> list[str]:
    if part is None:
        return []
    head = ["| key | value | default | |", "|---|---|---|---|"]
    return [f"## {part or 'the run'}", "\n".join([*head, *rows])]


def _argument(parameter: Any) -> str:
    metavar = str(parameter.metavar)
    more = "..." if parameter.nargs == -1 else ""
    return f"{metavar}{more}" if parameter.required else f"[{metavar}{more}]"


def _flags(parameter: Any) -> str:
    names = " / ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))
    return names if parameter.is_flag else f"{names} {parameter.metavar or parameter.name.upper()}"


def _kind(field: FieldInfo) -> str:
    bounds = [
        f"{words} {getattr(one, attribute):g}"
        for one in field.metadata
        for attribute, words in _BOUNDS.items()
        if getattr(one, attribute, None) is not None
    ]
    return ", ".join([_type_name(field.annotation), *bounds])


def _type_name(annotation: Any) -> str:
    inside = get_args(annotation)
    if annotation is type(None):
        return "not set"
    if inside and all(isinstance(value, str | int | float) for value in inside):
        return ", ".join(map(str, inside))
    if isinstance(annotation, type) and not inside:
        return annotation.__name__
    if "|" in str(annotation) or "Union" in str(annotation):
        return " or ".join(_type_name(one) for one in inside)
    return re.sub(r"\b(?:\w+\.)+", "", str(annotation))


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return "not set" if value is None else f"`{value}`"


def _prose(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    plain = _prose(text).replace("|", "\\|").replace("\\\\|", "\\|")
    return plain.replace("<", "&lt;").replace("*", "\\*")
