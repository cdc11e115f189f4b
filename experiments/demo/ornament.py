"""Ornaments that no two places share: carved reliefs, rosettes, posters, signs with invented names."""

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from experiments.demo.masonry import Colour
from experiments.demo.noise import value_noise
from experiments.demo.sheet import to_bytes

_SYLLABLES = tuple("kalomirentosvadelfigarhusineboqui"[k : k + 2] for k in range(0, 32, 2))


def random_colour(rng: np.random.Generator, low: float, high: float, saturation: float = 0.6) -> Colour:
    """A colour of any hue, at most this saturated, its value drawn evenly from [low, high]."""
    hue, share, value = rng.uniform((0, 0, low), (1, saturation, high))
    return colorsys.hsv_to_rgb(hue, share, value)


def relief(
    rng: np.random.Generator, width: int, height: int, colour: Colour, mirrored: bool = True
) -> Image.Image:
    """A carved panel: mirrored scrolls and blossoms as a height map, lit from the upper left."""
    heights = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(heights)
    half = width // 2 if mirrored else width
    for _ in range(int(rng.integers(7, 14))):
        _scroll(rng, draw, half, height)
    for _ in range(int(rng.integers(4, 9))):
        x, y, radius = rng.uniform(0, half), rng.uniform(0, height), rng.uniform(0.03, 0.13) * height
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=int(rng.integers(120, 255)))
    if mirrored:
        left = heights.crop((0, 0, half, height))
        heights.paste(left.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (width - half, 0))
    field = (
        np.asarray(heights.filter(ImageFilter.GaussianBlur(max(0.8, height / 90))), dtype=np.float32) / 255
    )
    slope_y, slope_x = np.gradient(field)
    light = 1 + 0.016 * height * (slope_x + slope_y) + 0.25 * (field - 0.4)
    light = np.clip(light + 0.06 * value_noise(rng, height, width, 4), 0.25, 1.5)
    carved = np.clip(np.asarray(colour, dtype=np.float32) * light[..., None], 0, 1)
    picture = Image.fromarray((carved * 255).astype(np.uint8))
    ImageDraw.Draw(picture).rectangle((0, 0, width - 1, height - 1), outline=to_bytes(colour, 0.55), width=2)
    return picture


def frieze(rng: np.random.Generator, size_px: int, panels: int, colour: Colour) -> Image.Image:
    """A square of panels x panels small reliefs, each its own: carved bands and shafts are cut from it."""
    picture = Image.new("RGB", (size_px, size_px))
    step = size_px // panels
    for row in range(panels):
        for column in range(panels):
            panel = relief(rng, step, step, colour, mirrored=bool(rng.random() < 0.5))
            picture.paste(panel, (column * step, row * step))
    return picture


def _scroll(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    """One spiral line, thick at its root."""
    turns = np.linspace(0, rng.uniform(2.5, 7.5), 28)
    radius = rng.uniform(0.12, 0.5) * height * np.exp(-rng.uniform(0.12, 0.35) * turns)
    phase, sign = rng.uniform(0, 2 * np.pi), rng.choice([-1, 1])
    x = rng.uniform(0, width) + radius * np.cos(phase + sign * turns)
    y = rng.uniform(0, height) + radius * np.sin(phase + sign * turns)
    points = [(float(px), float(py)) for px, py in zip(x, y, strict=True)]
    draw.line(points, fill=int(rng.integers(140, 255)), width=max(2, int(rng.uniform(0.02, 0.055) * height)))


def rosette(rng: np.random.Generator, size: int, stone: Colour, panes: tuple[Colour, ...]) -> Image.Image:
    """A round window of petals in rings, each pane of its own glass, on a transparent ground."""
    picture = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    centre = size / 2
    draw.ellipse((0, 0, size - 1, size - 1), fill=(*to_bytes(stone, 0.8), 255))
    for ring, (inner, outer) in enumerate(((0.62, 0.93), (0.34, 0.58), (0.0, 0.28))):
        petals = int(rng.integers(5, 9)) * (2 - min(ring, 1)) if ring < 2 else 1
        for petal in range(petals):
            colour = to_bytes(panes[int(rng.integers(len(panes)))], rng.uniform(0.4, 1.0))
            angle = 2 * np.pi * (petal + 0.5) / petals
            middle = centre * (inner + outer) / 2 if petals > 1 else 0.0
            radius = centre * min((outer - inner) / 2, np.pi * (inner + outer) / 2 / petals * 0.85)
            x, y = centre + middle * np.cos(angle), centre + middle * np.sin(angle)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(*colour, 255))
            draw.line(
                (x - radius, y, x + radius, y), fill=(*to_bytes(stone, 0.45), 255), width=max(1, size // 90)
            )
    return picture


def poster(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A printed sheet: shapes, stripes and a line of text."""
    picture = Image.new("RGB", (width, height), to_bytes(random_colour(rng, 0.3, 0.95)))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(6, 15))):
        colour = to_bytes(random_colour(rng, 0.05, 0.98, 0.9))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        rx, ry = rng.uniform(0.05, 0.35, 2) * width
        shape = rng.integers(4)
        if shape == 0:
            draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=colour)
        elif shape == 1:
            draw.rectangle((x - rx, y - ry / 3, x + rx, y + ry / 3), fill=colour)
        elif shape == 2:
            spread = np.asarray([x, y]) + rng.normal(0, 0.25 * width, (5, 2))
            draw.polygon([(float(a), float(b)) for a, b in spread], fill=colour)
        else:
            draw.line((x - rx, y - ry, x + rx, y + ry), fill=colour, width=max(2, width // 25))
    _write(
        rng, draw, (0, int(height * rng.uniform(0.05, 0.75))), width, height // 7, random_colour(rng, 0, 0.25)
    )
    return picture


def sign(rng: np.random.Generator, width: int, height: int, ground: Colour, ink: Colour) -> Image.Image:
    """A board with an invented name."""
    picture = Image.new("RGB", (width, height), to_bytes(ground))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((1, 1, width - 2, height - 2), outline=to_bytes(ink), width=max(1, height // 16))
    _write(rng, draw, (0, int(0.12 * height)), width, int(0.66 * height), ink)
    return picture


def _write(
    rng: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    width: int,
    height: int,
    ink: Colour,
) -> None:
    """A name of two to four syllables, centred, as large as fits."""
    name = "".join(rng.choice(_SYLLABLES, int(rng.integers(2, 5)))).capitalize()
    size = float(max(height, 4))
    font = ImageFont.load_default(size)
    length = draw.textlength(name, font=font)
    if length > 0.9 * width:
        font = ImageFont.load_default(max(4.0, size * 0.9 * width / length))
        length = draw.textlength(name, font=font)
    draw.text((corner[0] + (width - length) / 2, corner[1]), name, fill=to_bytes(ink), font=font)
