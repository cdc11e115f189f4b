"""Pickle files of other people, read without running anything they contain."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Kinds of numpy that are plain values: truth, whole and real numbers, bytes, text; lists of Python objects
# are read only where each object is plain.
_PLAIN_KINDS = "biufSUO"


def load_plain(path: Path) -> Any:
    """The value in a pickle file of lists, tuples, dicts, text, bytes, numbers, booleans and None.

    Arrays and numbers of numpy may stand in it too, and become lists and numbers, and ordered dicts become
    dicts. Text that Python 2 wrote is read as Latin-1.

    Unpickling runs whatever functions a file names, so a file that names any other is refused before it is
    run: ValueError saying which. ValueError too for a file that is no pickle or ends early,
    FileNotFoundError for none.
    """
    try:
        with path.open("rb") as file:
            return _as_plain(_PlainUnpickler(file, encoding="latin1").load())
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


def whole_numbers(values: Sequence[Any]) -> list[int]:
    """Integers, also those that tables and MATLAB keep as real numbers.

    ValueError, its text the value, for the first that is none or does not fit 64 bits.
    """
    for value in values:
        whole = isinstance(value, float) and value.is_integer()
        if not (whole or isinstance(value, int)) or isinstance(value, bool) or abs(value) >= 2**63:
            raise ValueError(f"{value!r:.60}")
    return [int(value) for value in values]


class _NamesCode(Exception):
    pass


class _Dtype:
    """Stands in for numpy's own, whose state a file could set to anything."""

    def __init__(self, code: Any, *_: Any) -> None:
        dtype = np.dtype(code if isinstance(code, str) else "V")
        if dtype.kind not in _PLAIN_KINDS:
            raise _NamesCode(f"an array of {dtype}")
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands in for an array until its state is known; then `values` holds it."""

    def __init__(self, values: np.ndarray | None = None) -> None:
        self.values = np.empty(0) if values is None else values

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, data = state
        if dtype.dtype.kind == "O":
            values = np.empty(len(data), dtype=object)
            values[:] = data
        else:
            values = np.frombuffer(_as_bytes(data), dtype.dtype)
        self.values = values.reshape(shape, order="F" if by_columns else "C")


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = {
            "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
            "numpy.core.multiarray.scalar": _scalar,
            "numpy.core.numeric._frombuffer": _array_of_buffer,
            "numpy.ndarray": "only named, never called",
            "numpy.dtype": _Dtype,
            "_codecs.encode": _encoded,
            "collections.OrderedDict": dict,
            "__builtin__.bytes": _no_bytes,
        }
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if full not in known:
            raise _NamesCode(f"{module}.{name}")
        return known[full]

    def persistent_load(self, pid: Any) -> Any:
        raise _NamesCode(f"a reference to {pid!r}")


def _scalar(dtype: Any, data: Any) -> Any:
    return np.frombuffer(_as_bytes(data), dtype.dtype)[0].item()


def _array_of_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array(np.frombuffer(data, dtype.dtype).reshape(shape, order=order))


def _as_bytes(data: Any) -> Any:
    # Python 2 wrote bytes as text.
    return data.encode("latin1") if isinstance(data, str) else data


def _no_bytes() -> bytes:
    # How older pickles write bytes of length 0.
    return b""


def _encoded(text: Any, encoding: Any) -> bytes:
    # How older pickles write bytes.
    if encoding != "latin1" or not isinstance(text, str):
        raise _NamesCode(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


def _as_plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return _as_plain(value.values.tolist())
    if isinstance(value, dict):
        return {key: _as_plain(item) for key, item in value.items()}
    # Long lists of numbers and names hold nothing to turn.
    if isinstance(value, list | tuple) and any(isinstance(x, _Array | dict | list | tuple) for x in value):
        return [_as_plain(item) for item in value]
    return value
