"""Files that COLMAP left: where its models and databases lie, and whether a binary model is whole.

COLMAP takes a points3D.bin that was cut for a smaller one, and needs minutes and all memory for a damaged
count. A binary file says how many entries it holds and each entry how long it is: walking from one to the
next, without reading what they hold, tells whether the file ends where it should.
"""

import mmap
import struct
from collections.abc import Callable
from pathlib import Path

_MODEL_FILES = ("cameras", "images", "points3D")
_SUFFIXES = (".bin", ".txt")
# Of COLMAP's camera models by number, from 0: how many parameters each has.
NUM_CAMERA_PARAMS = (3, 4, 4, 5, 8, 8, 12, 5, 4, 5, 12, 16, 4, 5, 3, 4, 6, 2)

# Takes the bytes of a file and where an entry starts; returns where it ends. struct.error or IndexError
# where the file ends within it.
_Step = Callable[[mmap.mmap, int], int]


def model_folders(source: Path) -> list[Path]:
    """The COLMAP models in a folder: itself, or its subfolders, or those of its subfolder sparse or models.

    The first of these that holds one; subfolders by number, then by name.
    """
    for parent in (source, source / "sparse", source / "models"):
        if _is_model(parent):
            return [parent]
        if found := [folder for folder in _subfolders(parent) if _is_model(folder)]:
            return found
    return []


def database_beside(source: Path) -> Path | None:
    """The COLMAP database that lies in the folder of models or in the one around it, if there is one only."""
    found = sorted(path for folder in (source, source.parent) for path in folder.glob("*.db"))
    return found[0] if len(found) == 1 else None


def database_alone(source: Path) -> Path | None:
    """The COLMAP database that `source` is, or that lies in it without a model; None where a model does.

    ValueError when the folder holds several.
    """
    if source.is_file():
        return source
    found = [] if model_folders(source) else sorted(source.glob("*.db"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"database {source}: expected one in this folder, got {names}; name one of them")
    return found[0] if found else None


def model_stamps(folder: Path) -> list[list[str | int]]:
    """Name, bytes and time of the last change of each file of a model."""
    facts = sorted((path.name, path.stat()) for path in folder.glob("*.*") if path.suffix in _SUFFIXES)
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in facts]


def require_whole(folder: Path) -> None:
    """Raise ValueError naming the first binary file of a model that ends before its last entry, or later."""
    for name, step in _STEPS.items():
        path = folder / name
        if path.is_file():
            _walk(path, step)


def _is_model(folder: Path) -> bool:
    return any(all((folder / f"{part}{suffix}").is_file() for part in _MODEL_FILES) for suffix in _SUFFIXES)


def _subfolders(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("*") if path.is_dir()]
    return sorted(found, key=lambda path: (not path.name.isdecimal(), path.name.zfill(20), path.name))


def _walk(path: Path, step: _Step) -> None:
    size = path.stat().st_size
    if size < 8:
        raise ValueError(f"{path}: expected the number of its entries, got {size} bytes; copy it again")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        (count,) = struct.unpack_from("<Q", data)
        position = 8
        for number in range(count):
            try:
                position = step(data, position)
            except (struct.error, IndexError):
                position = size + 1
            if position > size:
                raise ValueError(
                    f"{path}: expected {count} entries, got {size} bytes, which end within entry "
                    f"{number + 1}; copy it again"
                )
    if position < size:
        raise ValueError(
            f"{path}: expected {count} entries in {position} bytes, got {size} bytes; copy it again"
        )


def _past_camera(data: mmap.mmap, start: int) -> int:
    # id, model, width, height; parameters
    (model,) = struct.unpack_from("<I", data, start + 4)
    return start + 24 + 8 * NUM_CAMERA_PARAMS[model]


def _past_image(data: mmap.mmap, start: int) -> int:
    # id, rotation, translation, camera; name and a zero; points of 24 bytes
    zero = data.find(b"\0", start + 64)
    if zero < 0:
        raise IndexError(start)
    (points,) = struct.unpack_from("<Q", data, zero + 1)
    return zero + 9 + 24 * int(points)


def _past_point(data: mmap.mmap, start: int) -> int:
    # id, position, colour, error; elements of 8 bytes
    (elements,) = struct.unpack_from("<Q", data, start + 43)
    return start + 51 + 8 * int(elements)


def _past_rig(data: mmap.mmap, start: int) -> int:
    # id, sensors; the reference sensor's kind and id; of each other one also whether it has a pose, and that
    (sensors,) = struct.unpack_from("<I", data, start + 4)
    position = start + (16 if sensors else 8)
    for _ in range(1, sensors):
        position += 65 if data[position + 8] else 9
    return position


def _past_frame(data: mmap.mmap, start: int) -> int:
    # id, rig, pose; data of 16 bytes
    (entries,) = struct.unpack_from("<I", data, start + 64)
    return start + 68 + 16 * int(entries)


# Rigs and frames are there since COLMAP 3.12.
_STEPS: dict[str, _Step] = {
    "rigs.bin": _past_rig,
    "cameras.bin": _past_camera,
    "frames.bin": _past_frame,
    "images.bin": _past_image,
    "points3D.bin": _past_point,
}
