"""Paints the front of a building: the wall with its openings, and the sheet of panes behind the wall."""

from itertools import pairwise

import numpy as np
from PIL import Image

from experiments.demo.design import Design
from experiments.demo.masonry import masonry_sheet
from experiments.demo.noise import fractal_noise
from experiments.demo.openings import door, window
from experiments.demo.ornament import poster, relief, rosette, sign
from experiments.demo.sheet import Sheet, sheet_of, to_bytes


def paint_front(
    design: Design,
    width_m: float,
    floors: int,
    stream: int,
    px_per_m: float,
    gable_m: float = 0.0,
    entrance: bool = True,
) -> tuple[Sheet, Sheet]:
    """Wall and glazing of a front of `floors` floors, with a triangular gable of `gable_m` on top.

    Both sheets have the same size; the wall is transparent at openings and beside the gable.
    """
    rng = design.rng(stream)
    wall_m = floors * design.floor_m
    shape = max(8, round((wall_m + gable_m) * px_per_m)), max(8, round(width_m * px_per_m))
    albedo = masonry_sheet(rng, design.masonry, *shape, px_per_m, design.wall, design.joint)
    wall = sheet_of(albedo, px_per_m)
    dark = (design.trim[0] * 0.35, design.trim[1] * 0.35, design.trim[2] * 0.36)
    glazing = sheet_of(np.full((*shape, 3), dark, dtype=np.float32), px_per_m)
    _bands(wall, rng, design, width_m, floors, gable_m)
    if design.kind == "timber":
        _timbers(wall, rng, design, width_m, floors, gable_m)
    _floors(wall, glazing, rng, design, width_m, floors, gable_m, entrance)
    if gable_m > 0:
        _gable(wall, glazing, rng, design, width_m, gable_m)
    return _soiled(wall, rng), glazing


def _bands(
    wall: Sheet, rng: np.random.Generator, design: Design, width_m: float, floors: int, gable_m: float
) -> None:
    """String courses between floors, quoins at the corners, a plinth."""
    for level in range(floors):
        y = gable_m + level * design.floor_m
        wall.slab((0, y, width_m, y + 0.24), design.trim)
        if level == 0 or design.kind == "palace":
            tooth = float(rng.uniform(0.25, 0.4))
            for x in np.arange(0, width_m, tooth):
                wall.rectangle(
                    (float(x), y + 0.26, float(x) + tooth / 2, y + 0.42), design.trim, rng.uniform(0.7, 1.1)
                )
    bottom = gable_m + floors * design.floor_m
    if design.kind in ("palace", "church", "townhouse"):
        for step in range(int((bottom - gable_m) / 0.42)):
            reach, top = (0.62 if step % 2 else 0.4), gable_m + 0.42 * step
            for left, right in ((0.0, reach), (width_m - reach, width_m)):
                wall.rectangle((left, top + 0.015, right, top + 0.405), design.trim, rng.uniform(0.72, 1.08))
    wall.slab((0, bottom - 0.65, width_m, bottom - 0.5), design.trim)


def _floors(
    wall: Sheet,
    glazing: Sheet,
    rng: np.random.Generator,
    design: Design,
    width_m: float,
    floors: int,
    gable_m: float,
    entrance: bool,
) -> None:
    """One row of windows a floor; the lowest has the door, shop signs and posters."""
    style = design.window
    spacing = style.width_m * (2.3 if style.shutters else 1.85)
    columns = max(1, min(design.bays + 2, int((width_m - 0.8) / spacing)))
    centres = (np.arange(columns) + rng.uniform(0.44, 0.56, columns)) * (width_m - 0.6) / columns + 0.3
    entry = columns // 2 if design.seed % 2 else int(rng.integers(columns))
    for floor in range(floors):
        bottom = gable_m + (floor + 1) * design.floor_m
        ground = floor == floors - 1
        for column, centre in enumerate(centres):
            x = float(centre)
            if ground and entrance and column == entry:
                door(
                    wall,
                    glazing,
                    rng,
                    design,
                    (x - 0.85, bottom - min(2.9, 0.82 * design.floor_m), x + 0.85, bottom),
                )
            elif rng.random() < 0.86:
                height = min(style.height_m, design.floor_m - 1.25)
                sill = bottom - 0.8
                window(
                    wall,
                    glazing,
                    rng,
                    design,
                    (x - style.width_m / 2, sill - height, x + style.width_m / 2, sill),
                )
                if not ground and rng.random() < 0.5:
                    _panel(wall, rng, design, x, bottom - 0.02)
            else:
                _niche(wall, rng, design, x, bottom)
        _between(wall, rng, design, centres, bottom, ground)


def _panel(wall: Sheet, rng: np.random.Generator, design: Design, x: float, bottom: float) -> None:
    """A relief under a window."""
    half = design.window.width_m / 2
    size = max(8, int(2 * half * wall.px_per_m)), max(8, int(0.5 * wall.px_per_m))
    wall.paste(relief(rng, *size, design.trim), (x - half, bottom - 0.56, x + half, bottom - 0.06))


def _niche(wall: Sheet, rng: np.random.Generator, design: Design, x: float, bottom: float) -> None:
    """A carved panel where a window would be."""
    half, height = design.window.width_m / 2, design.floor_m - 1.4
    size = max(8, int(2 * half * wall.px_per_m)), max(8, int(height * wall.px_per_m))
    colour = design.trim if rng.random() < 0.6 else design.accent
    wall.paste(relief(rng, *size, colour), (x - half, bottom - 0.7 - height, x + half, bottom - 0.7))


