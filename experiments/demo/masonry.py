"""Sheets of wall, roof and paving: brick, ashlar, rubble, plaster, tiles; each stone has its tone."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from experiments.demo.noise import fractal_noise, value_noise

Colour = tuple[float, float, float]
Masonry = Literal["brick", "ashlar", "rubble", "plaster", "planks", "tiles", "cobbles", "lawn"]

# Stone height in m, mean width / height, relative spread of widths, joint in m, warp of the joints in m.
_COURSES: dict[str, tuple[float, float, float, float, float]] = {
    "brick": (0.16, 2.4, 0.05, 0.018, 0.004),
    "ashlar": (0.46, 1.9, 0.35, 0.022, 0.004),
    "rubble": (0.34, 1.5, 0.6, 0.045, 0.075),
    "tiles": (0.24, 0.9, 0.1, 0.022, 0.012),
    "cobbles": (0.30, 1.3, 0.45, 0.05, 0.05),
    "planks": (0.24, 12.0, 0.5, 0.02, 0.004),
}


def masonry_sheet(
    rng: np.random.Generator,
    kind: Masonry,
    height: int,
    width: int,
    px_per_m: float,
    colour: Colour,
    joint: Colour,
) -> Float[np.ndarray, "height width 3"]:
    """Albedo in [0, 1] of a sheet of wall of `colour`, its joints of colour `joint`, weathered."""
    base = np.asarray(colour, dtype=np.float32)
    if kind in _COURSES:
        sheet = _courses(rng, kind, height, width, px_per_m, base, np.asarray(joint, dtype=np.float32))
    else:
        sheet = np.broadcast_to(base, (height, width, 3)).astype(np.float32)
    if kind == "lawn":
        blades = fractal_noise(rng, height, width, 0.4 * px_per_m, 5, 0.9)
        sheet = sheet * (1 + 0.22 * blades)[..., None]
    return weathered(rng, sheet, px_per_m, strength=0.13 if kind == "plaster" else 0.10)


def weathered(
    rng: np.random.Generator, sheet: Float[np.ndarray, "height width 3"], px_per_m: float, strength: float
) -> Float[np.ndarray, "height width 3"]:
    """The sheet under stains at scales from metres to single texels, rain streaks and a drift of hue."""
    height, width = sheet.shape[:2]
    stain = fractal_noise(rng, height, width, 2.5 * px_per_m, 3)
    grain = fractal_noise(rng, height, width, 0.4 * px_per_m, 4, 0.9)
    streak = value_noise(rng, height, width, 0.12 * px_per_m, stretch=14.0)
    factor = 1 + strength * (0.7 * stain + 0.9 * grain + 0.5 * np.minimum(streak, 0.5))
    drift = 0.03 * value_noise(rng, height, width, 1.5 * px_per_m)
    tinted = sheet * factor[..., None]
    tinted[..., 0] *= 1 + drift
    tinted[..., 2] *= 1 - drift
    clipped: np.ndarray = np.clip(tinted, 0.01, 1.0)
    return clipped


def _courses(
    rng: np.random.Generator,
    kind: str,
    height: int,
    width: int,
    px_per_m: float,
    colour: Float[np.ndarray, " 3"],
    joint: Float[np.ndarray, " 3"],
) -> Float[np.ndarray, "height width 3"]:
    """Rows of stones of random width; warped coordinates turn straight joints into irregular ones."""
    stone_m, aspect, spread, joint_m, warp_m = _COURSES[kind]
    stone_px = stone_m * px_per_m * rng.uniform(0.85, 1.2)
    y = np.arange(height, dtype=np.float32)[:, None] + warp_m * px_per_m * value_noise(
        rng, height, width, stone_px
    )
    x = np.arange(width, dtype=np.float32)[None, :] + warp_m * px_per_m * value_noise(
        rng, height, width, stone_px
    )
    rows = y / stone_px + 2.0
    row = np.maximum(rows.astype(np.int32), 0)
    num_rows = int(row.max()) + 1
    widths = stone_px * aspect * (1 + spread * rng.uniform(-0.6, 1.0, num_rows)).astype(np.float32)
    along = x / widths[row] + rng.uniform(2.0, 9.0, num_rows).astype(np.float32)[row]
    stone = along.astype(np.int32)

    # One random tone per stone, looked up by row and place along the row.
    tones = (1 + 0.11 * rng.standard_normal((64, 256))).astype(np.float32)
    tone = tones[row % 64, stone % 256]
    # Distance to the nearest joint, px: from the fractional position inside of the stone.
    across, lengthwise = rows - row, along - stone
    edge_y = np.minimum(across, 1 - across) * stone_px
    edge_x = np.minimum(lengthwise, 1 - lengthwise) * widths[row]
    edge = np.minimum(edge_x, edge_y)
    in_joint = np.clip(1.2 - edge / (0.5 * joint_m * px_per_m), 0, 1)
    # Stones catch light on their upper edge and darken to the lower one.
    bevel = 1 + 0.10 * np.clip(1 - 3 * across, 0, 1) - 0.12 * np.clip(3 * across - 2, 0, 1)
    stones = colour * (tone * bevel)[..., None]
    blend = in_joint[..., None].astype(np.float32)
    mixed: np.ndarray = stones * (1 - blend) + joint * blend
    return mixed.astype(np.float32)
