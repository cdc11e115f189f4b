"""Re-ranking by geometry: the first photos of a ranking, in the order of what local features prove."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, field_validator, model_validator

from cnnimretrieval.local.features import LocalFeatures
from cnnimretrieval.local.pairing import ON_A_GRID, PairConfig, pair
from groundwork.executors import usable_cores
from groundwork.plugins import require_plugin
from groundwork.top_k import Ranking
from sfm.local_features.interface import METHODS

# The features of some rows of the database, in their order.
FeaturesOf = Callable[[Sequence[int]], Sequence[LocalFeatures]]
# The method that is the network's own local head.
LOCAL = "local"
# Of a photo that no geometry was looked for in.
UNSEEN = -1


class SpatialConfig(PairConfig):
    """Which photos are verified against the query, and how that orders them.

    What is not set of `ON_A_GRID` is as it says where the features are the network's own.
    """

    candidates: int = Field(default=100, gt=0, description="first photos of a ranking that are verified")
    features: str = Field(
        default=LOCAL, description="local (of a network with a local head), sift or a plug-in's name"
    )
    sfm: Path | None = Field(
        default=None,
        description="folder of `reconstruct` whose descriptors of these photos are used where they were kept",
    )
    min_inliers: int = Field(
        default=12, gt=0, description="below so many a photo counts as not verified, as chance gives some"
    )
    order: Literal["inliers", "blend"] = Field(
        default="inliers", description="by inliers, then score; or by a mean of score and inliers"
    )
    weight: float = Field(default=0.5, ge=0.0, le=1.0, description="of the inliers in a blend")
    enough: int = Field(default=100, gt=0, description="inliers from which on more count no more in a blend")

    @model_validator(mode="before")
    @classmethod
    def _suits_the_features(cls, given: Any) -> Any:
        own = isinstance(given, dict) and given.get("features", LOCAL) == LOCAL
        return {**ON_A_GRID, **given} if own else given

    @field_validator("features")
    @classmethod
    def _method_exists(cls, name: str) -> str:
        if name != LOCAL:
            try:
                require_plugin(name, METHODS)
            except ValueError as error:
                raise ValueError(
                    str(error).replace(f"{METHODS.setting}: expected ", "expected local, ")
                ) from error
        return name

    @model_validator(mode="after")
    def _sfm_has_no_network(self) -> "SpatialConfig":
        if self.sfm is not None and self.features == LOCAL:
            raise ValueError(
                f"sfm: expected it with features=sift or a plug-in's name, got {self.sfm} with {LOCAL}; "
                "leave it out, or name the method that the reconstruction was made by"
            )
        return self


@dataclass(frozen=True, kw_only=True, eq=False)
class Reranked(Ranking):
    """A ranking in the order of a verification; scores are those that it had before.

    `inliers` of each photo; `UNSEEN` for those beyond the candidates, which keep their order behind them.
    """

    inliers: Int[np.ndarray, "q k"]


class Verifier:
    """What geometry proves between one query and the rows of a database; each row is verified once.

    Features are asked for when they are needed, and not held.
    """

    def __init__(
        self, query: Callable[[], LocalFeatures], of_rows: FeaturesOf, config: SpatialConfig
    ) -> None:
        self.config = config
        self._query, self._of_rows = query, of_rows
        self._known: dict[int, int] = {}

    def inliers(self, rows: Int[np.ndarray, " c"]) -> Int[np.ndarray, " c"]:
        """The number of inliers of each row; ValueError for features of another kind than the query's."""
        asked: list[int] = rows.tolist()
        missing = [row for row in dict.fromkeys(asked) if row not in self._known]
        if missing:
            count = partial(_num_inliers, self._query(), self.config)
            # Products and estimation let go of the interpreter, so threads do.
            with ThreadPoolExecutor(usable_cores()) as threads:
                found = threads.map(count, self._of_rows(missing))
                self._known |= zip(missing, found, strict=True)
        return np.array([self._known[row] for row in asked], np.int64)

    def verified(self, rows: Int[np.ndarray, " c"]) -> Int[np.ndarray, " v"]:
        """Those of `rows` with at least `min_inliers`, in their order."""
        return rows[self.inliers(rows) >= self.config.min_inliers]


def _num_inliers(query: LocalFeatures, config: SpatialConfig, features: LocalFeatures) -> int:
    return pair(query, features, config).num_inliers


def rerank_spatially(ranking: Ranking, verifier: Verifier) -> Reranked:
    """The `ranking` of one query, (1, k), its first `candidates` in the order of `spatial_order`."""
    count = min(verifier.config.candidates, ranking.rows.shape[1])
    found = verifier.inliers(ranking.rows[0, :count])
    order = spatial_order(ranking.scores[0, :count], found, verifier.config)
    whole = np.concatenate([order, np.arange(count, ranking.rows.shape[1])])
    inliers = np.concatenate([found[order], np.full(len(whole) - count, UNSEEN)])
    return Reranked(
        rows=ranking.rows[:, whole], scores=ranking.scores[:, whole], inliers=inliers[None].astype(np.int64)
    )


def spatial_order(
    scores: Float[np.ndarray, " c"], inliers: Int[np.ndarray, " c"], config: SpatialConfig
) -> Int[np.ndarray, " c"]:
    """Places of the candidates in their new order; what is equal keeps the order it came in.

    By "inliers": verified photos first, more inliers before fewer, then higher scores; all others behind
    them, by score alone. By "blend": (1 - w) score + w min(inliers, enough) / enough, where fewer inliers
    than `min_inliers` count as none. ValueError for scores that are not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError(
            "spatial re-ranking: expected finite scores, got NaN or infinity; describe the photos again"
        )
    proven = np.where(inliers >= config.min_inliers, inliers, 0)
    if config.order == "blend":
        share = np.minimum(proven, config.enough) / config.enough
        return np.argsort(-((1.0 - config.weight) * scores + config.weight * share), kind="stable")
    return np.lexsort((-scores, -proven))
