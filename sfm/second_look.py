"""Stage: photos that the first local feature ties to few others are matched again, by a second feature."""

import time
from collections import Counter
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool
from pydantic import Field, field_validator

from groundwork.files import read_table, write_table
from groundwork.keys import key_of
from groundwork.plugins import require_plugin
from groundwork.records import load_done, mark_done, record_of
from sfm.collection import Collection
from sfm.descriptors import drop_descriptors
from sfm.detection import FeatureConfig, detector
from sfm.features import Features, extract_features
from sfm.featurestore import FeatureStore
from sfm.joined import JoinedStore, write_joined
from sfm.local_features.interface import METHODS, load_method, matcher_of
from sfm.matchgraph import MatchGraph
from sfm.matching import Matches, MatchingConfig, match
from sfm.pair_table import PROPOSED, image_rows, is_trusted
from sfm.second_choice import Limits, choose_pairs, supported

_VERSION = 1
NONE = "none"


class SecondConfig(FeatureConfig):
    """A second local feature, for the photos that the first one ties to few others."""

    method: str = Field(
        default=NONE,
        description="none, or as features.method: xfeat, aliked-lightglue (pip install "
        "'cnnimretrieval[features]'), a plug-in",
    )
    max_side_px: int = Field(default=1024, ge=64, description="as that of features")
    max_features: int = Field(default=1024, ge=16, description="as that of features")
    enough_pairs: int = Field(
        default=3, ge=1, description="photos with as many well matched pairs are not looked at again"
    )
    enough_inliers: int = Field(default=60, ge=7, description="of a well matched pair, at least")
    min_inliers: int | None = Field(
        default=None,
        ge=7,
        description="of a pair that it verifies within a place, at least; the method's own if not set",
    )
    across_pairs: int = Field(
        default=3, ge=0, description="pairs that join two places, at least; 0: no two are joined"
    )
    across_inliers: int = Field(default=60, ge=7, description="of each of these, at least")

    @field_validator("method")
    @classmethod
    def _method_exists(cls, name: str) -> str:
        if name != NONE:
            require_plugin(name, METHODS)
        return name

    @property
    def wanted(self) -> bool:
        """Whether there is a second feature at all."""
        return self.method != NONE

    @property
    def limits(self) -> Limits:
        """What decides which pairs are tried, and which of them count."""
        return Limits(
            enough_pairs=self.enough_pairs,
            enough_inliers=self.enough_inliers,
            across_pairs=self.across_pairs,
            across_inliers=self.across_inliers,
        )


@dataclass(frozen=True, kw_only=True)
class FirstLook:
    """What the first feature found, and by which settings.

    Attributes:
        collection: the photos.
        features: of the first kind.
        matches: of every pair that was tried.
        graph: the pairs that are trusted, and the places they make.
        matching: by which they were found.
        min_inliers: of a trusted pair.
        seed: of verification.

    """

    collection: Collection
    features: Features
    matches: Matches
    graph: MatchGraph
    matching: MatchingConfig
    min_inliers: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class BothLooks:
    """What both features know of a collection: keypoints end to end, the matches of both."""

    store: FeatureStore
    matches: Matches


def require_second(config: SecondConfig) -> None:
    """Make the second feature ready once, for its errors: they come before any work, not after hours."""
    if config.wanted:
        detector(config)
        matcher_of(load_method(config.method, config.weights), MatchingConfig().max_ratio)


def look_again(first: FirstLook, out: Path, config: SecondConfig, executor: Executor) -> BothLooks:
    """Match the pairs of loosely tied photos by the second feature too, and join what both found.

    A learned feature matches what is alike, two facades of one style say: it may strengthen a place that the
    first feature found, and joins two of them only where several pairs say so; no photo of none is joined.
    So the pairs that are tried are, of those that were tried before, the ones with a loosely tied photo and
    both ends in one place, or in two. Then, so that models come to have points of the second feature to which
    such a photo can be tied, the trusted pairs among the photos that match it. Writes to `out`/second.
    """
    started, folder = time.perf_counter(), out / "second"
    # What verifies wrong pairs by more inliers than the first feature needs more of them.
    matching = first.matching.model_copy(update={"min_inliers": _min_inliers(config)})
    key = key_of(
        *("second", _VERSION, config.key, asdict(config.limits), matching, first.seed),
        *(first.min_inliers, first.features.key, first.matches.key, first.graph.key),
    )
    path, joined = folder / "pairs.parquet", folder / "joined"
    record = load_done(out, "second", key)
    if not record:
        folder.mkdir(exist_ok=True)
        facts, pairs = _look(first, folder, joined, config, matching, executor)
        write_table(path, pairs)
        seconds = time.perf_counter() - started
        record = mark_done(out, "second", key, seconds=seconds, facts=facts, outputs=[path, joined])
    own = first.features.store
    second = FeatureStore(folder=folder / "features", shard_size=record.facts["images a shard"])
    return BothLooks(
        store=JoinedStore(folder=own.folder, shard_size=own.shard_size, second=second),
        matches=Matches(pairs=read_table(path), folder=joined, key=key),
    )


def _min_inliers(config: SecondConfig) -> int:
    own = getattr(load_method(config.method, config.weights), "min_inliers", MatchingConfig().min_inliers)
    return config.min_inliers or int(own)


def _look(
    first: FirstLook,
    folder: Path,
    joined: Path,
    config: SecondConfig,
    matching: MatchingConfig,
    executor: Executor,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Do the work; return the counts and the pairs of both features."""
    tried = first.matches.pairs
    choice = choose_pairs(
        tried, first.graph.pairs, first.graph.place_of_image, first.min_inliers, config.limits
    )
    features = extract_features(first.collection, folder, config, executor, choice.images)

    def matched(chosen: Bool[np.ndarray, " p"]) -> Matches:
        described = (features.num_keypoints[image_rows(tried)] > 0).all(axis=1)
        pairs = tried.loc[chosen & described, list(PROPOSED)].reset_index(drop=True)
        return match(pairs, features, folder, matching, first.seed, executor)

    found = supported(matched(choice.chosen).pairs, choice.place, config.limits)
    among = choice.among_neighbours(image_rows(found[found["inliers"] > 0]))
    both = matched(choice.chosen | among)
    both = replace(both, pairs=supported(both.pairs, choice.place, config.limits))
    if not config.keep_descriptors:
        drop_descriptors(features)
    pairs = write_joined(joined, first.matches, both, first.min_inliers, first.features.num_keypoints)
    before, after = (int(is_trusted(each, first.min_inliers).sum()) for each in (tried, pairs))
    return {
        "loosely tied photos": int(choice.loose.sum()),
        "pairs": len(both.pairs),
        "verified": int((both.pairs["inliers"] > 0).sum()),
        "trusted before": before,
        "trusted": after,
        "images a shard": features.store.shard_size,
        **_usage(folder, features),
    }, pairs


def _usage(folder: Path, features: Features) -> dict[str, Any]:
    """What finding and matching the second feature took, and which photos and pairs it gave nothing for."""
    records = [record_of(folder, stage) for stage in ("features", "matching")]
    facts = [record.facts for record in records if record is not None]
    reasons = Counter(features.failed.values())
    for each in facts:
        reasons.update(each.get("faults", {}))
    taken = {
        "cpu_seconds": round(sum(each["cpu_seconds"] for each in facts), 3),
        "peak_bytes": max(each["peak_bytes"] for each in facts),
    }
    return taken | ({"faults": dict(sorted(reasons.items()))} if reasons else {})
