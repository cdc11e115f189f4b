"""A scene of flat textured pieces: what is built, lit and photographed.

World frame in metres: x to the right along the main front, y up, z out of the front towards the cameras.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8

from experiments.demo.sheet import Sheet

Vector = Float[np.ndarray, " 3"]
Rect = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Quad:
    """A parallelogram corner + s * along + t * down for s, t in [0, 1], with a piece of a texture.

    Attributes:
        corner: upper left corner as seen from its front.
        along: edge to the right.
        down: edge downwards.
        texture: row in the scene's textures.
        rect: texels x0, y0, x1, y1 that cover the quad.
        cutout: whether transparent texels are holes.
        double_sided: whether it is seen, and lit, from behind too.
        fixed: whether it belongs to the place; people and cars do not.
        sampled: whether points on it count as structure of the place; ground does not.

    """

    corner: Vector
    along: Vector
    down: Vector
    texture: int
    rect: Rect
    cutout: bool = False
    double_sided: bool = False
    fixed: bool = True
    sampled: bool = True

    @property
    def normal(self) -> Vector:
        """Unit normal on the front's side."""
        normal = np.cross(self.down, self.along)
        unit: np.ndarray = normal / np.linalg.norm(normal)
        return unit


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Quads and the RGBA textures that they refer to."""

    quads: tuple[Quad, ...]
    textures: tuple[UInt8[np.ndarray, "height width 4"], ...]


@dataclass(frozen=True, eq=False)
class Material:
    """A texture with its scale: pieces of it cover the faces of boxes."""

    texture: int
    width: int
    height: int
    px_per_m: float

    @property
    def whole(self) -> Rect:
        """The rect of the full texture."""
        return 0.0, 0.0, float(self.width), float(self.height)

    def piece(self, rng: np.random.Generator, width_m: float, height_m: float) -> Rect:
        """A random rect of this size; the largest there is where the texture is smaller."""
        width = min(width_m * self.px_per_m, self.width - 1.0)
        height = min(height_m * self.px_per_m, self.height - 1.0)
        x, y = rng.uniform(0, self.width - width), rng.uniform(0, self.height - height)
        return x, y, x + width, y + height


@dataclass(eq=False)
class SceneBuilder:
    """Collects textures and quads; `rng` picks the pieces of materials."""

    rng: np.random.Generator
    quads: list[Quad] = field(default_factory=list)
    textures: list[UInt8[np.ndarray, "height width 4"]] = field(default_factory=list)

    def material(self, sheet: Sheet) -> Material:
        """Register the sheet as a texture."""
        texels = sheet.texels()
        self.textures.append(texels)
        return Material(len(self.textures) - 1, texels.shape[1], texels.shape[0], sheet.px_per_m)

    def quad(
        self,
        corner: tuple[float, float, float],
        along: tuple[float, float, float],
        down: tuple[float, float, float],
        material: Material,
        rect: Rect | None = None,
        cutout: bool = False,
        double_sided: bool = False,
        fixed: bool = True,
        sampled: bool = True,
    ) -> None:
        """Add one quad; without `rect` a random piece of the material at its true scale."""
        a, d = np.asarray(along, dtype=np.float64), np.asarray(down, dtype=np.float64)
        if rect is None:
            rect = material.piece(self.rng, float(np.linalg.norm(a)), float(np.linalg.norm(d)))
        self.quads.append(
            Quad(
                corner=np.asarray(corner, dtype=np.float64),
                along=a,
                down=d,
                texture=material.texture,
                rect=rect,
                cutout=cutout,
                double_sided=double_sided,
                fixed=fixed,
                sampled=sampled,
            )
        )

    def box(
        self,
        low: tuple[float, float, float],
        high: tuple[float, float, float],
        side: Material,
        front: Material | None = None,
        top: Material | None = None,
        front_rect: Rect | None = None,
    ) -> None:
        """An upright box from its low to its high corner: front, both sides, top and underside."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        w, h, d = x1 - x0, y1 - y0, z1 - z0
        self.quad((x0, y1, z1), (w, 0, 0), (0, -h, 0), front or side, front_rect)
        self.quad((x0, y1, z0), (0, 0, d), (0, -h, 0), side)
        self.quad((x1, y1, z1), (0, 0, -d), (0, -h, 0), side)
        self.quad((x0, y1, z0), (w, 0, 0), (0, 0, d), top or side)
        if y0 > 0.05:
            self.quad((x0, y0, z1), (w, 0, 0), (0, 0, -d), side)

    def prism(
        self,
        centre: tuple[float, float],
        radius: float,
        y0: float,
        y1: float,
        sides: int,
        material: Material,
        turn: float = 0.0,
    ) -> None:
        """A standing prism around (x, z): columns, basins, pillars for posters. One piece wraps around it."""
        angles = turn + 2 * np.pi * np.arange(sides + 1) / sides
        xs, zs = centre[0] + radius * np.sin(angles), centre[1] + radius * np.cos(angles)
        around = 2 * np.pi * radius
        x_low, y_low, x_high, y_high = material.piece(self.rng, around, y1 - y0)
        step = (x_high - x_low) / sides
        for k in range(sides):
            along = (float(xs[k + 1] - xs[k]), 0.0, float(zs[k + 1] - zs[k]))
            rect = (x_low + k * step, y_low, x_low + (k + 1) * step, y_high)
            self.quad((float(xs[k]), y1, float(zs[k])), along, (0, y0 - y1, 0), material, rect)

    def scene(self) -> Scene:
        """What was built."""
        return Scene(quads=tuple(self.quads), textures=tuple(self.textures))
