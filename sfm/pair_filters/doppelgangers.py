"""A pair filter: look-alikes, told by third photos that see the same details and match only one of the two.

Photos of one thing come in groups: what A and B share is seen by others too, and those match both. A match
of two look-alikes stands alone: photos beside A that see the very details which A seems to share with B were
tried with B and failed, and the other way round. Zach et al., "Disambiguating visual relations using loop
constraints", CVPR 2010, reject by such triplets; Wilson and Snavely, "Network principles for SfM", ICCV 2013,
by the missing mutual neighbours. Look-alikes that match as one group with another (the same facade in two
streets, photographed many times each) cannot be told so: every triplet of them agrees.
"""

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import csr_array

from groundwork.arrays import slices
from sfm.pair_filters.interface import Verdict, VerifiedPairs
from sfm.pair_table import image_rows

# A third photo is a witness if it shares with A this many of the keypoints that A shares with B.
_SHARED_KEYPOINTS = 10
# A pair goes if as many witnesses on either side contradict it and none supports it.
_CONTRADICTIONS = 2
_REASON = "third photos contradict it"
_BLOCK = 65_536

_Matched = dict[tuple[int, int], Int[np.ndarray, " m"]]


def drop_doppelgangers(verified: VerifiedPairs) -> Verdict:
    """Take out pairs that at least two photos on either side contradict and none supports."""
    rows = image_rows(verified.pairs)
    tried = verified.tried[verified.tried["row"] >= 0]
    outcomes = image_rows(tried)
    failed = _adjacency(outcomes[(tried["inliers"] == 0).to_numpy()], len(verified.sizes))
    matched = _adjacency(outcomes[(tried["inliers"] > 0).to_numpy()], len(verified.sizes))
    trusted = _adjacency(rows, len(verified.sizes))
    doubtful = np.flatnonzero(_may_be_contradicted(rows, trusted, failed))
    keypoints = _matched_keypoints(verified, rows, np.unique(rows[doubtful]))
    keep = np.ones(len(rows), dtype=np.bool_)
    for row in doubtful.tolist():
        one, two = rows[row].tolist()
        sides = ((one, two), (two, one))
        contradictions = [_witnesses(near, far, keypoints, trusted, failed) for near, far in sides]
        support = sum(_witnesses(near, far, keypoints, trusted, matched) for near, far in sides)
        keep[row] = support > 0 or min(contradictions) < _CONTRADICTIONS
    return Verdict(keep=keep, reasons=np.full(int((~keep).sum()), _REASON, dtype=object))


def _adjacency(pairs: Int[np.ndarray, "p 2"], num_images: int) -> csr_array:
    ends = np.concatenate([pairs, pairs[:, ::-1]])
    values = np.ones(len(ends), dtype=np.int32)
    return csr_array((values, (ends[:, 0], ends[:, 1])), shape=(num_images, num_images))


def _may_be_contradicted(
    pairs: Int[np.ndarray, "p 2"], trusted: csr_array, failed: csr_array
) -> Bool[np.ndarray, " p"]:
    """Where both images have enough neighbours that failed with the other one."""
    parts = []
    for part in slices(len(pairs), _BLOCK):
        one, two = pairs[part].T
        first = trusted[one].multiply(failed[two]).sum(axis=1)
        second = trusted[two].multiply(failed[one]).sum(axis=1)
        parts.append(np.minimum(first, second) >= _CONTRADICTIONS)
    return np.concatenate([*parts, np.empty(0, dtype=np.bool_)])


def _matched_keypoints(
    verified: VerifiedPairs, pairs: Int[np.ndarray, "p 2"], images: Int[np.ndarray, " n"]
) -> _Matched:
    """(near, far) -> the keypoints of `near` that `far` matches, for all pairs with one of these images."""
    needed = np.isin(pairs, images).any(axis=1)
    found: _Matched = {}
    for rows, inliers in verified.read_inliers(np.flatnonzero(needed)):
        for row, matches in zip(rows.tolist(), inliers, strict=True):
            one, two = pairs[row].tolist()
            found[one, two], found[two, one] = matches[:, 0], matches[:, 1]
    return found


def _witnesses(near: int, far: int, keypoints: _Matched, trusted: csr_array, outcome: csr_array) -> int:
    """Photos that share with `near` what it shares with `far`, and had this outcome with `far`."""
    thirds = np.intersect1d(_neighbours(trusted, near), _neighbours(outcome, far), assume_unique=True)
    if not len(thirds):
        return 0
    seen = [keypoints[near, third] for third in thirds.tolist()]
    shared = np.isin(np.concatenate(seen), keypoints[near, far])
    third_of = np.repeat(np.arange(len(seen)), [len(each) for each in seen])
    return int((np.bincount(third_of[shared]) >= _SHARED_KEYPOINTS).sum())


def _neighbours(graph: csr_array, image: int) -> Int[np.ndarray, " k"]:
    neighbours: Int[np.ndarray, " k"] = graph.indices[graph.indptr[image] : graph.indptr[image + 1]]
    return neighbours
