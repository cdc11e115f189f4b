"""Builds one building from its design: body, roof, and parts at other depths that give its views parallax."""

from dataclasses import dataclass

import numpy as np

from experiments.demo.design import Design
from experiments.demo.facade import paint_front
from experiments.demo.masonry import Colour, Masonry, masonry_sheet
from experiments.demo.ornament import relief
from experiments.demo.scene import Material, SceneBuilder
from experiments.demo.sheet import sheet_of

DEPTH_M = 9.0
# The panes lie this far behind the wall.
_REVEAL_M = 0.32


@dataclass(frozen=True)
class Materials:
    """The stuff a building is made of."""

    wall: Material
    trim: Material
    roof: Material
    carved: Material


def add_building(
    builder: SceneBuilder, design: Design, x: float, z: float, px_per_m: float, detailed: bool = True
) -> None:
    """Add the building with the middle of its front at (x, z); without detail it is body and roof only."""
    stuff = _materials(builder, design, px_per_m)
    gable = 0.42 * design.width_m if design.kind in ("church", "timber", "hall") else 0.0
    left = x - design.width_m / 2
    _front(builder, design, left, z, gable, px_per_m, detailed)
    _body(builder, design, stuff, left, z)
    _roof(builder, design, stuff, left, z, gable)
    if not detailed:
        return
    rng = design.rng(50)
    _PARTS[design.kind](builder, design, stuff, rng, x, z, px_per_m)
    _steps(builder, stuff, rng, x, z)


def surface(
    builder: SceneBuilder,
    rng: np.random.Generator,
    kind: Masonry,
    size_m: float,
    px_per_m: float,
    colour: Colour,
    joint: Colour,
) -> Material:
    """A square sheet of masonry as a material."""
    side = round(size_m * px_per_m)
    return builder.material(sheet_of(masonry_sheet(rng, kind, side, side, px_per_m, colour, joint), px_per_m))


def _materials(builder: SceneBuilder, design: Design, px_per_m: float) -> Materials:
    rng = design.rng(1)
    dark = (design.roof[0] * 0.4, design.roof[1] * 0.4, design.roof[2] * 0.4)
    side = round(6 * px_per_m)
    carved = np.asarray(relief(rng, side, side, design.trim, mirrored=False), dtype=np.float32) / 255
    return Materials(
        wall=surface(builder, rng, design.masonry, 10, px_per_m, design.wall, design.joint),
        trim=surface(builder, rng, "ashlar", 6, px_per_m, design.trim, design.joint),
        roof=surface(builder, rng, "tiles", 12, 0.6 * px_per_m, design.roof, dark),
        carved=builder.material(sheet_of(carved, px_per_m)),
    )


def _front(
    builder: SceneBuilder,
    design: Design,
    left: float,
    z: float,
    gable: float,
    px_per_m: float,
    entrance: bool,
) -> None:
    wall, glazing = paint_front(design, design.width_m, design.floors, 2, px_per_m, gable, entrance)
    top, width = design.height_m + gable, design.width_m
    wall_material, glass = builder.material(wall), builder.material(glazing)
    builder.quad((left, top, z), (width, 0, 0), (0, -top, 0), wall_material, wall_material.whole, cutout=True)
    # Panes end at the eaves, or they would show beside the gable.
    share = gable / top
    rect = (0.0, share * glass.height, float(glass.width), float(glass.height))
    builder.quad((left, design.height_m, z - _REVEAL_M), (width, 0, 0), (0, -design.height_m, 0), glass, rect)
    if gable > 0:
        middle = (glass.width * 0.4, 0.35 * share * glass.height, glass.width * 0.6, share * glass.height)
        corner = (left + 0.4 * width, design.height_m + 0.65 * gable, z - _REVEAL_M)
        builder.quad(corner, (0.2 * width, 0, 0), (0, -0.65 * gable, 0), glass, middle)


