"""Strategies that choose a query's positives among its candidates, one function each, with what they drop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import Field, model_validator

from groundwork.settings import Settings
from pairs.copies import without_copies
from pairs.descriptors import load_descriptors
from pairs.image_pairs import Candidates, Positives, merge_candidates
from pairs.reconstruction import Reconstruction
from pairs.untracked import chained, frusta_overlap
from sfm.paircodes import encode, first_of_equal, num_rows

StrategyName = Literal["m1", "m2", "m3", "weighted", "frustum", "chain"]


class PositivesConfig(Settings):
    """What makes a positive; the defaults are the published rule m3 and no constraint besides."""

    strategy: StrategyName = Field(
        default="m3",
        description="m1: nearest descriptor; m2: most shared points, both among the nearest cameras; "
        "m3: relaxed inliers; weighted: all candidates, drawn in proportion to overlap; frustum: near "
        "cameras with each other's points in view; chain: m3, and near cameras that m3 joins by a third",
    )
    min_overlap: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="a positive exceeds this overlap; m3, chain, of frusta frustum",
    )
    max_scale_change: float = Field(default=1.5, ge=1, description="largest of a positive; m3, chain")
    max_frustum_angle_deg: float = Field(
        default=45.0, gt=0, le=180, description="between the optical axes of a positive; frustum"
    )
    nearest_cameras: int = Field(default=100, ge=1, description="of the query's model; all but m3, weighted")
    descriptors: Path | None = Field(
        default=None, description="folder of extract, by the initial network; m1 (a run makes its own)"
    )
    near_copies: bool = Field(
        default=True,
        description="tell images of a model that are the same but for scale and margins, a crop or a second "
        "photo from a tripod say: never a positive of each other, nor a right answer in the test",
    )
    max_angle_deg: float = Field(default=180.0, gt=0, le=180, description="between the optical axes")
    min_baseline: float = Field(default=0.0, ge=0, description="by the typical depth of the shared points")
    max_baseline: float | None = Field(default=None, gt=0, description="the same; none when not set")
    min_frustum_overlap: float = Field(
        default=0.0, ge=0, le=1, description="of the query's points, in the positive's field of view"
    )

    @model_validator(mode="after")
    def _baselines_in_order(self) -> "PositivesConfig":
        if self.max_baseline is not None and self.min_baseline > self.max_baseline:
            raise ValueError(
                f"pairs: expected min_baseline <= max_baseline, got {self.min_baseline:g} and "
                f"{self.max_baseline:g}; swap them"
            )
        return self


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """The chosen pairs, in the order of the candidates, and the number of the others by reason."""

    positives: Positives
    dropped: Mapping[str, int]


def within_geometry(candidates: Candidates, config: PositivesConfig) -> tuple[Candidates, dict[str, int]]:
    """The candidates that keep the constraints on the two cameras, and the number of the others by reason.

    These constraints are no part of a published rule; by default nothing is dropped.
    """
    longest = np.inf if config.max_baseline is None else config.max_baseline
    angle, baseline, overlap = candidates.angle_deg, candidates.baseline, candidates.frustum_overlap
    kept = np.ones(len(candidates), dtype=bool)
    dropped = {}
    for reason, holds in (
        (f"pair: angle above {config.max_angle_deg:g}", angle <= config.max_angle_deg),
        (f"pair: baseline below {config.min_baseline:g}", baseline >= config.min_baseline),
        (f"pair: baseline above {longest:g}", baseline <= longest),
        (
            f"pair: frustum overlap below {config.min_frustum_overlap:g}",
            overlap >= config.min_frustum_overlap,
        ),
    ):
        if count := int((kept & ~holds).sum()):
            dropped[reason] = count
        kept &= holds
    return candidates.take(kept), dropped


def among(candidates: Candidates, near: Candidates) -> Candidates:
    """The candidates that are pairs of `near` too."""
    size = num_rows(candidates.positive, near.positive)
    ours, theirs = (encode(pairs.query, pairs.positive, size) for pairs in (candidates, near))
    return candidates.take(np.isin(ours, theirs, assume_unique=True))


def m1_nearest_descriptor(near: Candidates, distance: Float[np.ndarray, " p"]) -> Selection:
    """Of each query the neighbour at the smallest descriptor `distance` (of each pair); at a draw the first.

    argmin_{i in M1} ||f(q) - f(i)||, M1 the k cameras of the query's model that are nearest to its own, f the
    network before training (Radenovic et al., TPAMI 2019, as recalled). It need not share a point with the
    query. Pairs with an infinite distance are left out.
    """
    chosen = _best_of_query(near.query, distance, np.isfinite(distance))
    dropped = {"pair: not the nearest descriptor": len(near) - len(chosen)}
    return Selection(positives=_positives(near.take(chosen), "m1"), dropped=dropped)


def m2_most_shared_points(near: Candidates) -> Selection:
    """Of each query the neighbour it shares most points with, at least one; at a draw the first.

    argmax_{i in M1} |P(q) n P(i)|, M1 as in `m1_nearest_descriptor` (Radenovic et al., TPAMI 2019, as
    recalled).
    """
    shared = near.shared_points
    chosen = _best_of_query(near.query, -shared.astype(np.float64), shared > 0)
    dropped = {"pair: not the most shared points": len(near) - len(chosen)}
    return Selection(positives=_positives(near.take(chosen), "m2"), dropped=dropped)


def m3_relaxed_inliers(candidates: Candidates, min_overlap: float, max_scale_change: float) -> Selection:
    """Candidates with overlap > min_overlap and scale_change <= max_scale_change, all with weight 1.

    The rule "relaxed inliers" of Radenovic et al., "CNN image retrieval learns from BoW", ECCV 2016, where
    the two are 0.2 and 1.5 (as recalled from the paper). Deviation: the paper draws one such image per
    query and keeps it for the whole training; here all are kept, and drawing is the business of the
    training.
    """
    overlapping = candidates.overlap > min_overlap
    alike = candidates.scale_change <= max_scale_change
    dropped = {
        f"pair: overlap at most {min_overlap:g}": int((~overlapping).sum()),
        f"pair: scale change above {max_scale_change:g}": int((overlapping & ~alike).sum()),
    }
    return Selection(positives=_positives(candidates.take(overlapping & alike), "m3"), dropped=dropped)


def weighted_by_overlap(candidates: Candidates) -> Selection:
    """All candidates, each drawn in proportion to its overlap: several positives a query."""
    return Selection(positives=_positives(candidates, "weighted", candidates.overlap), dropped={})


def overlapping_frusta(near: Candidates, min_overlap: float, max_angle_deg: float) -> Selection:
    """Near cameras that have each other's points in view, from about the same side, seen there or not.

    Drawn in proportion to the share of the query's points in view. What no track joins, a facade by day and
    in rain say, geometry still tells; what stands between is not looked at.
    """
    kept = frusta_overlap(near, min_overlap, max_angle_deg)
    dropped = {"pair: frusta that overlap too little, or views too far apart": int((~kept).sum())}
    chosen = near.take(kept)
    return Selection(positives=_positives(chosen, "frustum", chosen.frustum_overlap), dropped=dropped)


def chains_of_relaxed_inliers(near: Candidates, min_overlap: float, max_scale_change: float) -> Selection:
    """What m3 chooses among near cameras, and those of them that m3 joins by way of a third image."""
    links = (near.overlap > min_overlap) & (near.scale_change <= max_scale_change)
    kept = chained(near, links)
    dropped = {"pair: no chain of relaxed inliers": int((~kept).sum())}
    return Selection(positives=_positives(near.take(kept), "chain"), dropped=dropped)


def _best_of_query(
    query: Int[np.ndarray, " p"], cost: Float[np.ndarray, " p"], usable: Bool[np.ndarray, " p"]
) -> Int[np.ndarray, " q"]:
    """Positions of the smallest cost of each query, rising."""
    rows = np.flatnonzero(usable)
    order = rows[np.lexsort((rows, cost[rows], query[rows]))]
    return np.sort(order[first_of_equal(query[order])])


def _positives(
    chosen: Candidates, strategy: StrategyName, weight: Float[np.ndarray, " p"] | None = None
) -> Positives:
    names: Shaped[np.ndarray, " p"] = np.full(len(chosen), strategy)
    return Positives(
        query=chosen.query,
        positive=chosen.positive,
        shared_points=chosen.shared_points,
        overlap=chosen.overlap,
        scale_change=chosen.scale_change,
        angle_deg=chosen.angle_deg,
        strategy=names,
        weight=np.ones(len(chosen)) if weight is None else weight,
    )


class Strategy(NamedTuple):
    """`choose(candidates, reconstruction, config)`; with `near_cameras`, of pairs of near cameras only."""

    choose: Callable[[Candidates, Reconstruction, PositivesConfig], Selection]
    near_cameras: bool = False


def _m1(near: Candidates, reconstruction: Reconstruction, config: PositivesConfig) -> Selection:
    descriptors = load_descriptors(config.descriptors, reconstruction.names)
    return m1_nearest_descriptor(near, descriptors.distances(near.query, near.positive))


# A new strategy is a function, its entry here and its name in StrategyName.
STRATEGIES: Mapping[StrategyName, Strategy] = {
    "m1": Strategy(_m1, near_cameras=True),
    "m2": Strategy(lambda near, *_: m2_most_shared_points(near), near_cameras=True),
    "m3": Strategy(lambda found, _, c: m3_relaxed_inliers(found, c.min_overlap, c.max_scale_change)),
    "weighted": Strategy(lambda found, *_: weighted_by_overlap(found)),
    "frustum": Strategy(
        lambda near, _, c: overlapping_frusta(near, c.min_overlap, c.max_frustum_angle_deg), near_cameras=True
    ),
    "chain": Strategy(
        lambda near, _, c: chains_of_relaxed_inliers(near, c.min_overlap, c.max_scale_change),
        near_cameras=True,
    ),
}


def choose_positives(
    reconstruction: Reconstruction, candidates: Candidates, config: PositivesConfig
) -> Selection:
    """The positives of the configured strategy among `candidates`, or for m1 and m2 among near cameras."""
    strategy = STRATEGIES[config.strategy]
    copied = reconstruction.near_copies if config.near_copies else np.empty((0, 2), np.int64)
    every, candidates = candidates, without_copies(candidates, copied)
    dropped = {"pair: near-copies": len(every) - len(candidates)} if len(copied) else {}
    if strategy.near_cameras:
        near = without_copies(reconstruction.near_camera_pairs(config.nearest_cameras), copied)
        both = among(merge_candidates([candidates, near]), near)
        far = len(candidates) - len(among(candidates, near))
        dropped["pair: not among the nearest cameras"] = far
        candidates = both
    candidates, outside = within_geometry(candidates, config)
    selection = strategy.choose(candidates, reconstruction, config)
    return Selection(positives=selection.positives, dropped={**dropped, **outside, **selection.dropped})
