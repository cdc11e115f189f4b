"""The map of a collection as a drawing: a dot a photo, in the colour of its place, and thumbnails."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from experiments.overview.groups import Group

# Photos on the map at most: more could not be told apart, and would take minutes to lay out.
MOST_ON_MAP = 2000
WIDTH, HEIGHT = 1000, 720
_MARGIN = 40
THUMBNAIL = (56, 42)
_MOST_THUMBNAILS = 220
# Degrees on the colour circle from one place to the next: neighbours in number differ most.
_TURN = 137.508


@dataclass(frozen=True, kw_only=True, eq=False)
class Map:
    """Rows and where each lies in the unit square; how that was found."""

    rows: Int[np.ndarray, " m"]
    positions: Float[np.ndarray, "m 2"]
    method: str


def spread(rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """All rows, or as many as a map holds, evenly over the collection."""
    n = len(rows)
    chosen: Int[np.ndarray, " m"] = rows[
        np.unique(np.linspace(0, n - 1, min(n, MOST_ON_MAP)).astype(np.int64))
    ]
    return chosen


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A photo on the map; `colour` is empty where no place is known."""

    row: int
    x: float
    y: float
    colour: str


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The map with all that a template needs."""

    method: str
    width: int
    height: int
    thumbnail: tuple[int, int]
    dots: Sequence[Dot]
    pictures: Sequence[Dot]


def draw(found: Map, places: Sequence[Group]) -> Drawn:
    """Dots for all photos of the map; thumbnails for those that have room for one, spread evenly."""
    place_of = {row: number for number, place in enumerate(places) for row in place.rows}
    size = np.array((WIDTH - 2 * _MARGIN, HEIGHT - 2 * _MARGIN))
    dots = []
    for row, (x, y) in zip(found.rows.tolist(), (_MARGIN + found.positions * size).tolist(), strict=True):
        hue = place_of.get(row)
        colour = "" if hue is None else f"hsl({round(hue * _TURN % 360)} 62% 52%)"
        dots.append(Dot(row=row, x=round(x, 1), y=round(y, 1), colour=colour))
    return Drawn(
        method=found.method, width=WIDTH, height=HEIGHT, thumbnail=THUMBNAIL, dots=dots, pictures=_apart(dots)
    )


def _apart(dots: Sequence[Dot]) -> list[Dot]:
    """Dots whose thumbnails do not cover each other, taken from all over the collection in a fixed order."""
    taken: list[Dot] = []
    for index in np.random.default_rng(0).permutation(len(dots)).tolist():
        dot = dots[index]
        free = all(
            abs(dot.x - other.x) >= THUMBNAIL[0] + 4 or abs(dot.y - other.y) >= THUMBNAIL[1] + 4
            for other in taken
        )
        if free:
            taken.append(dot)
        if len(taken) >= _MOST_THUMBNAILS:
            break
    return taken
