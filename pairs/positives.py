"""Strategies that choose a query's positives among its candidates, one function each, with what they drop."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pairs.image_pairs import Candidates, Positives


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """The chosen pairs, in the order of the candidates, and the number of the others by reason."""

    positives: Positives
    dropped: Mapping[str, int]


def m3_relaxed_inliers(candidates: Candidates, min_overlap: float, max_scale_change: float) -> Selection:
    """Candidates with overlap > min_overlap and scale_change <= max_scale_change, all with weight 1.

    The rule "relaxed inliers" of Radenovic et al., "CNN image retrieval learns from BoW", ECCV 2016, where
    the two are 0.2 and 1.5 (as recalled from the paper). Deviation: the paper draws one such image per
    query and keeps it for the whole training; here all are kept, and drawing is the business of the
    training.
    """
    overlapping = candidates.overlap > min_overlap
    alike = candidates.scale_change <= max_scale_change
    chosen = candidates.take(overlapping & alike)
    positives = Positives(
        query=chosen.query,
        positive=chosen.positive,
        shared_points=chosen.shared_points,
        overlap=chosen.overlap,
        scale_change=chosen.scale_change,
        angle_deg=chosen.angle_deg,
        strategy=np.full(len(chosen), "m3"),
        weight=np.ones(len(chosen)),
    )
    dropped = {
        f"pair: overlap at most {min_overlap:g}": int((~overlapping).sum()),
        f"pair: scale change above {max_scale_change:g}": int((overlapping & ~alike).sum()),
    }
    return Selection(positives=positives, dropped=dropped)
