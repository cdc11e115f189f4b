"""Plug-ins by name: built in, an entry point of an installed package, or what a file of Python code holds."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from groundwork.digest import sha256_of


@dataclass(frozen=True, kw_only=True)
class PluginKind:
    """What plug-ins there are for one purpose.

    Attributes:
        setting: that names them, for messages.
        group: of the entry points of installed packages.
        built_in: name -> `module:attribute` of our own.

    """

    setting: str
    group: str
    built_in: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A plug-in.

    Attributes:
        name: it was asked for by.
        key: changes with its code.
        call: the plug-in itself.
        module: by which Python imports it; empty where a file holds it.

    """

    name: str
    key: str
    call: Callable[..., Any]
    module: str = ""


def load_plugin(name: str, kind: PluginKind) -> Plugin:
    """The plug-in of this name; ValueError, which says what is wrong, where there is none that loads."""
    return _load_file(name, kind) if ":" in name else _load_entry_point(name, kind)


def plugin_key(name: str, kind: PluginKind) -> str:
    """The key of the plug-in of this name, without running its code; ValueError where there is none."""
    return _key_of_file(*_in_file(name, kind)) if ":" in name else _key_of_point(_entry_point(name, kind))


def require_plugin(name: str, kind: PluginKind) -> None:
    """`load_plugin` for its errors alone; our own, which are there, are not loaded."""
    if name not in kind.built_in:
        load_plugin(name, kind)


def _entry_point(name: str, kind: PluginKind) -> EntryPoint:
    if name in kind.built_in:
        return EntryPoint(name=name, value=kind.built_in[name], group=kind.group)
    installed = entry_points(group=kind.group)
    if name not in installed.names:
        known = ", ".join([*kind.built_in, *sorted(installed.names)])
        raise ValueError(
            f"{kind.setting}: expected {known} or path/to/file.py:function, got '{name}'; check the name, or "
            "install the package that brings it"
        )
    return installed[name]


def _key_of_point(point: EntryPoint) -> str:
    return point.value if point.dist is None else f"{point.value} {point.dist.version}"


def _load_entry_point(name: str, kind: PluginKind) -> Plugin:
    point = _entry_point(name, kind)
    try:
        return Plugin(name=name, key=_key_of_point(point), call=point.load(), module=point.module)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{kind.setting}: expected a plug-in that loads, got '{name}' of {point.value}, which raises "
            f"{type(error).__name__}: {error}; install its package anew"
        ) from error


def _in_file(name: str, kind: PluginKind) -> tuple[Path, str]:
    """The file that holds a plug-in, and what it is called there."""
    path_text, _, function = name.rpartition(":")
    path = Path(path_text)
    if not path.is_file():
        raise ValueError(f"{kind.setting}: expected a file of Python code, got '{path}'; check the path")
    return path, function


def _key_of_file(path: Path, function: str) -> str:
    return f"{function} {sha256_of(path)}"


def _load_file(name: str, kind: PluginKind) -> Plugin:
    path, function = _in_file(name, kind)
    key = _key_of_file(path, function)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{kind.setting}: expected a file of Python code, got '{path}'; name it .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(
            f"{kind.setting}: expected Python code that runs, got {path}, which raises "
            f"{type(error).__name__}: {error}; mend it"
        ) from error
    found = getattr(module, function, None)
    if not callable(found):
        raise ValueError(
            f"{kind.setting}: expected a function in {path}, got no '{function}'; check the name"
        )
    return Plugin(name=f"{path.name}:{function}", key=key, call=found)
