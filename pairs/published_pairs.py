"""Images and matching pairs as a published file lists them, put right where such files are known to be wrong.

What cannot be trained on is left out and counted: nothing is lost without being told.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from groundwork.arrays import Layout, freeze_arrays

_LAYOUT: Layout = {
    "cluster": (np.int64, ("n",)),
    "query": (np.int64, ("p",)),
    "positive": (np.int64, ("p",)),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class PublishedPairs:
    """Images and matching pairs in a file's own order; pairs may stand there several times.

    Attributes:
        cids: the images' names in the file, each once.
        cluster: the images that none of them may be a negative of, by number; -1 throughout where the file
            does not say.
        query: row of each pair's query.
        positive: row of its positive, another image of the same cluster.
        told: what was left out or put right, counted by reason.

    """

    cids: tuple[str, ...]
    cluster: Int[np.ndarray, " n"]
    query: Int[np.ndarray, " p"]
    positive: Int[np.ndarray, " p"]
    told: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        freeze_arrays(self, "published pairs", _LAYOUT, n=len(self.cids))

    @property
    def names(self) -> tuple[str, ...]:
        """Paths of the photos below the folder ims."""
        return tuple(photo_of(cid) for cid in self.cids)

    def only(self, kept: Bool[np.ndarray, " n"], reason: str) -> "PublishedPairs":
        """The kept images and the pairs of them; the others are told as `image: reason`, with their pairs."""
        if kept.all():
            return self
        row = np.cumsum(kept) - 1
        whole = kept[self.query] & kept[self.positive]
        lost = {f"image: {reason}": int((~kept).sum()), "pair: of an image left out": int((~whole).sum())}
        return replace(
            self,
            cids=tuple(cid for cid, keep in zip(self.cids, kept.tolist(), strict=True) if keep),
            cluster=self.cluster[kept],
            query=row[self.query[whole]],
            positive=row[self.positive[whole]],
            told=dict(Counter(self.told) + Counter(lost)),
        )


def photo_of(cid: str) -> str:
    """Path of a photo below ims: 0123abcdef -> ef/cd/ab/0123abcdef; a shorter name has fewer folders."""
    return PurePosixPath(cid[-2:], cid[-4:-2], cid[-6:-4], cid).as_posix()


def is_cid(name: str) -> bool:
    """Whether a name, which may have folders, leads to a path below ims."""
    folders = name[-6:].count("/") + name.count("\\") + name.count("\0")
    parts = (*name.split("/"), *PurePosixPath(photo_of(name)).parts)
    return not folders and not {"", ".", ".."} & set(parts)


def put_right(
    cids: Sequence[str],
    cluster: Int[np.ndarray, " n"],
    query: Int[np.ndarray, " p"],
    positive: Int[np.ndarray, " p"],
) -> PublishedPairs:
    """The pairs of a file in which an image may be named twice and pairs may be no pairs.

    An image that is named several times becomes one. A pair of an image with itself, which teaches nothing,
    is left out: the published 120k file holds 47. The clusters of two images that match, or that are one,
    show the same place and become one cluster: the reference toolbox trains on such pairs too.
    """
    first: dict[str, int] = {}
    names = [first.setdefault(cid, len(first)) for cid in cids]
    row = np.array(names, np.int64)
    one = np.unique(row, return_index=True)[1]
    query, positive = row[query], row[positive]
    itself = query == positive
    query, positive = query[~itself], positive[~itself]
    of_image = cluster[one]
    across = of_image[query] != of_image[positive]
    links = np.concatenate(
        [np.stack([of_image[row], cluster]), np.stack([of_image[query], of_image[positive]])], axis=1
    )
    told = {
        "image: named before": len(cids) - len(first),
        "pair: of a photo with itself": int(itself.sum()),
        "pair: across clusters, which count as one": int(across.sum()),
    }
    return PublishedPairs(
        cids=tuple(first),
        cluster=_joined(cluster, links)[one],
        query=query,
        positive=positive,
        told={reason: count for reason, count in told.items() if count},
    )


def _joined(cluster: Int[np.ndarray, " n"], links: Int[np.ndarray, "2 k"]) -> Int[np.ndarray, " n"]:
    """The clusters with the same number for all that links of two numbers connect: the smallest of them."""
    links = links[:, links[0] != links[1]]
    if not links.size:
        return cluster
    numbers, position = np.unique(cluster, return_inverse=True)
    rows = np.searchsorted(numbers, links)
    graph = coo_array((np.ones(rows.shape[1]), (rows[0], rows[1])), shape=(len(numbers), len(numbers)))
    component = connected_components(graph, directed=False)[1]
    smallest = numbers[np.unique(component, return_index=True)[1]]
    joined: Int[np.ndarray, " n"] = smallest[component][position.reshape(-1)]
    return joined
