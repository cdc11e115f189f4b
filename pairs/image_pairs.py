"""Ordered image pairs with their geometry, as aligned arrays: all candidates, and the chosen positives."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from groundwork.arrays import Layout, freeze_arrays

# Not typing.Self, which a run-time type checker cannot resolve in a class that it does not decorate.
_Pairs = TypeVar("_Pairs", bound="PairGeometry")


@dataclass(frozen=True, kw_only=True, eq=False)
class PairGeometry:
    """Ordered image pairs (query, positive) as rows of a list of images, and how the two views differ.

    Attributes:
        shared_points: 3D points that both images are known to see.
        overlap: the same, divided by the number of points that the query sees; in [0, 1].
        scale_change: ratio >= 1 of the scales at which the shared points are seen; infinite where unknown.
        angle_deg: between the optical axes, in [0, 180]; infinite where unknown.

    """

    query: Int[np.ndarray, " p"]
    positive: Int[np.ndarray, " p"]
    shared_points: Int[np.ndarray, " p"]
    overlap: Float[np.ndarray, " p"]
    scale_change: Float[np.ndarray, " p"]
    angle_deg: Float[np.ndarray, " p"]

    LAYOUT: ClassVar[Layout] = {
        "query": (np.int64, ("p",)),
        "positive": (np.int64, ("p",)),
        "shared_points": (np.int64, ("p",)),
        "overlap": (np.float64, ("p",)),
        "scale_change": (np.float64, ("p",)),
        "angle_deg": (np.float64, ("p",)),
    }

    def __post_init__(self) -> None:
        freeze_arrays(self, "image pairs", self.LAYOUT)
        in_range = (self.angle_deg >= 0) & (self.angle_deg <= 180)
        for rule, holds in (
            ("two images", self.query != self.positive),
            ("shared_points >= 0", self.shared_points >= 0),
            ("overlap in [0, 1]", (self.overlap >= 0) & (self.overlap <= 1)),
            ("scale_change >= 1", self.scale_change >= 1),
            ("angle_deg in [0, 180]", in_range | np.isposinf(self.angle_deg)),
        ):
            if not holds.all():
                row = int(np.argmin(holds))
                raise ValueError(f"image pairs: expected {rule}, got another value in row {row}; mine again")

    def __len__(self) -> int:
        return len(self.query)

    def take(self: _Pairs, rows: Int[np.ndarray, " k"] | Bool[np.ndarray, " p"]) -> _Pairs:
        """The pairs of these rows, or where a mask is true."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def renumbered(self: _Pairs, rows: Int[np.ndarray, " n"]) -> _Pairs:
        """The same pairs in another list of images, where image i of this one is row rows[i]."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(**arrays | {"query": rows[self.query], "positive": rows[self.positive]})


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates(PairGeometry):
    """Pairs of images of one model, among which positives are chosen.

    Attributes:
        baseline: distance of the two centres, divided by the typical depth of the shared points, because the
            unit of a model is arbitrary. Infinite where the depth is unknown.
        frustum_overlap: share, in [0, 1], of the query's points that lie in the positive's field of view.

    """

    baseline: Float[np.ndarray, " p"]
    frustum_overlap: Float[np.ndarray, " p"]

    LAYOUT: ClassVar[Layout] = {
        **PairGeometry.LAYOUT,
        "baseline": (np.float64, ("p",)),
        "frustum_overlap": (np.float64, ("p",)),
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Positives(PairGeometry):
    """Pairs chosen for training.

    Attributes:
        strategy: name of the rule that chose the pair.
        weight: > 0; how often the pair is drawn, relative to the query's other positives.

    """

    strategy: Shaped[np.ndarray, " p"]
    weight: Float[np.ndarray, " p"]

    LAYOUT: ClassVar[Layout] = {
        **PairGeometry.LAYOUT,
        "strategy": (np.str_, ("p",)),
        "weight": (np.float64, ("p",)),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.weight <= 0).any():
            raise ValueError(
                f"positives: expected weights > 0, got {self.weight.min():g}; leave such pairs out"
            )


def merge_candidates(parts: Sequence[Candidates]) -> Candidates:
    """All candidates, sorted by (query, positive), each pair once.

    Of a pair that comes from two models the geometry with more shared points is kept, at a draw the earlier
    one.
    """
    arrays = {
        field.name: np.concatenate(
            [
                np.empty(0, dtype=Candidates.LAYOUT[field.name][0]),
                *(getattr(part, field.name) for part in parts),
            ]
        )
        for field in fields(Candidates)
    }
    query, positive = arrays["query"], arrays["positive"]
    order = np.lexsort((-arrays["shared_points"], positive, query))
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(query[order]) != 0) | (np.diff(positive[order]) != 0)
    return Candidates(**{name: array[order[first]] for name, array in arrays.items()})
