"""Keys that stand for everything that decides a result: equal inputs have equal keys on every machine."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import UInt64

from groundwork.arrays import slices
from groundwork.settings import Settings

# Of a table, hashed at a time.
_ROWS = 65_536


def key_of(*parts: Any) -> str:
    """Return the SHA-256 (hex) of the parts as canonical JSON: equal values give equal keys on every machine.

    Parts are str, int, float, bool, None, Settings, and lists, tuples and dicts of these; anything else is
    a TypeError, because its text might differ between two runs.
    """
    text = json.dumps(parts, sort_keys=True, allow_nan=False, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def key_of_table(frame: pd.DataFrame) -> str:
    """Return a key of a table's columns and rows in their order, not the index; by 64 bits of each row."""
    digest = hashlib.sha256("\0".join(frame.columns).encode())
    for hashes in row_hashes(frame):
        digest.update(hashes.tobytes())
    return digest.hexdigest()


def row_hashes(frame: pd.DataFrame) -> Iterator[UInt64[np.ndarray, " b"]]:
    """64 bits for the content of each row, some rows at a time: strings are Python objects on the way."""
    for rows in slices(len(frame), _ROWS):
        hashes = pd.util.hash_pandas_object(frame.iloc[rows], index=False, categorize=False)
        yield hashes.to_numpy(dtype="<u8")


def _plain(value: object) -> Any:
    if isinstance(value, Settings):
        return value.model_dump(mode="json")
    raise TypeError(f"key: expected plain values or Settings, got {type(value).__name__}; convert it first")
