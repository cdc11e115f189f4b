"""Windows and doors: surround and hole on the wall's sheet, panes on the sheet that lies behind it."""

import numpy as np
from PIL import Image

from experiments.demo.design import Design, Head, WindowDesign
from experiments.demo.masonry import Colour
from experiments.demo.noise import fractal_noise
from experiments.demo.ornament import relief
from experiments.demo.sheet import Box, Sheet, to_bytes

Outline = list[tuple[float, float]]


def outline(box: Box, head: Head) -> Outline:
    """The border of an opening whose upper edge has the given shape, in m."""
    x0, y0, x1, y1 = box
    middle, half = (x0 + x1) / 2, (x1 - x0) / 2
    if head == "flat":
        return [(x0, y1), (x0, y0), (x1, y0), (x1, y1)]
    rise = {"segment": 0.3, "round": 1.0, "pointed": 1.5}[head] * half
    steps = np.linspace(-1, 1, 17)
    curve = np.sqrt(1 - steps**2) if head != "pointed" else 1 - np.abs(steps) ** 1.6
    arch = [(middle + half * float(s), y0 + rise * (1 - float(c))) for s, c in zip(steps, curve, strict=True)]
    return [(x0, y1), *arch, (x1, y1)]


def window(wall: Sheet, glazing: Sheet, rng: np.random.Generator, design: Design, box: Box) -> None:
    """One window with its surround; what is behind the glass differs from window to window."""
    style = design.window
    _surround(wall, rng, design, box)
    if style.shutters:
        _shutters(wall, rng, design.accent, box)
    wall.clear(outline(box, style.head))
    _panes(glazing, rng, style, box)
    x0, _, x1, y1 = box
    wall.slab((x0 - 0.16, y1, x1 + 0.16, y1 + 0.14), design.trim)


def door(wall: Sheet, glazing: Sheet, rng: np.random.Generator, design: Design, box: Box) -> None:
    """A portal: stepped frame, carved tympanum, two leaves with their own panels."""
    x0, y0, x1, y1 = box
    head: Head = "pointed" if design.kind == "church" else "round" if design.window.head != "flat" else "flat"
    for step, tone in ((0.55, 0.8), (0.4, 1.1), (0.2, 0.7)):
        wall.draw.polygon(
            [
                (x * wall.px_per_m, y * wall.px_per_m)
                for x, y in outline((x0 - step, y0 - step, x1 + step, y1), head)
            ],
            fill=to_bytes(design.trim, tone),
        )
    wall.clear(outline(box, head))
    split = y0 + 0.38 * (y1 - y0)
    size = max(8, int((x1 - x0) * glazing.px_per_m)), max(8, int((split - y0) * glazing.px_per_m))
    glazing.paste(relief(rng, *size, design.trim), (x0 - 0.2, y0 - 0.2, x1 + 0.2, split))
    glazing.rectangle((x0 - 0.2, split, x1 + 0.2, y1), design.accent, 0.7)
    middle = (x0 + x1) / 2
    for left, right in ((x0, middle - 0.03), (middle + 0.03, x1)):
        for part in range(3):
            top = split + (y1 - split) * (part + 0.12) / 3
            bottom = split + (y1 - split) * (part + 0.88) / 3
            glazing.rectangle((left + 0.14, top, right - 0.14, bottom), design.accent, 0.4)
            glazing.rectangle(
                (left + 0.2, top + 0.06, right - 0.2, bottom - 0.06), design.accent, rng.uniform(0.6, 1.2)
            )
    glazing.rectangle((middle - 0.03, split, middle + 0.03, y1), design.accent, 0.25)


