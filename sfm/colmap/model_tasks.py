"""The tasks of an import of models: each reads a COLMAP model and keeps its photos of the collection as ours.

In a child process: a damaged model can end the process that reads it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from groundwork.batches import CHILD_BYTES, Batch
from groundwork.child import Limits
from groundwork.files import atomic_path, read_table
from groundwork.keys import key_of
from sfm.colmap.files import model_stamps, require_whole
from sfm.colmap.frames import Photo, Reframe, frames_of
from sfm.model import ARRAYS, Model, only_images, save_model


def model_batch(number: int, folder: Path, base: str) -> Batch[Path]:
    """What `read_model` takes, with limits: a damaged model may ask for any time and memory."""
    stamps = model_stamps(folder)
    size = sum(int(each[1]) for each in stamps)
    limits = Limits(seconds=60 + size / 1e6, memory_bytes=1_000_000_000 + 30 * size)
    return Batch(
        name=f"model-{number:05d}",
        key=key_of(base, str(folder), stamps),
        items=(folder,),
        memory_bytes=CHILD_BYTES + 10 * size,
        limits=limits,
    )


def read_model(batch: Batch[Path], *, listing: Path, folder: Path) -> tuple[dict[str, Any], Sequence[Path]]:
    """Write the model of a batch to `folder`, in the frame of the stored photos, with arrays.npz beside.

    `listing` is the collection's table. Returns facts, which say why where nothing was written.
    """
    # In the child only: pycolmap is heavy, and ends the process when it fails.
    from sfm.colmap import calls as colmap

    if not batch.items:
        return {"missing": 0, "names": []}, []
    (source,) = batch.items
    path = folder / batch.name
    try:
        require_whole(source)
        model = colmap.read_reconstruction(source)
        facts, frames = _compared(model, _photos(listing))
        if not frames:
            return facts, []
        with atomic_path(path) as unfinished:
            unfinished.mkdir()
            if any(frame.is_needed for frame in frames.values()):
                colmap.write_reframed(source, unfinished, frames)
                model = colmap.read_reconstruction(unfinished)
            else:
                colmap.copy_reconstruction(source, unfinished)
            facts["error_px"] = colmap.summarise(unfinished).reprojection_error_px
            used = only_images(model, [name in frames for name in model.names])
            save_model(used, unfinished / ARRAYS)
    except (RuntimeError, ValueError, IndexError, MemoryError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        return {"missing": 0, "names": [], "failed": text}, []
    return facts, [path]


def _photos(listing: Path) -> dict[str, Photo]:
    table = read_table(listing, ["name", "status", "width", "height", "orientation"])
    usable = table.loc[table["status"] == "usable", ["name", "width", "height", "orientation"]]
    return {
        name: Photo(size=(width, height), orientation=orientation)
        for name, width, height, orientation in usable.itertuples(index=False)
    }


def _compared(model: Model, photos: Mapping[str, Photo]) -> tuple[dict[str, Any], dict[str, Reframe]]:
    """Facts about a model, and how each image that can be used comes into the frame of its photo.

    No image where the facts say why: none is a photo, no points are shared, or a size is another.
    """
    missing = [name for name in model.names if name not in photos]
    facts: dict[str, Any] = {"missing": len(missing), "names": missing[:3]}
    sizes = zip(model.names, map(tuple, model.sizes.tolist()), strict=True)
    try:
        frames = frames_of({name: size for name, size in sizes if name in photos}, photos)
    except ValueError as error:
        return facts | {"refused": str(error)}, {}
    # A mirrored photo has no place in the world of a model that was made of unmirrored ones.
    kept = {name: frame for name, frame in frames.of_image.items() if not frame.mirrors}
    facts |= {"frames": frames.tell(), "mirrored": [name for name in frames.of_image if name not in kept]}
    if kept and not only_images(model, [name in kept for name in model.names]).num_points:
        seen = f"{model.num_points} that no two of its photos see" if model.num_points else "none"
        return facts | {"pointless": f"expected 3D points that its photos share, got {seen}"}, {}
    return facts, kept
