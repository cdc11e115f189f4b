"""Plug-ins between matching and mapping: verified pairs that show no common place go, each with a reason.

A filter is a callable that takes `VerifiedPairs` and returns a `Verdict`. Settings name it: one of the
built-in ones, the entry point of an installed package in the group `cnnimretrieval.pair_filters`, or
`path/to/file.py:function`.
"""

import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int, Shaped, UInt32

from sfm.featurestore import FeatureStore
from sfm.matching import read_inliers

GROUP = "cnnimretrieval.pair_filters"
BUILT_IN = {
    "stationary": "sfm.pair_filters.stationary:drop_stationary",
    "doppelgangers": "sfm.pair_filters.doppelgangers:drop_doppelgangers",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class VerifiedPairs:
    """What a filter may look at.

    Attributes:
        pairs: the pairs that are still trusted, row k being pair k: `image_id1, image_id2, origin, config`
            (COLMAP's kind of two-view geometry), `inliers` (their number), `block, row` (where they lie).
        tried: the same columns for every pair that was matched, most of them without success: `inliers` is 0
            where verification failed. `row` is -1 where a pair could not be tried.
        sizes: width and height in stored pixels, of image_id r + 1 in row r.
        matches: the folder of the inliers.
        store: the keypoints.

    """

    pairs: pd.DataFrame
    tried: pd.DataFrame
    sizes: Int[np.ndarray, "n 2"]
    matches: Path
    store: FeatureStore

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
            yield part, [inliers for _, _, _, inliers in found]

    def keypoints(self, image_ids: Iterable[int]) -> dict[int, Float32[np.ndarray, "k 2"]]:
        """x, y of the keypoints of some images, in stored pixels."""
        found = self.store.read_keypoints(set(image_ids))
        return {image_id: keypoints[:, :2] for image_id, keypoints in found}


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """Which pairs stay: `keep` has a value for each row of `pairs`, `reasons` one for each row not kept."""

    keep: Bool[np.ndarray, " p"]
    reasons: Shaped[np.ndarray, " d"]


PairFilter = Callable[[VerifiedPairs], Verdict]


@dataclass(frozen=True, kw_only=True)
class NamedFilter:
    """A filter, the name that the settings gave it, and a key that changes with its code."""

    name: str
    key: str
    judge: PairFilter


def load_filters(names: Iterable[str]) -> tuple[NamedFilter, ...]:
    """The filters of these names, in order; ValueError for a name that stands for none."""
    return tuple(_load_file(name) if ":" in name else _load_entry_point(name) for name in names)


def apply_filters(
    filters: Sequence[NamedFilter], verified: VerifiedPairs
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The pairs that every filter keeps, and those that go, with the columns `filter` and `reason`.

    Each filter sees what the ones before it kept. ValueError where a verdict does not fit the pairs.
    """
    gone = []
    for each in filters:
        verdict = _verdict(each, verified)
        dropped = verified.pairs[~verdict.keep]
        gone.append(dropped.assign(filter=each.name, reason=verdict.reasons.astype(str)))
        verified = replace(verified, pairs=verified.pairs[verdict.keep].reset_index(drop=True))
    none = verified.pairs.iloc[:0].assign(filter="", reason="")
    return verified.pairs, pd.concat([none, *gone], ignore_index=True)


def _verdict(named: NamedFilter, verified: VerifiedPairs) -> Verdict:
    verdict = named.judge(verified)
    keep, dropped = np.asarray(verdict.keep), len(verdict.reasons)
    if keep.shape != (len(verified.pairs),) or keep.dtype != np.bool_ or dropped != (~keep).sum():
        raise ValueError(
            f"pair filter {named.name}: expected a truth value for each of {len(verified.pairs)} pairs and a "
            f"reason for each that goes, got {keep.dtype} {keep.shape} and {dropped} reasons; mend the filter"
        )
    return verdict


def _load_entry_point(name: str) -> NamedFilter:
    if name in BUILT_IN:
        point = EntryPoint(name=name, value=BUILT_IN[name], group=GROUP)
        return NamedFilter(name=name, key=point.value, judge=point.load())
    installed = entry_points(group=GROUP)
    if name not in installed.names:
        known = ", ".join([*BUILT_IN, *sorted(installed.names)])
        raise ValueError(
            f"graph.filters: expected {known} or path/to/file.py:function, got '{name}'; check the name, or "
            "install the package that brings it"
        )
    point = installed[name]
    version = point.dist.version if point.dist is not None else ""
    try:
        return NamedFilter(name=name, key=f"{point.value} {version}", judge=point.load())
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"graph.filters: expected a filter that loads, got '{name}' of {point.value}, which raises "
            f"{type(error).__name__}: {error}; install its package anew"
        ) from error


def _load_file(name: str) -> NamedFilter:
    path_text, _, function = name.rpartition(":")
    path = Path(path_text)
    if not path.is_file():
        raise ValueError(f"graph.filters: expected a file of Python code, got '{path}'; check the path")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"graph.filters: expected a file of Python code, got '{path}'; name it .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(
            f"graph.filters: expected Python code that runs, got {path}, which raises "
            f"{type(error).__name__}: {error}; mend it"
        ) from error
    found = getattr(module, function, None)
    if not callable(found):
        raise ValueError(f"graph.filters: expected a function in {path}, got no '{function}'; check the name")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return NamedFilter(name=f"{path.name}:{function}", key=f"{function} {digest}", judge=found)
