"""Files that are either whole or absent: written under another name, flushed, renamed."""

import errno
import json
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import read_array_header_1_0, read_magic, write_array_header_1_0

from groundwork.memory import give_back

# Names that start so belong to work in progress, or to a process that was killed at it.
UNFINISHED = ".unfinished-"
REMEDY = "delete it and run again the command that wrote it"
_FULL_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 20


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the name `path` when the block ends well, and is removed otherwise.

    The block may write a file or make a folder; what stood at `path` before is replaced. Missing parent
    folders are made. A process killed inside the block leaves only a hidden leftover, which `sweep` removes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f"{UNFINISHED}{os.getpid()}-{token_hex(4)}-{path.name}"
    try:
        yield unfinished
        _flush_to_disk(unfinished)
        _replace(unfinished, path)
    except BaseException:
        _remove(unfinished)
        raise


def sweep(folder: Path) -> None:
    """Remove what killed processes left unfinished below `folder`; only while nothing else writes there."""
    for leftover in folder.rglob(f"{UNFINISHED}*"):
        _remove(leftover)


def discard(path: Path) -> None:
    """Remove a file or folder at once, as far as anybody can see; no error where there is none."""
    with suppress(FileNotFoundError):
        _remove(_aside(path))


def files_of(path: Path) -> list[Path]:
    """All files of a folder, with those of its sub-folders; of a file itself."""
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def size_and_time(path: Path) -> tuple[int, int]:
    """Of a file; -1 for a missing one."""
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def require_space(folder: Path) -> None:
    """Raise OSError (no space left) where the disk of `folder` is as good as full.

    For native code, which fails at a full disk in ways that look like anything else.
    """
    if shutil.disk_usage(folder).free < _FULL_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def create_array(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> np.memmap:
    """Return a new .npy file as a memory map to be written, zeros as yet, its room on the disk reserved.

    Without the reservation a full disk ends the process in the middle of an assignment (SIGBUS). OSError
    when there is no room.
    """
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("r+b") as file:
        reserve(file.fileno(), path.stat().st_size, path)
    return rows


def release(rows: np.ndarray) -> None:
    """Let go of the memory that holds what was touched of a memory map; nothing for any other array.

    Its pages count as memory of this process although the system may take them back, which it does late.
    """
    if isinstance(rows.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        rows.base.madvise(mmap.MADV_DONTNEED)


def keep_rows(path: Path, n: int) -> None:
    """Shorten an .npy file to its first `n` rows; its header has room for any number of rows."""
    with path.open("r+b") as file:
        read_magic(file)
        shape, fortran_order, dtype = read_array_header_1_0(file)
        data_start = file.tell()
        file.seek(0)
        header = {"shape": (n, *shape[1:]), "fortran_order": fortran_order, "descr": dtype.str}
        write_array_header_1_0(file, header)
        assert file.tell() == data_start
        file.truncate(data_start + n * dtype.itemsize * shape[1])


def reserve(descriptor: int, size: int, where: Path) -> None:
    """Make room on the disk for an open file of `size` bytes; OSError that names `where` if there is none."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        else:
            _write_back(descriptor, size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(where)) from None


def _write_back(descriptor: int, size: int) -> None:
    """Write over `size` bytes what stands there, which gives them their place on the disk."""
    for start in range(0, size, _BLOCK_BYTES):
        os.lseek(descriptor, start, os.SEEK_SET)
        block = os.read(descriptor, min(_BLOCK_BYTES, size - start))
        os.lseek(descriptor, start, os.SEEK_SET)
        os.write(descriptor, block.ljust(min(_BLOCK_BYTES, size - start), b"\0"))


def json_text(value: Any) -> str:
    """`value` as indented JSON with sorted keys; NaN is refused, for no other reader knows it."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as `json_text`."""
    with atomic_path(path) as unfinished:
        unfinished.write_text(json_text(value), encoding="utf-8")


def read_json(path: Path, remedy: str = REMEDY) -> Any:
    """Return the value stored in a JSON file; ValueError that names a damaged one and says the remedy."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got '{error}'; {remedy}") from error


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as Parquet, without its index."""
    with atomic_path(path) as unfinished:
        frame.to_parquet(unfinished, index=False)


def open_array(path: Path, remedy: str = REMEDY) -> np.memmap:
    """Return the array stored in an .npy file as a memory map to be read; ValueError names a damaged one.

    Not `np.load`, which opens archives, too. An array of pickled objects is refused.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, OverflowError) as error:
        raise ValueError(f"{path}: expected an .npy file of numbers, got none ({error}); {remedy}") from error


def read_table(path: Path, columns: list[str] | None = None, remedy: str = REMEDY) -> pd.DataFrame:
    """Return the table stored in a Parquet file, or some of its columns; ValueError names a damaged one."""
    try:
        # A column at a time, let go of before the next is read: a large table does not stand in memory twice.
        with path.open("rb") as opened, pq.ParquetFile(opened) as file:
            missing = sorted(set(columns or ()) - set(file.schema_arrow.names))
            if missing:
                raise ValueError(f"{path}: expected the column '{missing[0]}', got none; {remedy}")
            table = pd.DataFrame(
                {name: _read_column(file, name) for name in columns or file.schema_arrow.names}, copy=False
            )
    except (pa.ArrowException, OSError) as error:
        # Its own errors quote bytes; those of the system have a number, and name the file.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path}: expected a Parquet table, got other bytes; {remedy}") from error
    give_back()  # what reading took on the way
    return table


def _read_column(file: pq.ParquetFile, name: str) -> "pd.Series[Any]":
    read: pd.DataFrame = file.read(columns=[name]).to_pandas(split_blocks=True, self_destruct=True)
    return read[name]


def _flush_to_disk(path: Path) -> None:
    # Without this a power cut can leave the new name pointing at an empty file.
    # Windows flushes only what is open for writing; elsewhere a file may forbid that and be flushed.
    access = os.O_RDWR if os.name == "nt" else os.O_RDONLY
    for file in files_of(path):
        descriptor = os.open(file, access)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace(source: Path, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        # A folder cannot be renamed onto a full one: the old one steps aside first.
        if not source.is_dir():
            raise IsADirectoryError(
                errno.EISDIR, f"{target}: expected a file of ours or none, got a folder; move it away"
            )
        aside = _aside(target)
        source.rename(target)
        _remove(aside)
    else:
        source.replace(target)


def _aside(path: Path) -> Path:
    """Give what stands at `path` the name of something unfinished, and return that."""
    aside = path.parent / f"{UNFINISHED}{os.getpid()}-{token_hex(4)}-{path.name}"
    return path.rename(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
