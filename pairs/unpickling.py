"""Pickle files of other people, read without running anything they contain."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np


def load_plain(path: Path, *, integer_arrays: bool = False) -> Any:
    """The value in a pickle file of lists, tuples, dicts, text, bytes, numbers, booleans and None.

    With `integer_arrays` numpy's arrays of integers may stand in it too, and become lists.

    Unpickling runs whatever functions a file names, so a file that names any is refused before it is run:
    ValueError saying which. ValueError too for a file that is no pickle or ends early, FileNotFoundError for
    none. Text that Python 2 wrote is read as Latin-1.
    """
    try:
        with path.open("rb") as file:
            if integer_arrays:
                return _as_lists(_IntegerArrayUnpickler(file, encoding="latin1").load())
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


class _IntegerArrayUnpickler(_PlainUnpickler):
    """Lets integers of numpy and arrays of them be built, by functions of our own."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "numpy.core.multiarray._reconstruct": _empty_array,
            "numpy.core.multiarray.scalar": _integer,
            "numpy.core.numeric._frombuffer": _array_of_buffer,
            "numpy.ndarray": "only named, never called",
            "numpy.dtype": _integer_dtype,
            "_codecs.encode": _bytes_of,
        }
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        return known[full] if full in known else super().find_class(module, name)


def _empty_array(*_: Any) -> np.ndarray:
    # What every array is before its state is set.
    return np.empty(0, dtype=np.int8)


def _integer(dtype: Any, data: Any) -> int:
    return int(np.frombuffer(data, dtype)[0])


def _array_of_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _integer_dtype(code: Any, *_: Any) -> np.dtype[Any]:
    # A copy: its byte order is set later, and numpy's own must stay.
    dtype = np.dtype(code if isinstance(code, str) else "O", False, True)
    if dtype.kind not in "iu":
        raise _NamesCode(f"an array of {dtype}")
    return dtype


def _bytes_of(text: Any, encoding: Any) -> bytes:
    # How older pickles write bytes.
    if encoding != "latin1" or not isinstance(text, str):
        raise _NamesCode(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


def _as_lists(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    # Long lists of numbers and names hold nothing to turn.
    if isinstance(value, (list, tuple)) and any(
        isinstance(x, (np.ndarray, dict, list, tuple)) for x in value
    ):
        return [_as_lists(item) for item in value]
    return value
