"""Seeded noise fields: the weathering, stone and foliage of every rendered surface."""

import numpy as np
from jaxtyping import Float
from PIL import Image


def value_noise(
    rng: np.random.Generator, height: int, width: int, cell_px: float, stretch: float = 1.0
) -> Float[np.ndarray, "height width"]:
    """Smooth noise of about unit spread: normal numbers on a grid of `cell_px`, interpolated between.

    `stretch` > 1 makes cells that many times taller than wide (streaks of rain).
    """
    rows = max(2, round(height / (cell_px * stretch)) + 1)
    columns = max(2, round(width / cell_px) + 1)
    grid = Image.fromarray(rng.standard_normal((rows, columns)).astype(np.float32))
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def fractal_noise(
    rng: np.random.Generator,
    height: int,
    width: int,
    coarsest_px: float,
    octaves: int,
    persistence: float = 0.7,
) -> Float[np.ndarray, "height width"]:
    """Sum of octaves of value noise from `coarsest_px` down, scaled to unit spread."""
    total = np.zeros((height, width), dtype=np.float32)
    for octave in range(octaves):
        cell = max(1.0, coarsest_px / 2**octave)
        total += persistence**octave * value_noise(rng, height, width, cell)
    spread = float(total.std())
    return total / spread if spread > 0 else total