def _body(builder: SceneBuilder, design: Design, stuff: Materials, left: float, z: float) -> None:
    height, right = design.height_m, left + design.width_m
    builder.quad((left, height, z - DEPTH_M), (0, 0, DEPTH_M), (0, -height, 0), stuff.wall)
    builder.quad((right, height, z), (0, 0, -DEPTH_M), (0, -height, 0), stuff.wall)


def _roof(
    builder: SceneBuilder, design: Design, stuff: Materials, left: float, z: float, gable: float
) -> None:
    width, height, half = design.width_m, design.height_m, design.width_m / 2
    if gable > 0:
        ridge = height + gable - 0.25
        builder.quad(
            (left + half, ridge, z - DEPTH_M), (0, 0, DEPTH_M - 0.05), (-half, -gable, 0), stuff.roof
        )
        builder.quad((left + half, ridge, z - 0.05), (0, 0, 0.05 - DEPTH_M), (half, -gable, 0), stuff.roof)
        return
    rise = 1.2 if design.kind == "palace" else 2.9
    builder.quad(
        (left, height + rise, z - DEPTH_M / 2), (width, 0, 0), (0, -rise, DEPTH_M / 2 - 0.1), stuff.roof
    )
    # The cornice hangs over the wall.
    builder.box(
        (left - 0.3, height - 0.35, z), (left + width + 0.3, height, z + 0.55), stuff.trim, front=stuff.carved
    )


def _oriel(
    builder: SceneBuilder,
    design: Design,
    stuff: Materials,
    x: float,
    z: float,
    span: tuple[float, float, float],
    floors: int,
    first: int,
    stream: int,
    px_per_m: float,
) -> None:
    """A bay of `floors` floors from floor `first` up; span: its left and right end from x, its depth."""
    low, high, depth = span
    wall, glazing = paint_front(design, high - low, floors, stream, px_per_m, entrance=False)
    front = sheet_of(np.asarray(_layered(wall.texels(), glazing.texels())), px_per_m)
    material = builder.material(front)
    y0, y1 = first * design.floor_m, (first + floors) * design.floor_m - 0.1
    builder.box((x + low, y0, z), (x + high, y1, z + depth), stuff.wall, material, stuff.roof, material.whole)
    builder.box((x + low - 0.15, y1, z), (x + high + 0.15, y1 + 0.3, z + depth + 0.15), stuff.trim)


