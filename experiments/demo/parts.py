"""Parts of a building at other depths than its front: wings, oriels, balconies, columns, towers.

They give views of it the parallax that structure from motion lives on: a flat front alone leaves the focal
length and the distance of its cameras open.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from experiments.demo.design import Kind
from experiments.demo.masonry import masonry_sheet
from experiments.demo.sheet import sheet_of
from experiments.demo.site import Site


def add_parts(site: Site) -> None:
    """Add the parts of the building's kind, and steps before its door."""
    rng = site.design.rng(50)
    _KINDS[site.design.kind](site, rng)
    _steps(site, rng)


def _townhouse(site: Site, rng: np.random.Generator) -> None:
    half, floors = site.half_m, site.design.floors
    offset = rng.uniform(-0.25, 0.25) * half
    _oriel(site, offset, 3.4, rng.uniform(1.1, 1.7), (1, floors - int(rng.integers(2))), 60)
    side = float(rng.choice([-1, 1]))
    _wing(site, rng, side, floors - 1)
    _balcony(site, -0.7 * side * half, int(rng.integers(1, floors)), 1.4)
    for k, place in enumerate(rng.uniform(-0.7, 0.7, 2)):
        _oriel(site, float(place) * half, 1.8, 1.2, (floors, floors + 1), 61 + k, back=2.4)
    chimney, eaves = site.x - 0.8 * half, site.design.height_m
    site.builder.box(
        (chimney, eaves, site.z - 4.0), (chimney + 0.9, eaves + 4.2, site.z - 3.2), site.stuff.wall
    )


def _church(site: Site, rng: np.random.Generator) -> None:
    half, height = site.half_m, site.design.height_m
    for place in (-0.4, 0.4):
        middle, reach = site.x + place * half, rng.uniform(1.0, 1.6)
        low, high = (middle - 0.45, 0.0, site.z), (middle + 0.45, 0.86 * height, site.z + reach)
        site.builder.box(low, high, site.stuff.wall)
        low, high = (
            (middle - 0.55, 0.5 * height, site.z),
            (middle + 0.55, 0.5 * height + 0.4, site.z + reach + 0.2),
        )
        site.builder.box(low, high, site.stuff.trim)
    side = float(rng.choice([-1, 1]))
    _tower(site, side * (half + 1.2), 2.4, 2.3, site.design.floors + 2)
    _wing(site, rng, -side, max(1, site.design.floors - 1))


def _palace(site: Site, rng: np.random.Generator) -> None:
    half = rng.uniform(0.2, 0.3) * site.design.width_m
    height = min(site.design.height_m * 0.82, site.design.floor_m * 2)
    reach = rng.uniform(2.0, 3.0)
    _columns(site, np.linspace(-half, half, int(rng.integers(4, 6))), reach, height, rng.uniform(0.26, 0.36))
    low = (site.x - half - 0.6, height, site.z)
    high = (site.x + half + 0.6, height + 0.9, site.z + reach + 0.5)
    site.builder.box(low, high, site.stuff.trim, front=site.stuff.carved)
    for side in (-1, 1):
        _wing(site, rng, side, site.design.floors)
        foot = (site.x + side * half, site.z + 0.7 * reach)
        site.builder.prism(foot, 0.35, height + 0.9, height + 2.4, 6, site.stuff.carved)


def _timber(site: Site, rng: np.random.Generator) -> None:
    half, floors = site.half_m, site.design.floors
    side = float(rng.choice([-1, 1]))
    _oriel(site, side * 0.42 * half, 3.0, rng.uniform(1.1, 1.6), (1, floors), 60)
    _wing(site, rng, -side, 1)
    _balcony(site, -side * 0.35 * half, min(1, floors - 1), 1.7)
    for post in np.linspace(-0.95, 0.95, 5) * half + site.x:
        low = (float(post) - 0.16, 0, site.z + 0.1)
        site.builder.box(low, (float(post) + 0.16, site.design.floor_m, site.z + 0.5), site.stuff.roof)


def _tower_house(site: Site, rng: np.random.Generator) -> None:
    half, floors = site.half_m, site.design.floors
    side = float(rng.choice([-1, 1]))
    _tower(site, rng.uniform(0.05, 0.3) * side * half, 2.2, rng.uniform(1.9, 2.4), floors + 2)
    _wing(site, rng, -side, int(rng.integers(1, floors)))
    _balcony(site, 0.85 * side * half, int(rng.integers(1, floors)), 1.0)


def _hall(site: Site, rng: np.random.Generator) -> None:
    half = site.half_m
    for place in np.linspace(-1, 1, int(rng.integers(4, 6))):
        middle = site.x + float(place) * half
        low, high = (middle - 0.4, 0.0, site.z), (middle + 0.4, site.design.height_m, site.z + 0.7)
        site.builder.box(low, high, site.stuff.trim)
    reach, span = rng.uniform(2.0, 3.0), rng.uniform(0.2, 0.32) * site.design.width_m
    top = site.design.floor_m * 0.92
    low, high = (site.x - span, top, site.z), (site.x + span, top + 0.5, site.z + reach)
    site.builder.box(low, high, site.stuff.roof, front=site.stuff.carved)
    _columns(site, np.linspace(-span + 0.3, span - 0.3, 4), reach - 0.3, top, 0.16)
    _wing(site, rng, float(rng.choice([-1, 1])), max(1, site.design.floors - 1))


