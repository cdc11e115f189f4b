"""How sure a result is: the chance that a photo of this score shows the same as the query.

A score by itself says little: it depends on the query and on how many photos are searched. What it has above
the score that the same query gets further down its ranking says more, and is what a calibration is of. It
says it by place: where a place has a double, or pictures all alike, the same excess is worth less.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from pydantic import Field
from scipy.special import expit

from cnnimretrieval.descriptors.store import DescriptorStore
from cnnimretrieval.search.rerank import RerankConfig
from groundwork.settings import Values

CALIBRATION = "calibration.json"
# The rank whose score is taken for that of photos which show something else; the middle of small databases.
BACKGROUND_RANK = 50
VERSION = 2


class Curve(Values):
    """p(right) = 1 / (1 + exp(-(slope * (score - background) + offset))), of the queries of one place."""

    slope: float = Field(ge=0)
    offset: float


class Calibration(Values):
    """What scores are worth for a place that nobody has seen: the mean of the curves of those that were seen.

    `network` is the fingerprint of what made the descriptors that it was learned from, with the whitening;
    `queries` of held-out places, one a curve, taught it, each asked once with and once without its place.
    """

    version: int = VERSION
    network: str
    image_size: int
    scales: tuple[float, ...]
    curves: tuple[Curve, ...] = Field(min_length=1)
    queries: int

    def confidence(self, scores: Float[np.ndarray, " k"], background: float) -> Float[np.ndarray, " k"]:
        """Of scores of one query, in [0, 1]."""
        excess = scores.astype(np.float64)[:, None] - background
        slopes, offsets = np.array([(curve.slope, curve.offset) for curve in self.curves]).T
        found: Float[np.ndarray, " k"] = expit(slopes * excess + offsets).mean(axis=1)
        return found

    def fault(self, store: DescriptorStore, rerank: RerankConfig) -> str:
        """Why it tells nothing of results of this store, as an error would say it; nothing where it does."""
        made = store.meta.extraction
        if store.meta.network != self.network:
            other = "the network and whitening that it was learned of, got another; calibrate this one"
        elif store.meta.regions is not None:
            other = "one descriptor a photo, got those of regions, too; extract without --regions"
        elif (made.image_size, made.scales) != (self.image_size, self.scales):
            other = (
                f"photos at {self.image_size} px and scales {_listed(self.scales)}, got {made.image_size} px "
                f"and {_listed(made.scales)}; extract them so"
            )
        elif rerank.model_copy(update={"spatial": None}) != RerankConfig():
            other = "no re-ranking but spatial, got steps that change scores; leave them out"
        else:
            return ""
        return f"calibration: expected {other}"


@dataclass(frozen=True, kw_only=True)
class Sure:
    """A calibration, and the least confidence that results must have."""

    calibration: Calibration
    least: float = 0.0


def applying(sure: Sure | None, store: DescriptorStore, rerank: RerankConfig) -> Calibration | None:
    """The calibration if it says something about such results; ValueError where that is asked for in vain."""
    if sure is None:
        return None
    fault = sure.calibration.fault(store, rerank)
    if fault and sure.least > 0.0:
        raise ValueError(fault)
    return None if fault else sure.calibration


def depth(num_photos: int) -> int:
    """How long a ranking has to be for the background to be seen."""
    return min(BACKGROUND_RANK, num_photos // 2) + 1


def background(scores: Float[np.ndarray, " k"], num_photos: int) -> float:
    """That of one query among so many photos, of scores that reach to `depth` at least, in any order."""
    return float(np.sort(scores)[::-1][depth(num_photos) - 1])


def read_calibration(model: str | Path) -> Calibration | None:
    """That of a model's folder; None where there is none. ValueError for a damaged one."""
    path = Path(model) / CALIBRATION
    if not path.is_file():
        return None
    found = Calibration.load(
        path, thing="calibration", expected="what calibrate wrote", remedy="calibrate again"
    )
    if found.version != VERSION:
        raise ValueError(
            f"calibration {path}: expected version {VERSION}, got {found.version}; calibrate again"
        )
    return found


def _listed(scales: tuple[float, ...]) -> str:
    return ",".join(f"{scale:g}" for scale in scales)
