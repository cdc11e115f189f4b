"""What stands between camera and building on the day of the photo: people, cars, lamp posts."""

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from experiments.demo.ornament import random_colour
from experiments.demo.scene import Scene, SceneBuilder
from experiments.demo.sheet import Sheet, to_bytes

_PX_PER_M = 60.0


def with_occluders(
    scene: Scene, rng: np.random.Generator, centre: Float[np.ndarray, " 3"], target: Float[np.ndarray, " 3"]
) -> Scene:
    """The scene with a few upright pictures that face the camera, none closer to it than 4 m."""
    builder = SceneBuilder(rng, list(scene.quads), list(scene.textures))
    towards = centre - target
    distance = float(np.hypot(towards[0], towards[2]))
    forward = np.array([towards[0], 0.0, towards[2]]) / distance
    right = np.array([forward[2], 0.0, -forward[0]])
    makers = (
        [_person] * int(rng.integers(0, 5))
        + [_car] * int(rng.random() < 0.3)
        + [_lamp] * int(rng.random() < 0.25)
    )
    for maker in makers:
        away = rng.uniform(3.0, max(3.5, distance - 5.0))
        spread = 0.55 * (distance - away)
        foot = np.array([target[0], 0.0, target[2]]) + away * forward + rng.uniform(-spread, spread) * right
        picture, width, height = maker(rng)
        material = builder.material(Sheet(picture, _PX_PER_M))
        corner = foot - right * width / 2 + np.array([0.0, height, 0.0])
        along = right * width
        builder.quad(
            (float(corner[0]), float(corner[1]), float(corner[2])),
            (float(along[0]), 0.0, float(along[2])),
            (0.0, -height, 0.0),
            material,
            material.whole,
            cutout=True,
            double_sided=True,
            fixed=False,
            sampled=False,
        )
    return builder.scene()


def _blank(width: float, height: float) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGBA", (round(width * _PX_PER_M), round(height * _PX_PER_M)), (0, 0, 0, 0))
    return picture, ImageDraw.Draw(picture)


def _person(rng: np.random.Generator) -> tuple[Image.Image, float, float]:
    width, height = 0.7, float(rng.uniform(1.5, 1.9))
    picture, draw = _blank(width, height)
    w, h = picture.size
    coat, legs = to_bytes(random_colour(rng, 0.03, 0.7)), to_bytes(random_colour(rng, 0.02, 0.3))
    skin = to_bytes((0.75, 0.55, 0.42), rng.uniform(0.4, 1.15))
    stride = rng.uniform(0.02, 0.14) * w
    draw.polygon(
        [(0.34 * w, 0.5 * h), (0.5 * w, 0.5 * h), (0.45 * w - stride, h), (0.3 * w - stride, h)], fill=legs
    )
    draw.polygon(
        [(0.5 * w, 0.5 * h), (0.66 * w, 0.5 * h), (0.7 * w + stride, h), (0.55 * w + stride, h)], fill=legs
    )
    draw.rounded_rectangle((0.26 * w, 0.15 * h, 0.74 * w, 0.58 * h), radius=0.15 * w, fill=coat)
    arm = rng.uniform(0.1, 0.22) * w
    draw.line((0.28 * w, 0.2 * h, arm, 0.52 * h), fill=coat, width=max(2, int(0.14 * w)))
    draw.line((0.72 * w, 0.2 * h, w - arm, 0.5 * h), fill=coat, width=max(2, int(0.14 * w)))
    draw.ellipse((0.36 * w, 0.0, 0.64 * w, 0.14 * h), fill=skin)
    draw.chord((0.35 * w, 0.0, 0.65 * w, 0.13 * h), 180, 360, fill=to_bytes(random_colour(rng, 0.02, 0.4)))
    return picture, width, height


def _car(rng: np.random.Generator) -> tuple[Image.Image, float, float]:
    width, height = 4.2, 1.45
    picture, draw = _blank(width, height)
    w, h = picture.size
    paint = random_colour(rng, 0.05, 0.85)
    cabin = [(0.2 * w, 0.42 * h), (0.31 * w, 0.02 * h), (0.7 * w, 0.02 * h), (0.83 * w, 0.42 * h)]
    draw.polygon(cabin, fill=to_bytes(paint, 0.85))
    for left, right in ((0.26, 0.49), (0.52, 0.77)):
        glass = [
            (left * w, 0.4 * h),
            ((left + 0.06) * w, 0.1 * h),
            ((right - 0.07) * w, 0.1 * h),
            (right * w, 0.4 * h),
        ]
        draw.polygon(glass, fill=(40, 50, 58))
    draw.rounded_rectangle((0.01 * w, 0.38 * h, 0.99 * w, 0.82 * h), radius=0.12 * h, fill=to_bytes(paint))
    draw.line((0.02 * w, 0.62 * h, 0.98 * w, 0.62 * h), fill=to_bytes(paint, 0.6), width=2)
    for wheel in (0.2, 0.8):
        x, radius = wheel * w, 0.2 * h
        draw.ellipse((x - radius, h - 2 * radius, x + radius, h - 1), fill=(22, 22, 24))
        draw.ellipse(
            (x - radius / 2, h - 1.5 * radius, x + radius / 2, h - 0.5 * radius), fill=(140, 140, 145)
        )
    return picture, width, height


def _lamp(rng: np.random.Generator) -> tuple[Image.Image, float, float]:
    width, height = 0.6, float(rng.uniform(4.0, 6.0))
    picture, draw = _blank(width, height)
    w, h = picture.size
    metal = to_bytes(random_colour(rng, 0.08, 0.25))
    draw.rectangle((0.44 * w, 0.1 * h, 0.56 * w, h), fill=metal)
    draw.rectangle((0.34 * w, 0.86 * h, 0.66 * w, h), fill=metal)
    draw.polygon(
        [(0.3 * w, 0.0), (0.7 * w, 0.0), (0.62 * w, 0.11 * h), (0.38 * w, 0.11 * h)], fill=(225, 220, 190)
    )
    return picture, width, height
