"""Frozen records of plain arrays: their types and shapes checked once, then held as read-only views."""

from collections.abc import Iterable, Iterator, Mapping, Sized

import numpy as np
from jaxtyping import Int64

# Of each field: the type it is held in, and its shape, in numbers and in names of axes that fields share.
Layout = Mapping[str, tuple[type[np.generic], tuple[str | int, ...]]]


def freeze_arrays(record: object, thing: str, layout: Layout, **axes: int) -> None:
    """Check and replace the array fields of a frozen dataclass, for its `__post_init__`.

    Integers are taken where floats are wanted, not the other way round: a row that became 3.0 is a mistake
    upstream. A named axis has the length given in `axes`, else that of the first field that has it. TypeError
    and ValueError name `thing` and the field.
    """
    for field, (dtype, shape) in layout.items():
        object.__setattr__(record, field, _checked(thing, field, getattr(record, field), dtype, shape, axes))


def slices(length: int, size: int) -> Iterator[slice]:
    """0 to `length` in pieces of `size`, the last one shorter: what is worked on at a time."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def starts_of(parts: Iterable[Sized]) -> Int64[np.ndarray, " k"]:
    """Where each of some parts starts when they stand end to end, and behind them their end."""
    return np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])


def _checked(
    thing: str,
    field: str,
    value: object,
    dtype: type[np.generic],
    shape: tuple[str | int, ...],
    axes: dict[str, int],
) -> np.ndarray:
    array = np.asarray(value)
    if not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise TypeError(
            f"{thing}: expected {np.dtype(dtype)} in '{field}', got {array.dtype}; convert it first"
        )
    # A view, so that the caller's own array stays writable.
    array = array.astype(dtype, copy=False).view()
    length = len(array) if array.ndim else 0
    wanted = tuple(axes.setdefault(axis, length) if isinstance(axis, str) else axis for axis in shape)
    if array.shape != wanted:
        raise ValueError(
            f"{thing}: expected '{field}' of shape {wanted}, got {array.shape}; pass aligned arrays"
        )
    if np.issubdtype(dtype, np.floating) and np.isnan(array).any():
        raise ValueError(
            f"{thing}: expected no NaN in '{field}', got one; leave out what could not be computed"
        )
    array.flags.writeable = False
    return array
