"""The published retrieval-SfM pickles: photos by hash name, their clusters, and matching pairs.

    NAME.pkl         {"train": d, "val": d}, d = {"cids", "cluster", "qidxs", "pidxs"}
    NAME-whiten.pkl  {"cids", "qidxs", "pidxs"}

`cids` are file names without folders, `cluster` numbers the 3D models, one an image, and qidxs[i], pidxs[i]
are rows of a matching pair. The photo of a cid lies in ims/ under folders that its last six characters name.
"""

import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from groundwork.files import atomic_path
from pairs.published_pairs import PublishedPairs, is_cid, put_right
from pairs.unpickling import load_plain, whole_numbers

logger = logging.getLogger(__name__)

_REMEDY = "download it again, or give another file"
_NO_SIDE: Mapping[str, Any] = {"cids": [], "cluster": [], "qidxs": [], "pidxs": []}


def read_training_pairs(path: Path) -> tuple[PublishedPairs, PublishedPairs]:
    """The sides train and val of a NAME.pkl, put right by `put_right`; val may be missing or empty.

    An image on both sides is one of train: it is left out of val. Nothing in the file is run. ValueError when
    it holds something else or rows lie outside of its images; FileNotFoundError when there is no such file.
    """
    content = load_plain(path)
    train = _side(_entry(content, "train", path, Mapping), path)
    val = _side(_NO_SIDE if content.get("val") is None else _entry(content, "val", path, Mapping), path)
    trained = set(train.cids)
    return train, val.only(
        np.array([cid not in trained for cid in val.cids], np.bool_), "of val, in train too"
    )


def read_whitening_pairs(path: Path) -> PublishedPairs:
    """The pairs of a NAME-whiten.pkl, told at once; errors as in `read_training_pairs`."""
    content = load_plain(path)
    pairs = _pairs(content, path, np.full(len(_entry(content, "cids", path)), -1))
    tell(path, pairs.told)
    return pairs


def tell(path: Path, told: Mapping[str, int]) -> None:
    """Log what was left out of a file's pairs or put right."""
    if told:
        logger.warning("pairs %s: %s", path, "; ".join(f"{count} x {why}" for why, count in told.items()))


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


def _side(content: Mapping[str, Any], path: Path) -> PublishedPairs:
    return _pairs(content, path, _integers(content, "cluster", path))


def _pairs(content: Any, path: Path, cluster: Int[np.ndarray, " n"]) -> PublishedPairs:
    cids = [cid.decode("latin1") if isinstance(cid, bytes) else cid for cid in _entry(content, "cids", path)]
    for cid in cids:
        if not isinstance(cid, str) or not is_cid(cid):
            raise _unexpected(path, "names of photos in 'cids'", repr(cid))
    query, positive = (_integers(content, key, path) for key in ("qidxs", "pidxs"))
    if len(query) != len(positive):
        raise _unexpected(path, "as many qidxs as pidxs", f"{len(query)} and {len(positive)}")
    if len(cluster) != len(cids):
        raise _unexpected(path, "a cluster for each image", f"{len(cluster)} for {len(cids)}")
    rows = np.concatenate([query, positive])
    if rows.size and (rows.min() < 0 or rows.max() >= len(cids)):
        raise _unexpected(path, f"rows 0..{len(cids) - 1}", f"{rows.min()}..{rows.max()}")
    return put_right(cids, cluster, query, positive)


def _integers(content: Any, key: str, path: Path) -> Int[np.ndarray, " k"]:
    values = _entry(content, key, path)
    try:
        return np.array(whole_numbers(values), np.int64)
    except ValueError as error:
        raise _unexpected(path, f"whole numbers in '{key}'", str(error)) from None


def _entry(content: Any, key: str, path: Path, kind: Any = Sequence) -> Any:
    """What a dict holds under a key, of one kind: dict or list."""
    if not isinstance(content, Mapping) or key not in content:
        got = ", ".join(map(repr, content)) if isinstance(content, Mapping) else type(content).__name__
        raise _unexpected(path, f"'{key}' in it", got or "an empty dict")
    value = content[key]
    if not isinstance(value, kind) or isinstance(value, str | bytes):
        raise _unexpected(path, f"a {'dict' if kind is Mapping else 'list'} in '{key}'", f"{value!r:.60}")
    return value


def _unexpected(path: Path, expected: str, got: str) -> ValueError:
    return ValueError(f"pairs {path}: expected {expected}, got {got}; {_REMEDY}")
