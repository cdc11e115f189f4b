"""What stands around the main building: neighbours, ground, trees, fountains, pillars with posters."""

import numpy as np
from PIL import Image

from experiments.demo.building import add_building
from experiments.demo.design import KINDS, draw_design
from experiments.demo.masonry import Masonry
from experiments.demo.noise import fractal_noise
from experiments.demo.ornament import frieze, poster, random_colour
from experiments.demo.scene import Material, SceneBuilder
from experiments.demo.sheet import Sheet, sheet_of
from experiments.demo.site import surface

_GROUND_M = 34.0


def add_surroundings(builder: SceneBuilder, seed: int, half_width_m: float, px_per_m: float) -> None:
    """Add what the seed puts around a building whose front reaches from -half_width_m to half_width_m."""
    rng = np.random.default_rng([seed, 7100])
    _ground(builder, rng, px_per_m)
    for side in (-1, 1):
        kind = KINDS[int(rng.integers(len(KINDS)))]
        design = draw_design(int(rng.integers(2**31)), kind)
        gap = rng.uniform(0.2, 2.5)
        x = side * (half_width_m + gap + design.width_m / 2)
        add_building(builder, design, x, rng.uniform(-5.0, 3.0), 0.6 * px_per_m, detailed=False)
    count = int(rng.integers(2, 5))
    # The middle stays free: nothing that stands there for good may hide the front from most cameras.
    slots = rng.permutation([-1.25, -0.95, -0.65, 0.65, 0.95, 1.25])[:count]
    for slot in slots:
        makers = _FURNITURE if abs(slot) > 0.9 else _FURNITURE[1:]
        z = float(rng.uniform(1.8, 3.6))
        makers[int(rng.integers(len(makers)))](builder, rng, float(slot) * half_width_m, z, px_per_m)


def _ground(builder: SceneBuilder, rng: np.random.Generator, px_per_m: float) -> None:
    """Paving in front, a kerbed pavement along the walls."""
    kinds: tuple[Masonry, ...] = ("cobbles", "ashlar", "lawn", "plaster", "brick")
    kind = kinds[int(rng.integers(len(kinds)))]
    grey = rng.uniform(0.3, 0.6)
    colour = (
        (0.25, 0.38, 0.16)
        if kind == "lawn"
        else (grey * rng.uniform(0.95, 1.15), grey, grey * rng.uniform(0.8, 1.0))
    )
    dark = (grey * 0.55, grey * 0.55, grey * 0.5)
    ground = surface(builder, rng, kind, _GROUND_M, 0.45 * px_per_m, colour, dark)
    half = 1.9 * _GROUND_M / 2
    for left in (-half * 2, 0.0):
        builder.quad((left, 0, -14), (half * 2, 0, 0), (0, 0, half * 2), ground, ground.whole, sampled=False)
    kerb = surface(builder, rng, "ashlar", 8, 0.7 * px_per_m, (grey * 1.2, grey * 1.2, grey * 1.15), dark)
    for left in (-24.0, -12.0, 0.0, 12.0):
        builder.quad((left, 0.12, -0.2), (12, 0, 0), (0, 0, 2.6), kerb, sampled=False)
        builder.quad((left, 0.12, 2.4), (12, 0, 0), (0, -0.12, 0), kerb, sampled=False)


def _tree(builder: SceneBuilder, rng: np.random.Generator, x: float, z: float, px_per_m: float) -> None:
    """Crossed cut-out pictures of a crown over a trunk."""
    side = round(3.6 * px_per_m)
    height = rng.uniform(4.0, 6.0)
    for turn in (0.3, 1.35, 2.4):
        field = fractal_noise(rng, side, side, 0.3 * side, 6, 0.8)
        yy, xx = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
        crown = (xx**2 + (yy * 0.95) ** 2 < 0.78 + 0.16 * field) & (field > -1.3)
        trunk = (np.abs(xx) < 0.05) & (yy > 0)
        tone = 0.9 + 0.22 * fractal_noise(rng, side, side, 8, 3, 0.9) - 0.2 * yy
        green = np.array([0.25, 0.36, 0.17]) * rng.uniform(0.8, 1.1)
        colour = np.where(
            crown[..., None], green * tone[..., None], np.array([0.2, 0.15, 0.1]) * tone[..., None]
        )
        texels = np.concatenate([np.clip(colour, 0.02, 1), (crown | trunk)[..., None]], axis=2)
        material = builder.material(Sheet(Image.fromarray((texels * 255).astype(np.uint8)), px_per_m))
        dx, dz = np.cos(turn) * height * 0.38, np.sin(turn) * height * 0.38
        builder.quad(
            (x - dx, height, z - dz),
            (2 * dx, 0, 2 * dz),
            (0, -height, 0),
            material,
            material.whole,
            cutout=True,
            double_sided=True,
        )


