"""Local features of an extracted folder in hloc's file, for its matchers and for COLMAP.

feats-NAME.h5   a group a photo, named by it: `keypoints` (n, 2), `scores` (n,), `descriptors` (d, n) and
                `image_size` (width, height); pixel centres at whole numbers, as hloc has them
"""

from pathlib import Path

import numpy as np

from cnnimretrieval.descriptors.hloc_files import require_h5py
from cnnimretrieval.descriptors.store import read_store
from cnnimretrieval.local.store import read_local
from groundwork.files import atomic_path
from groundwork.orientation import upright_size
from groundwork.photos import UnusablePhoto, stored_shape


def export_local_hloc(folder: Path, out: Path, name: str) -> Path:
    """Write the local features of the whole photos in `folder`, which lie where they lay, into `out`.

    ValueError when h5py is missing, OSError naming the photo that cannot be read any more; the other errors
    are those of `read_store` and `read_local`.
    """
    require_h5py()
    import h5py

    store, photos = read_local(folder), Path(read_store(folder).meta.photos)
    whole = store.images["name"][store.images["x1"].isna()].drop_duplicates()
    path = out / f"feats-{name}.h5"
    with atomic_path(path) as unfinished, h5py.File(unfinished, "w") as file:
        for photo in whole:
            features = store.features(photo)
            group = file.create_group(photo)
            keypoints = group.create_dataset("keypoints", data=features.keypoints - np.float32(0.5))
            # Half the width of a place of the map at scale 1, as hloc asks for: how well a keypoint is known.
            keypoints.attrs["uncertainty"] = 8.0
            group.create_dataset("scores", data=features.scores)
            group.create_dataset("descriptors", data=features.descriptors.T)
            group.create_dataset("image_size", data=np.array(_size(photos / photo)))
    return path


def _size(path: Path) -> tuple[int, int]:
    try:
        return upright_size(*stored_shape(path))
    except UnusablePhoto as finding:
        raise OSError(f"photo {path}: expected an image, got '{finding}'; put it back") from finding
