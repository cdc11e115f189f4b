"""Images of one model that show different things: no shared track, and neither in view of the other."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_array

from groundwork.arrays import freeze_arrays
from pairs.frustum import frustum_overlaps
from pairs.image_pairs import PairGeometry
from sfm.covisibility import visibility
from sfm.model import Model

# Drawn for each pair wanted: most images of a model may look at the same thing.
_DRAWS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class ApartPairs:
    """Ordered pairs (query, negative) as rows of a list of images, by query: proof that they do not match."""

    query: Int[np.ndarray, " a"]
    negative: Int[np.ndarray, " a"]

    def __post_init__(self) -> None:
        freeze_arrays(self, "apart pairs", {"query": (np.int64, ("a",)), "negative": (np.int64, ("a",))})
        if (np.diff(self.query) < 0).any():
            raise ValueError("apart pairs: expected pairs by rising query, got another order; sort them")

    def __len__(self) -> int:
        return len(self.query)

    def without(self, other: PairGeometry) -> "ApartPairs":
        """Those that are in neither order among the pairs of `other`."""
        rows = [self.query, self.negative, other.query, other.positive]
        size = 1 + max((int(part.max()) for part in rows if len(part)), default=0)
        known = np.concatenate([other.query * size + other.positive, other.positive * size + other.query])
        kept = ~np.isin(self.query * size + self.negative, known)
        return ApartPairs(query=self.query[kept], negative=self.negative[kept])


def no_pairs() -> ApartPairs:
    """Of a collection in which nothing is known to lie apart."""
    return ApartPairs(query=np.empty(0, np.int64), negative=np.empty(0, np.int64))


def apart_pairs(model: Model, per_query: int, rng: np.random.Generator) -> ApartPairs:
    """Up to `per_query` random images for each image of the model that lie apart from it.

    Apart are two images that share no track and of which neither has a point of the other (of at most 256)
    in its frustum, occluded or not. Not published. Memory grows with images times `per_query`: in a large
    model some draws are looked at, not all pairs, so an image may get fewer than there are.
    """
    visible = visibility(model)
    query, other = _draw(model.num_images, _DRAWS * per_query, rng)
    unshared = _num_shared(visible, query, other) == 0
    query, other = query[unshared], other[unshared]
    outside = frustum_overlaps(model, visible, query, other) == 0
    query, other = query[outside], other[outside]
    outside = frustum_overlaps(model, visible, other, query) == 0
    query, other = query[outside], other[outside]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    return ApartPairs(query=query[rank < per_query], negative=other[rank < per_query])


def _draw(
    num_images: int, count: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"]]:
    """Different other images for each image, in random order by rising image; all where there are no more."""
    if count >= num_images - 1:
        keys = np.arange(num_images**2)
    else:
        drawn = rng.integers(num_images, size=(num_images, count))
        keys = np.unique(np.arange(num_images)[:, None] * num_images + drawn)
    query, other = np.divmod(rng.permutation(keys), num_images)
    order = np.argsort(query, kind="stable")
    query, other = query[order], other[order]
    return query[query != other], other[query != other]


def _num_shared(
    visible: csr_array, query: Int[np.ndarray, " p"], other: Int[np.ndarray, " p"]
) -> Int[np.ndarray, " p"]:
    """Tracks that the two images of each pair share; block by block, because rows are copied."""
    shared = np.empty(len(query), dtype=np.int64)
    for start in range(0, len(query), 1 << 10):
        block = slice(start, start + (1 << 10))
        shared[block] = visible[query[block]].multiply(visible[other[block]]).sum(axis=1)
    return shared