def _layered(wall: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Albedo of a wall with its panes painted into its holes, for small fronts."""
    opaque = wall[..., 3:] > 127
    mixed: np.ndarray = np.where(opaque, wall[..., :3], behind[..., :3] * 0.85) / 255.0
    return mixed


def _balcony(builder: SceneBuilder, stuff: Materials, x: float, y: float, z: float, half: float) -> None:
    builder.box((x - half, y - 0.22, z), (x + half, y, z + 1.05), stuff.trim)
    builder.box((x - half, y, z + 0.93), (x + half, y + 0.85, z + 1.05), stuff.trim, front=stuff.carved)


def _columns(
    builder: SceneBuilder, stuff: Materials, xs: np.ndarray, z: float, height: float, radius: float
) -> None:
    for x in xs:
        builder.prism((float(x), z), radius, 0.3, height, 8, stuff.trim)
        builder.box(
            (float(x) - 1.3 * radius, 0, z - 1.3 * radius),
            (float(x) + 1.3 * radius, 0.3, z + 1.3 * radius),
            stuff.trim,
        )


def _steps(builder: SceneBuilder, stuff: Materials, rng: np.random.Generator, x: float, z: float) -> None:
    half = rng.uniform(1.5, 2.6)
    for step in range(2):
        reach = 1.3 - 0.45 * step
        builder.box(
            (x - half - reach, 0.16 * step, z), (x + half + reach, 0.16 * (step + 1), z + reach), stuff.trim
        )


def _townhouse(
    builder: SceneBuilder,
    design: Design,
    stuff: Materials,
    rng: np.random.Generator,
    x: float,
    z: float,
    px_per_m: float,
) -> None:
    half = design.width_m / 2
    offset = rng.uniform(-0.3, 0.3) * half
    span = (offset - 1.7, offset + 1.7, rng.uniform(0.9, 1.5))
    _oriel(builder, design, stuff, x, z, span, design.floors - 1 - int(rng.integers(2)), 1, 60, px_per_m)
    for side in (-0.72, 0.72):
        _balcony(
            builder, stuff, x + side * half, design.floor_m * int(rng.integers(1, design.floors)), z, 1.3
        )
    for k, place in enumerate(rng.uniform(-0.7, 0.7, 2)):
        low = x + float(place) * half
        _oriel(builder, design, stuff, low, z - 2.4, (-0.9, 0.9, 1.2), 1, design.floors, 61 + k, px_per_m)
    builder.box(
        (x - 0.8 * half, design.height_m, z - 4.0),
        (x - 0.8 * half + 0.9, design.height_m + 4.2, z - 3.2),
        stuff.wall,
    )


def _church(
    builder: SceneBuilder,
    design: Design,
    stuff: Materials,
    rng: np.random.Generator,
    x: float,
    z: float,
    px_per_m: float,
) -> None:
    half = design.width_m / 2
    for side in (-0.98, -0.36, 0.36, 0.98):
        reach = rng.uniform(0.7, 1.2)
        builder.box(
            (x + side * half - 0.45, 0, z),
            (x + side * half + 0.45, 0.86 * design.height_m, z + reach),
            stuff.wall,
        )
        builder.box(
            (x + side * half - 0.55, 0.5 * design.height_m, z),
            (x + side * half + 0.55, 0.5 * design.height_m + 0.4, z + reach + 0.2),
            stuff.trim,
        )
    side = float(rng.choice([-1, 1]))
    middle = x + side * (half + 2.3)
    _tower(builder, design, stuff, middle, z + 0.8, 2.3, design.floors + 2, px_per_m)


def _tower(
    builder: SceneBuilder,
    design: Design,
    stuff: Materials,
    x: float,
    z: float,
    half: float,
    floors: int,
    px_per_m: float,
) -> None:
    """A square tower with a pyramid on top: four cut-out triangles."""
    wall, glazing = paint_front(design, 2 * half, floors, 70, px_per_m)
    material = builder.material(sheet_of(_layered(wall.texels(), glazing.texels()), px_per_m))
    top = floors * design.floor_m
    builder.box(
        (x - half, 0, z - 2 * half), (x + half, top, z), stuff.wall, material, front_rect=material.whole
    )
    builder.box(
        (x - half - 0.3, top - 0.2, z - 2 * half - 0.3),
        (x + half + 0.3, top + 0.5, z + 0.3),
        stuff.trim,
        front=stuff.carved,
    )
    _spire(builder, design, px_per_m, x, z - half, half, top + 0.5, 3.4 * half)


def _spire(
    builder: SceneBuilder,
    design: Design,
    px_per_m: float,
    x: float,
    z: float,
    half: float,
    y: float,
    rise: float,
) -> None:
    rng = design.rng(71)
    side = round(4 * px_per_m)
    tiles = sheet_of(
        masonry_sheet(rng, "tiles", side, side, px_per_m, design.roof, (0.1, 0.1, 0.1)), px_per_m
    )
    tiles.clear([(0, 0), (2, 0), (0, 4)])
    tiles.clear([(4, 0), (2, 0), (4, 4)])
    material = builder.material(tiles)
    for turn in range(3):
        # Front, right, left; the apex is above the middle, so each face leans back by `half`.
        nx, nz = ((0, 1), (1, 0), (-1, 0))[turn]
        ax, az = nz, -nx
        corner = (x - ax * half, y + rise, z - az * half)
        builder.quad(
            corner,
            (2 * half * ax, 0, 2 * half * az),
            (nx * half, -rise, nz * half),
            material,
            material.whole,
            cutout=True,
        )


def _palace(
    builder: SceneBuilder,
    design: Design,
    stuff: Materials,
    rng: np.random.Generator,
    x: float,
    z: float,
    px_per_m: float,
) -> None:
    half = rng.uniform(0.24, 0.4) * design.width_m
    height = min(design.height_m * 0.82, design.floor_m * 2)
    xs = x + np.linspace(-half, half, 2 * int(rng.integers(2, 4)))
    reach = rng.uniform(1.6, 2.4)
    _columns(builder, stuff, xs, z + reach, height, rng.uniform(0.3, 0.42))
    builder.box(
        (x - half - 0.6, height, z),
        (x + half + 0.6, height + 0.9, z + reach + 0.5),
        stuff.trim,
        front=stuff.carved,
    )
    for side in (-1, 1):
        builder.box(
            (x + side * design.width_m / 2 - 1.0, 0, z),
            (x + side * design.width_m / 2 + 1.0, design.height_m - 0.4, z + 0.6),
            stuff.wall,
        )
        builder.prism((x + side * half, z + 0.7 * reach), 0.35, height + 0.9, height + 2.4, 6, stuff.carved)


def _timber(
    builder: SceneBuilder,
    design: Design,
    stuff: Materials,
    rng: np.random.Generator,
    x: float,
    z: float,
    px_per_m: float,
) -> None:
    half = design.width_m / 2
    side = float(rng.choice([-1, 1]))
    middle = side * 0.42 * half
    _oriel(
        builder, design, stuff, x, z, (middle - 1.5, middle + 1.5, 1.1), design.floors - 1, 1, 60, px_per_m
    )
    _balcony(builder, stuff, x - side * 0.5 * half, design.floor_m, z, 1.9)
    xs = x + np.linspace(-0.95, 0.95, 5) * half
    for post in xs:
        builder.box(
            (float(post) - 0.16, 0, z + 0.1), (float(post) + 0.16, design.floor_m, z + 0.5), stuff.roof
        )


def _tower_house(
    builder: SceneBuilder,
    design: Design,
    stuff: Materials,
    rng: np.random.Generator,
    x: float,
    z: float,
    px_per_m: float,
) -> None:
    half = design.width_m / 2
    _tower(
        builder,
        design,
        stuff,
        x + rng.uniform(-0.25, 0.25) * half,
        z + 1.6,
        rng.uniform(1.9, 2.4),
        design.floors + 2,
        px_per_m,
    )
    for side in (-0.85, 0.85):
        _balcony(
            builder, stuff, x + side * half, design.floor_m * int(rng.integers(1, design.floors)), z, 1.0
        )


def _hall(
    builder: SceneBuilder,
    design: Design,
    stuff: Materials,
    rng: np.random.Generator,
    x: float,
    z: float,
    px_per_m: float,
) -> None:
    half = design.width_m / 2
    for side in np.linspace(-1, 1, int(rng.integers(4, 6))):
        builder.box(
            (x + side * half - 0.4, 0, z), (x + side * half + 0.4, design.height_m, z + 0.5), stuff.trim
        )
    reach = rng.uniform(1.6, 2.6)
    span = rng.uniform(0.25, 0.5) * design.width_m
    top = design.floor_m * 0.92
    builder.box((x - span, top, z), (x + span, top + 0.3, z + reach), stuff.roof, front=stuff.carved)
    _columns(builder, stuff, x + np.linspace(-span + 0.3, span - 0.3, 4), z + reach - 0.3, top, 0.16)


_PARTS = {
    "townhouse": _townhouse,
    "church": _church,
    "tower": _tower_house,
    "timber": _timber,
    "palace": _palace,
    "hall": _hall,
}
