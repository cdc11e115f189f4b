"""Plug-ins between matching and mapping: verified pairs that show no common place go, each with a reason.

A filter is a callable that takes `VerifiedPairs` and returns a `Verdict`. Settings name it: one of the
built-in ones, the entry point of an installed package in the group `cnnimretrieval.pair_filters`, or
`path/to/file.py:function`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int, Shaped, UInt32

from groundwork.plugins import Plugin, PluginKind, load_plugin
from sfm.featurestore import FeatureStore
from sfm.matching import read_inliers
from sfm.pair_table import ENDS
from sfm.printed import PrintedKeypoints

FILTERS = PluginKind(
    setting="graph.filters",
    group="cnnimretrieval.pair_filters",
    built_in={
        "stationary": "sfm.pair_filters.stationary:drop_stationary",
        "doppelgangers": "sfm.pair_filters.doppelgangers:drop_doppelgangers",
    },
)


@dataclass(frozen=True, kw_only=True, eq=False)
class VerifiedPairs:
    """What a filter may look at.

    Attributes:
        pairs: the pairs that are still trusted, row k being pair k; columns `sfm.pair_table.MATCHED`.
        tried: the same columns for every pair that was matched, most of them without success: `inliers` is 0
            where verification failed. `row` is -1 where a pair could not be tried.
        sizes: width and height in stored pixels, of image_id r + 1 in row r.
        matches: the folder of the inliers.
        store: the keypoints.
        min_inliers: of a trusted pair.
        printed: keypoints that filters before found on print: their matches are left out.

    """

    pairs: pd.DataFrame
    tried: pd.DataFrame
    sizes: Int[np.ndarray, "n 2"]
    matches: Path
    store: FeatureStore
    min_inliers: int
    printed: PrintedKeypoints = field(default_factory=PrintedKeypoints)

    def read_inliers(
        self, rows: Int[np.ndarray, " p"]
    ) -> Iterator[tuple[Int[np.ndarray, " b"], list[UInt32[np.ndarray, "m 2"]]]]:
        """Yield some rows of `pairs` block by block, and with each the keypoints that it matched.

        A block is as large as a task of matching: what is held at a time does not grow with the collection.
        """
        blocks = self.pairs["block"].to_numpy()[rows]
        ordered = rows[np.argsort(blocks, kind="stable")]
        starts = np.flatnonzero(np.diff(np.sort(blocks))) + 1
        for part in np.split(ordered, starts) if len(ordered) else []:
            found = read_inliers(self.matches, self.pairs.iloc[part])
            yield part, [self.printed.beside(one, two, inliers) for one, two, _, inliers in found]

    def keypoints(self, image_ids: Iterable[int]) -> dict[int, Float32[np.ndarray, "k 2"]]:
        """x, y of the keypoints of some images, in stored pixels."""
        found = self.store.read_keypoints(set(image_ids))
        return {image_id: keypoints[:, :2] for image_id, keypoints in found}


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """Which pairs stay: `keep` has a value for each row of `pairs`, `reasons` one for each row not kept.

    `printed` are keypoints that lie on print, whatever pair they match in: matches of theirs are left out of
    the pairs that stay, and pairs of which too few are left go, too.
    """

    keep: Bool[np.ndarray, " p"]
    reasons: Shaped[np.ndarray, " d"]
    printed: PrintedKeypoints = field(default_factory=PrintedKeypoints)


PairFilter = Callable[[VerifiedPairs], Verdict]


def load_filters(names: Iterable[str]) -> tuple[Plugin, ...]:
    """The filters of these names, in order; ValueError for a name that stands for none."""
    return tuple(load_plugin(name, FILTERS) for name in names)


def apply_filters(filters: Sequence[Plugin], verified: VerifiedPairs) -> tuple[VerifiedPairs, pd.DataFrame]:
    """What every filter keeps, and the pairs that go, with the columns `filter` and `reason`.

    Each filter sees what the ones before it kept. ValueError where a verdict does not fit the pairs.
    """
    gone = []
    for each in filters:
        verdict = _verdict(each, verified)
        dropped = verified.pairs[~verdict.keep]
        gone.append(dropped.assign(filter=each.name, reason=verdict.reasons.astype(str)))
        verified = replace(verified, pairs=verified.pairs[verdict.keep].reset_index(drop=True))
        if len(verdict.printed):
            verified, few = _beside_print(verified, verdict.printed)
            gone.append(few.assign(filter=each.name, reason="too few matches beside print"))
    none = verified.pairs.iloc[:0].assign(filter="", reason="")
    return verified, pd.concat([none, *gone], ignore_index=True)


def _beside_print(verified: VerifiedPairs, printed: PrintedKeypoints) -> tuple[VerifiedPairs, pd.DataFrame]:
    """The pairs with their matches beside print, and those of which too few are left."""
    found = replace(verified, printed=PrintedKeypoints.union([verified.printed, printed]))
    ends = verified.pairs[list(ENDS)]
    touched = np.flatnonzero(ends.isin(printed.image_ids).any(axis=1))
    inliers = verified.pairs["inliers"].to_numpy(copy=True)
    for rows, left in found.read_inliers(touched):
        inliers[rows] = [len(matches) for matches in left]
    enough = inliers >= verified.min_inliers
    enough |= inliers == verified.pairs["inliers"].to_numpy()
    kept = verified.pairs.assign(inliers=inliers)[enough].reset_index(drop=True)
    return replace(found, pairs=kept), verified.pairs[~enough]


def _verdict(named: Plugin, verified: VerifiedPairs) -> Verdict:
    verdict: Verdict = named.call(verified)
    keep, dropped = np.asarray(verdict.keep), len(verdict.reasons)
    if keep.shape != (len(verified.pairs),) or keep.dtype != np.bool_ or dropped != (~keep).sum():
        raise ValueError(
            f"pair filter {named.name}: expected a truth value for each of {len(verified.pairs)} pairs and a "
            f"reason for each that goes, got {keep.dtype} {keep.shape} and {dropped} reasons; mend the filter"
        )
    return verdict