def _surround(wall: Sheet, rng: np.random.Generator, design: Design, box: Box) -> None:
    x0, y0, x1, y1 = box
    trim, style = design.trim, design.window
    if style.surround == "none":
        return
    border = 0.17
    grown = outline((x0 - border, y0 - border, x1 + border, y1), style.head)
    wall.draw.polygon(
        [(x * wall.px_per_m, y * wall.px_per_m) for x, y in grown],
        fill=to_bytes(trim, rng.uniform(0.92, 1.05)),
    )
    if style.surround == "quoins":
        for step in range(int((y1 - y0) / 0.34)):
            reach = 0.34 if step % 2 else 0.2
            top = y0 + 0.34 * step
            for left, right in ((x0 - reach, x0), (x1, x1 + reach)):
                wall.rectangle((left, top + 0.02, right, top + 0.32), trim, rng.uniform(0.75, 1.1))
    elif style.surround == "pediment":
        wall.slab((x0 - 0.3, y0 - 0.42, x1 + 0.3, y0 - 0.26), trim)
        peak = [(x0 - 0.3, y0 - 0.42), ((x0 + x1) / 2, y0 - 0.85), (x1 + 0.3, y0 - 0.42)]
        wall.draw.polygon(
            [(x * wall.px_per_m, y * wall.px_per_m) for x, y in peak], fill=to_bytes(trim, 0.85)
        )
    elif style.surround == "hood":
        size = int((x1 - x0 + 0.5) * wall.px_per_m), max(8, int(0.36 * wall.px_per_m))
        wall.paste(relief(rng, *size, trim), (x0 - 0.25, y0 - 0.6, x1 + 0.25, y0 - 0.22))
        wall.slab((x0 - 0.3, y0 - 0.72, x1 + 0.3, y0 - 0.6), trim)


def _shutters(wall: Sheet, rng: np.random.Generator, colour: Colour, box: Box) -> None:
    x0, y0, x1, y1 = box
    wide = 0.48 * (x1 - x0)
    for left in (x0 - wide - 0.02, x1 + 0.02):
        wall.rectangle((left, y0, left + wide, y1), colour, rng.uniform(0.75, 1.0))
        for slat in np.arange(y0 + 0.1, y1 - 0.1, 0.13):
            wall.rectangle(
                (left + 0.06, float(slat), left + wide - 0.06, float(slat) + 0.05),
                colour,
                rng.uniform(0.35, 0.7),
            )


def _panes(glazing: Sheet, rng: np.random.Generator, style: WindowDesign, box: Box) -> None:
    """Glass with a blurred reflection and sometimes a curtain, blind or plant behind; bars in front."""
    x0, y0, x1, y1 = box
    left, top, right, bottom = (int(v) for v in glazing.px((x0 - 0.12, y0 - 0.12, x1 + 0.12, y1 + 0.12)))
    height, width = max(4, bottom - top), max(4, right - left)
    tone = 0.14 + 0.10 * fractal_noise(rng, height, width, 0.8 * width, 3)
    glass = (
        np.stack([tone * 0.9, tone, tone * 1.12], axis=2)
        + 0.12 * rng.uniform() * np.linspace(1, 0, height)[:, None, None]
    )
    if rng.random() < 0.6:
        colour = rng.uniform(0.35, 0.95, 3)
        folds = 0.75 + 0.25 * np.sin(np.linspace(0, rng.uniform(15, 40), width) + rng.uniform(0, 6))
        covered = np.zeros((height, width), dtype=bool)
        edge = int(rng.uniform(0.15, 0.45) * width)
        if rng.random() < 0.4:
            covered[: int(rng.uniform(0.2, 0.8) * height)] = True
        else:
            covered[:, :edge] = covered[:, width - edge :] = True
        glass = np.where(covered[..., None], 0.55 * colour * folds[None, :, None], glass)
    picture = Image.fromarray((np.clip(glass, 0.02, 1) * 255).astype(np.uint8)).convert("RGBA")
    glazing.image.paste(picture, (left, top))
    bar = 0.035
    glazing.rectangle((x0 - 0.1, y1 - 0.09, x1 + 0.1, y1 + 0.1), style.frame, 0.9)
    for column in range(style.columns + 1):
        x = x0 + (x1 - x0) * column / style.columns
        glazing.rectangle((x - bar, y0 - 0.1, x + bar, y1), style.frame, rng.uniform(0.85, 1.0))
    for row in range(style.rows + 1):
        y = y0 + (y1 - y0) * row / style.rows
        glazing.rectangle((x0 - 0.1, y - bar, x1 + 0.1, y + bar), style.frame, rng.uniform(0.85, 1.0))