def _pillar(builder: SceneBuilder, rng: np.random.Generator, x: float, z: float, px_per_m: float) -> None:
    """A round pillar pasted with posters."""
    wide, high = round(4.4 * px_per_m), round(2.4 * px_per_m)
    wall = Image.new("RGB", (wide, high), (90, 90, 80))
    for column in range(4):
        size = wide // 4 - 6, int(high * rng.uniform(0.6, 0.92))
        wall.paste(poster(rng, *size), (column * wide // 4 + 3, int(rng.uniform(2, high - size[1]))))
    material = builder.material(Sheet(wall.convert("RGBA"), px_per_m))
    builder.prism((x, z), 0.7, 0.25, 2.65, 12, material)
    cap = surface(builder, rng, "tiles", 3, px_per_m, random_colour(rng, 0.1, 0.5), (0.1, 0.1, 0.1))
    builder.prism((x, z), 0.8, 0.0, 0.25, 8, cap)
    builder.prism((x, z), 0.85, 2.65, 3.0, 8, cap)


def _stone(builder: SceneBuilder, rng: np.random.Generator, px_per_m: float) -> tuple[Material, Material]:
    colour = random_colour(rng, 0.4, 0.75, 0.25)
    carved = np.asarray(frieze(rng, round(4 * px_per_m), 4, colour), dtype=np.float32) / 255
    plain = surface(builder, rng, "rubble", 4, px_per_m, colour, (0.3, 0.3, 0.3))
    return plain, builder.material(sheet_of(carved, px_per_m))


def _fountain(builder: SceneBuilder, rng: np.random.Generator, x: float, z: float, px_per_m: float) -> None:
    """An eight-sided basin with a carved shaft."""
    plain, carved = _stone(builder, rng, px_per_m)
    builder.prism((x, z), 1.6, 0.0, 0.7, 8, carved, turn=np.pi / 8)
    builder.prism((x, z), 0.35, 0.0, 2.0, 6, plain)
    builder.prism((x, z), 0.7, 2.0, 2.25, 8, carved)
    builder.prism((x, z), 0.22, 2.25, 3.1, 6, carved)


def _monument(builder: SceneBuilder, rng: np.random.Generator, x: float, z: float, px_per_m: float) -> None:
    """A pedestal with an obelisk."""
    plain, carved = _stone(builder, rng, px_per_m)
    builder.box((x - 0.9, 0, z - 0.9), (x + 0.9, 0.4, z + 0.9), plain)
    builder.box((x - 0.6, 0.4, z - 0.6), (x + 0.6, 1.7, z + 0.6), carved)
    builder.box((x - 0.35, 1.7, z - 0.35), (x + 0.35, rng.uniform(3.2, 5.0), z + 0.35), carved)


def _planter(builder: SceneBuilder, rng: np.random.Generator, x: float, z: float, px_per_m: float) -> None:
    """A stone trough with a hedge."""
    plain, carved = _stone(builder, rng, px_per_m)
    green = surface(builder, rng, "lawn", 3, px_per_m, (0.2, 0.34, 0.12), (0.1, 0.1, 0.1))
    half = rng.uniform(0.8, 1.8)
    builder.box((x - half, 0, z - 0.45), (x + half, 0.6, z + 0.45), plain, front=carved)
    builder.box((x - half + 0.1, 0.6, z - 0.35), (x + half - 0.1, rng.uniform(1.0, 1.5), z + 0.35), green)


_FURNITURE = (_tree, _pillar, _fountain, _monument, _planter)
