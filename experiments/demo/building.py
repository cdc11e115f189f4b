"""Builds one building from its design: front with panes behind it, body, roof, and the parts of its kind."""

from experiments.demo.design import Design
from experiments.demo.facade import paint_front
from experiments.demo.parts import add_parts
from experiments.demo.scene import SceneBuilder
from experiments.demo.site import Site, open_site

DEPTH_M = 9.0
# The panes lie this far behind the wall.
_REVEAL_M = 0.32


def add_building(
    builder: SceneBuilder, design: Design, x: float, z: float, px_per_m: float, detailed: bool = True
) -> None:
    """Add the building with the middle of its front at (x, z); without detail it is body and roof only."""
    site = open_site(builder, design, x, z, px_per_m)
    _front(site, detailed)
    _walls(site)
    if design.gable_m > 0:
        _gable_roof(site)
    else:
        _eaves_roof(site)
    if detailed:
        add_parts(site)


def _front(site: Site, entrance: bool) -> None:
    design, left = site.design, site.x - site.half_m
    gable, height, width = design.gable_m, design.height_m, design.width_m
    wall, glazing = paint_front(design, width, design.floors, 2, site.px_per_m, gable, entrance)
    front, glass = site.builder.material(wall), site.builder.material(glazing)
    top = height + gable
    site.builder.quad((left, top, site.z), (width, 0, 0), (0, -top, 0), front, front.whole, cutout=True)
    # The panes end at the eaves, or they would show beside the gable; the gable's middle has its own.
    eaves = gable / top * glass.height
    behind = site.z - _REVEAL_M
    rect = (0.0, eaves, float(glass.width), float(glass.height))
    site.builder.quad((left, height, behind), (width, 0, 0), (0, -height, 0), glass, rect)
    if gable > 0:
        rect = (0.4 * glass.width, 0.35 * eaves, 0.6 * glass.width, eaves)
        corner = (left + 0.4 * width, height + 0.65 * gable, behind)
        site.builder.quad(corner, (0.2 * width, 0, 0), (0, -0.65 * gable, 0), glass, rect)


def _walls(site: Site) -> None:
    height, wall = site.design.height_m, site.stuff.wall
    left, right = site.x - site.half_m, site.x + site.half_m
    site.builder.quad((left, height, site.z - DEPTH_M), (0, 0, DEPTH_M), (0, -height, 0), wall)
    site.builder.quad((right, height, site.z), (0, 0, -DEPTH_M), (0, -height, 0), wall)


def _gable_roof(site: Site) -> None:
    """Two slopes beside a ridge that runs to the back."""
    half, gable, roof = site.half_m, site.design.gable_m, site.stuff.roof
    ridge, back = site.design.height_m + gable - 0.25, site.z - DEPTH_M
    length = DEPTH_M - 0.05
    site.builder.quad((site.x, ridge, back), (0, 0, length), (-half, -gable, 0), roof)
    site.builder.quad((site.x, ridge, site.z - 0.05), (0, 0, -length), (half, -gable, 0), roof)


def _eaves_roof(site: Site) -> None:
    """A slope that faces the front, above a carved cornice that hangs over the wall."""
    height, width = site.design.height_m, site.design.width_m
    left, rise = site.x - site.half_m, 1.2 if site.design.kind == "palace" else 2.9
    site.builder.quad(
        (left, height + rise, site.z - DEPTH_M / 2),
        (width, 0, 0),
        (0, -rise, DEPTH_M / 2 - 0.1),
        site.stuff.roof,
    )
    low, high = (left - 0.3, height - 0.35, site.z), (left + width + 0.3, height, site.z + 0.55)
    site.builder.box(low, high, site.stuff.trim, front=site.stuff.carved)
