"""Arrays kept on disk by name, up to a number of bytes: what is slow to make and may always be made again."""

import json
import logging
import os
import shutil
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from groundwork.files import discard

logger = logging.getLogger(__name__)

_VERSION = 1
_DATA, _INDEX = ".arrays", ".index"
# Left free on the disk for all that has to be written besides.
_LEFT_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where an array lies in the file of data, and what it is."""

    start: int
    shape: tuple[int, ...]
    dtype: str
    checksum: int

    @property
    def size(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize


class KeptArrays:
    """Arrays by name in two files, those of earlier processes included; for one process at a time.

    A name stands for the content: what is there already is not written again. What is damaged, cut off or
    was kept under another `key` is as if it had never been there. Files are read and written, not mapped:
    an array is used whole, mapped pages would count as memory of this process, and a file that is shortened
    by somebody else, or a full disk, would end it.

    `limit_bytes` bounds the data; so does the disk, of which a part is left free. Either is said once, in
    the log, when it is reached.
    """

    def __init__(self, path: Path, key: str, limit_bytes: int) -> None:
        self._data_path, self._index_path = (path.with_name(path.name + end) for end in (_DATA, _INDEX))
        self._limit_bytes = limit_bytes
        self._full = False
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._places = self._former(key)
        self._end = max((place.start + place.size for place in self._places.values()), default=0)
        if not self._places:
            self._data_path.write_bytes(b"")
            self._index_path.write_bytes(_line({"version": _VERSION, "key": key}))

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def num_bytes(self) -> int:
        """Of all arrays."""
        return self._end

    @staticmethod
    def remove_others(path: Path) -> None:
        """Remove what is kept in the same folder under other names than `path`."""
        for end in (_DATA, _INDEX):
            for other in path.parent.glob(f"*{end}"):
                if other.name != path.name + end:
                    discard(other)

    def get(self, name: str) -> Shaped[np.ndarray, "..."] | None:
        """The array of that name; None where there is none, or a damaged one, which is forgotten."""
        with self._lock:
            place = self._places.get(name)
            if place is None:
                return None
            content = bytearray(place.size)
            if self._read(place.start, content) == place.size and zlib.crc32(content) == place.checksum:
                return np.frombuffer(content, place.dtype).reshape(place.shape)
            del self._places[name]
        logger.warning("%s: the kept array %s is damaged; it is made again", self._data_path, name)
        return None

    def put(self, name: str, array: Shaped[np.ndarray, "..."]) -> None:
        """Keep an array, as long as there is room."""
        content = np.ascontiguousarray(array)
        with self._lock:
            if self._full or name in self._places or not self._has_room(content.nbytes):
                return
            its_bytes = content.data.cast("B") if content.size else b""
            place = _Place(
                start=self._end,
                shape=content.shape,
                dtype=content.dtype.str,
                checksum=zlib.crc32(its_bytes),
            )
            try:
                _write(self._data_path, place.start, its_bytes)
                _write(self._index_path, None, _line({"name": name, **vars(place)}))
            except OSError as error:
                self._stop(f"{error.strerror}, and the disk is as full as it may be")
                return
            self._places[name] = place
            self._end += place.size

    def _read(self, start: int, into: bytearray) -> int:
        try:
            with self._data_path.open("rb") as file:
                file.seek(start)
                return file.readinto(into)
        except OSError:
            return -1

    def _has_room(self, size: int) -> bool:
        if self._end + size > self._limit_bytes:
            self._stop("its limit")
        elif shutil.disk_usage(self._data_path.parent).free < size + _LEFT_BYTES:
            self._stop(f"a disk with {_LEFT_BYTES / 1e9:.1f} GB left")
        return not self._full

    def _stop(self, reason: str) -> None:
        self._full = True
        logger.warning(
            "%s: kept %d arrays, %.2f GB, up to %s; what is not kept is made each time",
            *(self._data_path, len(self._places), self._end / 1e9, reason),
        )

    def _former(self, key: str) -> dict[str, _Place]:
        """What the files hold of arrays of this key; nothing when they are of another, or no such files."""
        try:
            lines = self._index_path.read_bytes().splitlines(keepends=True)
            size = self._data_path.stat().st_size
        except FileNotFoundError:
            return {}
        if not lines or lines[0] != _line({"version": _VERSION, "key": key}):
            return {}
        whole = 0
        places = {}
        for line in lines[1:]:
            entry = _parsed(line)
            if entry is None:
                break
            whole += 1
            name, place = entry
            if place.start + place.size <= size:
                places[name] = place
        if whole + 1 < len(lines):  # the last writing was cut off
            os.truncate(self._index_path, sum(map(len, lines[: whole + 1])))
        return places


def _line(values: Mapping[str, Any]) -> bytes:
    """A line of the index: JSON with its own checksum before it."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=True).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parsed(line: bytes) -> tuple[str, _Place] | None:
    """Name and place that a line tells; None when it is not whole."""
    try:
        values = json.loads(line[9:])
        if _line(values) != line:
            return None
        name = values.pop("name")
        return name, _Place(**{**values, "shape": tuple(values["shape"])})
    except (ValueError, KeyError, TypeError):
        return None


def _write(path: Path, start: int | None, content: bytes | memoryview) -> None:
    """Write at a place in a file that is there, or at its end."""
    with path.open("r+b") as file:
        file.seek(start or 0, os.SEEK_SET if start is not None else os.SEEK_END)
        file.write(content)