def _oriel(
    site: Site,
    middle: float,
    width: float,
    reach: float,
    floors: tuple[int, int],
    stream: int,
    back: float = 0.0,
) -> None:
    """A bay from one floor up to another; `back` moves it behind the front, where it is a dormer."""
    front = site.small_front(width, floors[1] - floors[0], stream)
    x, z = site.x + middle, site.z - back
    y0, y1 = floors[0] * site.design.floor_m, floors[1] * site.design.floor_m - 0.1
    low, high = (x - width / 2, y0, z), (x + width / 2, y1, z + reach)
    site.builder.box(low, high, site.stuff.wall, front, site.stuff.roof, front.whole)
    low, high = (low[0] - 0.15, y1, z), (high[0] + 0.15, y1 + 0.35, high[2] + 0.15)
    site.builder.box(low, high, site.stuff.trim, front=site.stuff.carved)


def _wing(site: Site, rng: np.random.Generator, side: float, floors: int) -> None:
    """A part of the building that stands forward at one of its ends, from the ground up."""
    width = rng.uniform(2.8, 4.2)
    _oriel(
        site, side * (site.half_m - 0.2 * width), width, rng.uniform(1.8, 3.4), (0, floors), 80 + int(side)
    )


def _balcony(site: Site, middle: float, floor: int, half: float) -> None:
    x, y, z = site.x + middle, floor * site.design.floor_m, site.z
    site.builder.box((x - half, y - 0.22, z), (x + half, y, z + 1.25), site.stuff.trim)
    low, high = (x - half, y, z + 1.13), (x + half, y + 0.85, z + 1.25)
    site.builder.box(low, high, site.stuff.trim, front=site.stuff.carved)


def _columns(site: Site, places: Float[np.ndarray, " n"], reach: float, height: float, radius: float) -> None:
    z, foot = site.z + reach, 1.3 * radius
    for x in places + site.x:
        site.builder.prism((float(x), z), radius, 0.3, height, 8, site.stuff.trim)
        low, high = (float(x) - foot, 0, z - foot), (float(x) + foot, 0.3, z + foot)
        site.builder.box(low, high, site.stuff.trim)


def _steps(site: Site, rng: np.random.Generator) -> None:
    half = rng.uniform(1.5, 2.6)
    for step in range(2):
        reach = 1.3 - 0.45 * step
        low = (site.x - half - reach, 0.16 * step, site.z)
        site.builder.box(low, (site.x + half + reach, 0.16 * (step + 1), site.z + reach), site.stuff.trim)


def _tower(site: Site, middle: float, reach: float, half: float, floors: int) -> None:
    """A square tower that stands `reach` before the front, with a spire."""
    front = site.small_front(2 * half, floors, 70)
    x, z, top = site.x + middle, site.z + reach, floors * site.design.floor_m
    low, high = (x - half, 0.0, z - 2 * half), (x + half, top, z)
    site.builder.box(low, high, site.stuff.wall, front, front_rect=front.whole)
    low, high = (x - half - 0.3, top - 0.2, z - 2 * half - 0.3), (x + half + 0.3, top + 0.5, z + 0.3)
    site.builder.box(low, high, site.stuff.trim, front=site.stuff.carved)
    _spire(site, (x, top + 0.5, z - half), half, 3.4 * half)


def _spire(site: Site, centre: tuple[float, float, float], half: float, rise: float) -> None:
    """Three sides of a pyramid: triangles cut out of squares of tiles, none towards the back."""
    side, scale = round(4 * site.px_per_m), site.px_per_m
    albedo = masonry_sheet(site.design.rng(71), "tiles", side, side, scale, site.design.roof, (0.1, 0.1, 0.1))
    tiles = sheet_of(albedo, scale)
    tiles.clear([(0, 0), (2, 0), (0, 4)])
    tiles.clear([(4, 0), (2, 0), (4, 4)])
    material = site.builder.material(tiles)
    x, y, z = centre
    for nx, nz in ((0, 1), (1, 0), (-1, 0)):
        # The upper edge lies above the middle, so that each side leans back by `half`.
        ax, az = nz * half, -nx * half
        along, down = (2 * ax, 0, 2 * az), (nx * half, -rise, nz * half)
        site.builder.quad((x - ax, y + rise, z - az), along, down, material, material.whole, cutout=True)


_KINDS: Mapping[Kind, Callable[[Site, np.random.Generator], None]] = {
    "townhouse": _townhouse,
    "church": _church,
    "tower": _tower_house,
    "timber": _timber,
    "palace": _palace,
    "hall": _hall,
}