def _between(
    wall: Sheet, rng: np.random.Generator, design: Design, centres: np.ndarray, bottom: float, ground: bool
) -> None:
    """Posters and signs on the lowest floor; medallions higher up."""
    for left, right in pairwise(centres):
        middle, room = float(left + right) / 2, float(right - left) - design.window.width_m - 0.4
        if room < 0.45 or rng.random() < 0.45 or design.window.shutters:
            continue
        half = min(room / 2, 0.5)
        size = int(2 * half * wall.px_per_m), int(2.8 * half * wall.px_per_m)
        if ground:
            wall.paste(
                poster(rng, *size), (middle - half, bottom - 0.8 - 2.8 * half, middle + half, bottom - 0.8)
            )
        else:
            wall.paste(
                relief(rng, size[0], size[0], design.trim),
                (middle - half, bottom - 1.5 - 2 * half, middle + half, bottom - 1.5),
            )
    if ground and design.kind in ("townhouse", "hall", "timber"):
        centre = float(rng.choice(centres))
        wide = min(2.6, float(centres[0]) * 2 + 1.2)
        box = (
            centre - wide / 2,
            bottom - design.floor_m + 0.28,
            centre + wide / 2,
            bottom - design.floor_m + 0.8,
        )
        wall.paste(
            sign(rng, int(wide * wall.px_per_m), int(0.52 * wall.px_per_m), design.accent, design.trim), box
        )


def _timbers(
    wall: Sheet, rng: np.random.Generator, design: Design, width_m: float, floors: int, gable_m: float
) -> None:
    """Posts, rails and crossed braces over the plaster."""
    beam = (design.roof[0] * 0.55, design.roof[1] * 0.45, design.roof[2] * 0.4)
    posts = np.linspace(0.1, width_m - 0.1, max(2, int(width_m / rng.uniform(1.1, 1.6))))
    posts[1:-1] += rng.uniform(-0.28, 0.28, len(posts) - 2)
    scale = wall.px_per_m
    for floor in range(floors + (gable_m > 0)):
        bottom = gable_m + floor * design.floor_m
        top = bottom - design.floor_m if floor else 0.0
        for rail in (top + 0.1, bottom - 0.85, bottom - 0.1):
            wall.rectangle((0, rail - 0.1, width_m, rail + 0.1), beam, rng.uniform(0.8, 1.2))
        for left, right in pairwise(posts):
            wall.rectangle((float(left) - 0.1, top, float(left) + 0.1, bottom), beam, rng.uniform(0.7, 1.3))
            pattern = rng.integers(4)
            for start, end in (((left, right),), ((right, left),), ((left, right), (right, left)), ())[
                pattern
            ]:
                line = (float(start) * scale, (bottom - 0.1) * scale, float(end) * scale, (top + 0.1) * scale)
                wall.draw.line(line, fill=to_bytes(beam, rng.uniform(0.8, 1.2)), width=int(0.16 * scale))


def _gable(
    wall: Sheet, glazing: Sheet, rng: np.random.Generator, design: Design, width_m: float, gable_m: float
) -> None:
    """Cuts the triangle out and puts a rosette or a window into it."""
    middle = width_m / 2
    size = min(0.5 * gable_m, 3.4)
    y = gable_m * 0.62
    box = (middle - size / 2, y - size / 2, middle + size / 2, y + size / 2)
    if design.kind == "church":
        panes = (design.accent, design.trim, design.roof, (0.2, 0.3, 0.6))
        wall.paste(rosette(rng, int(size * wall.px_per_m), design.trim, panes), box)
    elif design.kind == "timber":
        window(wall, glazing, rng, design, (middle - 0.6, y - 0.6, middle + 0.6, y + 0.6))
    else:
        px = int(1.8 * size * wall.px_per_m), int(0.8 * size * wall.px_per_m)
        wall.paste(
            relief(rng, *px, design.trim), (middle - 0.9 * size, y, middle + 0.9 * size, y + 0.8 * size)
        )
    edge = 0.28
    for x0, x1 in ((0.0, middle), (width_m, middle)):
        wall.draw.line(
            [(x0 * wall.px_per_m, gable_m * wall.px_per_m), (x1 * wall.px_per_m, 0)],
            fill=to_bytes(design.trim, 0.9),
            width=int(2 * edge * wall.px_per_m),
        )
    wall.clear([(0, 0), (middle, 0), (0, gable_m)])
    wall.clear([(width_m, 0), (middle, 0), (width_m, gable_m)])


def _soiled(wall: Sheet, rng: np.random.Generator) -> Sheet:
    """Stains over all that was drawn: they tell one window from the next, which clean paint does not."""
    texels = np.asarray(wall.image).astype(np.float32)
    height, width = texels.shape[:2]
    grain = fractal_noise(rng, height, width, 0.7 * wall.px_per_m, 5, 0.9)
    texels[..., :3] *= (1 + 0.11 * np.clip(grain, -2.5, 2.5))[..., None]
    return Sheet(image=Image.fromarray(np.clip(texels, 0, 255).astype(np.uint8)), px_per_m=wall.px_per_m)
