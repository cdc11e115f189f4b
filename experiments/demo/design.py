"""The look of one building, drawn once from a seed: kind, size, colours, stone, windows."""

import colorsys
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.demo.masonry import Colour, Masonry

Kind = Literal["townhouse", "church", "tower", "timber", "palace", "hall"]
Head = Literal["flat", "segment", "round", "pointed"]
Surround = Literal["plain", "quoins", "pediment", "hood", "none"]

KINDS: tuple[Kind, ...] = ("townhouse", "church", "palace", "timber", "tower", "hall")
_MASONRY: dict[Kind, tuple[Masonry, ...]] = {
    "townhouse": ("brick", "plaster", "ashlar"),
    "church": ("rubble", "ashlar", "brick"),
    "tower": ("rubble", "brick", "ashlar"),
    "timber": ("plaster", "plaster", "brick"),
    "palace": ("ashlar", "plaster", "ashlar"),
    "hall": ("brick", "planks", "rubble"),
}


@dataclass(frozen=True, kw_only=True)
class WindowDesign:
    """How every window of a building is made; sizes in m."""

    width_m: float
    height_m: float
    head: Head
    surround: Surround
    columns: int
    rows: int
    shutters: bool
    frame: Colour


@dataclass(frozen=True, kw_only=True)
class Design:
    """One building: two places with the same design have the same building, texel by texel."""

    seed: int
    kind: Kind
    width_m: float
    floors: int
    floor_m: float
    bays: int
    masonry: Masonry
    wall: Colour
    joint: Colour
    trim: Colour
    accent: Colour
    roof: Colour
    window: WindowDesign

    @property
    def height_m(self) -> float:
        """Height of the wall up to the eaves."""
        return self.floors * self.floor_m

    @property
    def gable_m(self) -> float:
        """Height of the triangular gable above the eaves; 0 where the roof slopes to the front."""
        return 0.42 * self.width_m if self.kind in ("church", "timber", "hall") else 0.0

    def rng(self, stream: int) -> np.random.Generator:
        """Random numbers of one part of the building."""
        return np.random.default_rng([self.seed, 7001, stream])


def draw_design(seed: int, kind: Kind) -> Design:
    """The design that belongs to the seed."""
    rng = np.random.default_rng([seed, 7000])
    floors = int(rng.integers(2, 4)) + (kind in ("townhouse", "tower"))
    hue, saturation = (
        rng.choice([rng.uniform(0.02, 0.14), rng.uniform(0, 1)], p=[0.75, 0.25]),
        rng.uniform(0.1, 0.42),
    )
    wall = colorsys.hsv_to_rgb(hue, saturation, rng.uniform(0.45, 0.85))
    dark_trim = rng.random() < 0.3
    trim = colorsys.hsv_to_rgb(
        rng.uniform(0.05, 0.15), rng.uniform(0, 0.25), 0.3 if dark_trim else rng.uniform(0.7, 0.9)
    )
    grey = rng.uniform(0.25, 0.75)
    width = {"townhouse": 15.0, "church": 15.0, "tower": 11.0, "timber": 13.0, "palace": 17.0, "hall": 18.0}[
        kind
    ]
    return Design(
        seed=seed,
        kind=kind,
        width_m=width * rng.uniform(0.85, 1.2),
        floors=floors,
        floor_m=float(rng.uniform(3.0, 3.9)) + (kind in ("church", "palace")) * 0.6,
        bays=int(rng.integers(3, 7)),
        masonry=_MASONRY[kind][int(rng.integers(3))],
        wall=wall,
        # Joints of the wall's own hue: a grid of bright lines would look the same on every building.
        joint=(0.45 * wall[0] + 0.3 * grey, 0.45 * wall[1] + 0.29 * grey, 0.45 * wall[2] + 0.28 * grey),
        trim=trim,
        accent=colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.3, 0.7), rng.uniform(0.25, 0.65)),
        roof=colorsys.hsv_to_rgb(
            rng.choice([0.03, 0.6, 0.08]), rng.uniform(0.15, 0.6), rng.uniform(0.25, 0.5)
        ),
        window=_draw_window(rng, kind),
    )


def _draw_window(rng: np.random.Generator, kind: Kind) -> WindowDesign:
    heads: tuple[Head, ...] = (
        ("pointed", "round", "round") if kind == "church" else ("flat", "segment", "round", "flat")
    )
    surrounds: tuple[Surround, ...] = ("plain", "quoins", "pediment", "hood", "none")
    tall = kind in ("church", "palace", "tower")
    frame_value = rng.choice([0.92, 0.25])
    return WindowDesign(
        width_m=float(rng.uniform(1.0, 1.45)),
        height_m=float(rng.uniform(1.9, 2.5) if tall else rng.uniform(1.5, 2.0)),
        head=heads[int(rng.integers(len(heads)))],
        surround=surrounds[int(rng.integers(len(surrounds)))],
        columns=int(rng.integers(2, 4)),
        rows=int(rng.integers(2, 5)),
        shutters=bool(kind in ("townhouse", "timber") and rng.random() < 0.5),
        frame=colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0, 0.4), frame_value),
    )
