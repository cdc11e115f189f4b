"""Pickle files of other people, read without running anything they contain."""

import pickle
from pathlib import Path
from typing import Any


def load_plain(path: Path) -> Any:
    """The value in a pickle file of lists, tuples, dicts, text, bytes, numbers, booleans and None.

    Unpickling runs whatever functions a file names, so a file that names any is refused before it is run:
    ValueError saying which. ValueError too for a file that is no pickle or ends early, FileNotFoundError for
    none. Text that Python 2 wrote is read as Latin-1.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(
            f"pickle: expected a file, got {path}, which is none; check the path"
        ) from error
    except _NamesCode as error:
        raise ValueError(
            f"pickle {path}: expected lists, dicts, text and numbers only, got {error}, which would run "
            "code; do not use this file"
        ) from error
    except OSError:
        raise
    except Exception as error:
        # Broken bytes make the unpickler raise what they like: EOFError, KeyError, AttributeError, ...
        raise ValueError(
            f"pickle {path}: expected a whole pickle file, got {type(error).__name__}: {error}; "
            "download it again"
        ) from error


class _NamesCode(Exception):
    pass


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise _NamesCode(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _NamesCode(f"a reference to {pid!r}")
