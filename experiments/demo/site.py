"""Where a building stands and what it is made of: what every part of it needs to know."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from experiments.demo.design import Design
from experiments.demo.facade import paint_front
from experiments.demo.masonry import Colour, Masonry, masonry_sheet
from experiments.demo.ornament import frieze
from experiments.demo.scene import Material, SceneBuilder
from experiments.demo.sheet import Sheet, sheet_of


@dataclass(frozen=True)
class Materials:
    """The stuff a building is made of."""

    wall: Material
    trim: Material
    roof: Material
    carved: Material


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """One building under construction; (x, z) is the middle of the foot of its front."""

    builder: SceneBuilder
    design: Design
    stuff: Materials
    x: float
    z: float
    px_per_m: float

    @property
    def half_m(self) -> float:
        """Half of the width of the front."""
        return self.design.width_m / 2

    def small_front(self, width_m: float, floors: int, stream: int) -> Material:
        """The front of an oriel, wing or tower: panes and wall in one sheet, without depth between them."""
        wall, glazing = paint_front(self.design, width_m, floors, stream, self.px_per_m, entrance=False)
        return self.builder.material(sheet_of(_layered(wall, glazing), self.px_per_m))


def open_site(builder: SceneBuilder, design: Design, x: float, z: float, px_per_m: float) -> Site:
    """A site with the materials of the design."""
    rng = design.rng(1)
    dark = (design.roof[0] * 0.4, design.roof[1] * 0.4, design.roof[2] * 0.4)
    carved = np.asarray(frieze(rng, round(6 * px_per_m), 4, design.trim), dtype=np.float32) / 255
    stuff = Materials(
        wall=surface(builder, rng, design.masonry, 10, px_per_m, design.wall, design.joint),
        trim=surface(builder, rng, "ashlar", 6, px_per_m, design.trim, design.joint),
        roof=surface(builder, rng, "tiles", 12, 0.6 * px_per_m, design.roof, dark),
        carved=builder.material(sheet_of(carved, px_per_m)),
    )
    return Site(builder=builder, design=design, stuff=stuff, x=x, z=z, px_per_m=px_per_m)


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


def _layered(wall: Sheet, behind: Sheet) -> Float[np.ndarray, "height width 3"]:
    texels = wall.texels()
    mixed: np.ndarray = (
        np.where(texels[..., 3:] > 127, texels[..., :3], behind.texels()[..., :3] * 0.85) / 255.0
    )
    return mixed
