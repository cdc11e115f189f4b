"""The published retrieval-SfM pickles: photos by hash name, their clusters, and matching pairs.

    NAME.pkl         {"train": d, "val": d}, d = {"cids", "cluster", "qidxs", "pidxs"}
    NAME-whiten.pkl  {"cids", "qidxs", "pidxs"}

`cids` are file names without folders, `cluster` numbers the 3D models, one an image, and qidxs[i], pidxs[i]
are rows of a matching pair. The photo of a cid lies in ims/ under folders that its last six characters name.
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Int

from groundwork.arrays import Layout, freeze_arrays
from groundwork.files import atomic_path
from pairs.unpickling import load_plain

_LAYOUT: Layout = {
    "cluster": (np.int64, ("n",)),
    "query": (np.int64, ("p",)),
    "positive": (np.int64, ("p",)),
}
_REMEDY = "download it again, or give another file"


@dataclass(frozen=True, kw_only=True, eq=False)
class PublishedPairs:
    """Images and matching pairs in a file's own order; pairs may stand there several times.

    Attributes:
        cids: the images' names in the file.
        cluster: the model of each image; -1 throughout where the file does not say.
        query: row of each pair's query.
        positive: row of its positive.

    """

    cids: tuple[str, ...]
    cluster: Int[np.ndarray, " n"]
    query: Int[np.ndarray, " p"]
    positive: Int[np.ndarray, " p"]

    def __post_init__(self) -> None:
        freeze_arrays(self, "published pairs", _LAYOUT, n=len(self.cids))

    @property
    def names(self) -> tuple[str, ...]:
        """Paths of the photos below the folder ims."""
        return tuple(photo_of(cid) for cid in self.cids)


def photo_of(cid: str) -> str:
    """Path of a photo below ims: 0123abcdef -> ef/cd/ab/0123abcdef."""
    return f"{cid[-2:]}/{cid[-4:-2]}/{cid[-6:-4]}/{cid}"


def read_training_pairs(path: Path) -> tuple[PublishedPairs, PublishedPairs]:
    """The sides train and val of a NAME.pkl.

    Nothing in the file is run. ValueError when it holds something else, when rows lie outside of its images
    or a pair's two images in different clusters; FileNotFoundError when there is no such file.
    """
    content = load_plain(path, integer_arrays=True)
    sides = [_entry(content, side, Mapping, path) for side in ("train", "val")]
    train, val = (_pairs(side, path, cluster=_integers(side, "cluster", path)) for side in sides)
    return train, val


def read_whitening_pairs(path: Path) -> PublishedPairs:
    """The pairs of a NAME-whiten.pkl; errors as in `read_training_pairs`."""
    content = load_plain(path, integer_arrays=True)
    count = len(_entry(content, "cids", list | tuple, path))
    return _pairs(content, path, cluster=np.full(count, -1))


def write_training_pairs(train: PublishedPairs, val: PublishedPairs, path: Path) -> None:
    """Write a NAME.pkl that the reference toolbox reads, atomically; indices of any size."""
    _dump({"train": _plain(train), "val": _plain(val)}, path)


def write_whitening_pairs(pairs: PublishedPairs, path: Path) -> None:
    """Write a NAME-whiten.pkl that the reference toolbox reads, atomically."""
    _dump({key: value for key, value in _plain(pairs).items() if key != "cluster"}, path)


def _plain(pairs: PublishedPairs) -> dict[str, list[Any]]:
    return {
        "cids": list(pairs.cids),
        "cluster": pairs.cluster.tolist(),
        "qidxs": pairs.query.tolist(),
        "pidxs": pairs.positive.tolist(),
    }


def _dump(content: Mapping[str, Any], path: Path) -> None:
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        # The protocol that every Python 3 reads.
        pickle.dump(content, file, protocol=2)


def _pairs(content: Any, path: Path, *, cluster: np.ndarray) -> PublishedPairs:
    cids = _entry(content, "cids", list | tuple, path)
    for cid in cids:
        if not isinstance(cid, str) or len(cid) < 6 or PurePosixPath(cid).name != cid:
            raise _unexpected(path, "names of at least 6 characters without folders", repr(cid))
    query, positive = (_integers(content, key, path) for key in ("qidxs", "pidxs"))
    if len(query) != len(positive):
        raise _unexpected(path, "as many qidxs as pidxs", f"{len(query)} and {len(positive)}")
    if len(cluster) != len(cids):
        raise _unexpected(path, "a cluster for each image", f"{len(cluster)} for {len(cids)}")
    rows = np.concatenate([query, positive])
    if rows.size and (rows.min() < 0 or rows.max() >= len(cids)):
        raise _unexpected(path, f"rows 0..{len(cids) - 1}", f"{rows.min()}..{rows.max()}")
    if (query == positive).any():
        raise _unexpected(path, "pairs of two images", f"row {int(query[query == positive][0])} with itself")
    apart = cluster[query] != cluster[positive]
    if apart.any():
        raise _unexpected(
            path, "the two images of a pair in one cluster", f"{int(apart.sum())} pairs in two clusters"
        )
    return PublishedPairs(cids=tuple(cids), cluster=cluster, query=query, positive=positive)


def _integers(content: Any, key: str, path: Path) -> Int[np.ndarray, " k"]:
    values = _entry(content, key, list | tuple, path)
    wrong = next((value for value in values if not isinstance(value, int) or isinstance(value, bool)), None)
    if wrong is not None:
        raise _unexpected(path, f"integers in '{key}'", repr(wrong))
    return np.asarray(values, dtype=np.int64)


def _entry(content: Any, key: str, kind: Any, path: Path) -> Any:
    value = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(value, kind):
        raise _unexpected(path, f"'{key}' in it", "none or something else")
    return value


def _unexpected(path: Path, expected: str, got: str) -> ValueError:
    return ValueError(f"pairs {path}: expected {expected}, got {got}; {_REMEDY}")
