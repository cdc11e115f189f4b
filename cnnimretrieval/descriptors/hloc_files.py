"""An extracted folder in the files of hloc, for it and for COLMAP: global descriptors and a pair list.

global-feats-NAME.h5   a group a photo, named by it, with the dataset `global_descriptor`
pairs-NAME.txt         each photo with each of those nearest to it: two names a line
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from groundwork.descriptor_folder import DescriptorFolder, read_descriptor_folder
from groundwork.files import atomic_path
from groundwork.shards import Selection
from groundwork.top_k import nearest_others
from sfm.pairlists import write_pair_list

DATASET = "global_descriptor"


def export_hloc(folder: Path, out: Path, name: str, *, neighbours: int = 20) -> tuple[Path, Path]:
    """Write the descriptors of the whole photos in `folder`, and pairs of each with its nearest, into `out`.

    Rows that describe a part of a photo are left out. ValueError when h5py is missing or nothing is left;
    the other errors are those of `read_descriptor_folder`.
    """
    require_h5py()
    found = read_descriptor_folder(folder)
    rows = found.whole_photos
    if not len(rows):
        raise ValueError(
            f"export {folder}: expected descriptors of whole photos, got boxes only; extract photos"
        )
    out.mkdir(parents=True, exist_ok=True)
    features, pairs = out / f"global-feats-{name}.h5", out / f"pairs-{name}.txt"
    _write_features(found, rows, features)
    write_pair_list(pairs, _nearest(found, rows, neighbours))
    return features, pairs


def require_h5py() -> None:
    """ValueError, one line, unless what writes HDF5 is installed."""
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"export to hloc: expected the package h5py, got {error}; pip install 'cnnimretrieval[hloc]'"
        ) from error


def _write_features(found: DescriptorFolder, rows: np.ndarray, path: Path) -> None:
    import h5py

    names = found.images["name"].to_numpy()
    with atomic_path(path) as unfinished, h5py.File(unfinished, "w") as file:
        for row in rows.tolist():
            vector = np.asarray(found.vectors[row], np.float32)
            file.create_group(names[row]).create_dataset(DATASET, data=vector)


def _nearest(found: DescriptorFolder, rows: np.ndarray, neighbours: int) -> Iterator[pd.DataFrame]:
    """Each photo with those nearest to it, the nearest first, as hloc's pairs_from_retrieval writes them."""
    names = found.images["name"].to_numpy(dtype=object)[rows]
    for first, ranking in nearest_others(Selection(found.vectors, rows), neighbours):
        one = np.repeat(np.arange(first, first + len(ranking.rows)), ranking.rows.shape[1])
        yield pd.DataFrame({"name1": names[one], "name2": names[ranking.rows.ravel()]}, dtype=object)
