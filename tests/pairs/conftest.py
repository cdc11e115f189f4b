"""Models with known cameras and points: a ring of cameras around a sphere whose far side they cannot see."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sfm.model import Model

RingModel = Callable[..., Model]


def in_another_frame(model: Model, scale: float, rotation: np.ndarray, translation: np.ndarray) -> Model:
    """The same model where world points x are scale * rotation @ x + translation."""
    rotations = model.rotations @ rotation.T
    return replace(
        model,
        rotations=rotations,
        translations=scale * model.translations - rotations @ translation,
        points=scale * model.points @ rotation.T + translation,
    )


def look_at(centre: np.ndarray, target: np.ndarray, roll: float) -> np.ndarray:
    """cam_from_world rotation of a camera at `centre` whose +z axis points at `target`."""
    z = (target - centre) / np.linalg.norm(target - centre)
    x = np.cross(z, [0.1, 0.2, 1.0])
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    spin = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return spin @ rotation


@pytest.fixture(scope="session")
def ring_model() -> RingModel:
    def build(seed: int = 0, names: tuple[str, ...] = (), num_points: int = 300, place: int = 0) -> Model:
        rng = np.random.default_rng(seed)
        names = names or tuple(f"{seed:02d}-{i:03d}.jpg" for i in range(14))
        n = len(names)
        bearing = np.linspace(0, 1.7 * np.pi, n) + rng.uniform(-0.1, 0.1, n)
        distance = rng.uniform(3, 9, n)
        centres = np.stack(
            [distance * np.cos(bearing), distance * np.sin(bearing), rng.uniform(-1, 1, n)], axis=1
        )
        rotations = np.stack(
            [
                look_at(c, t, r)
                for c, t, r in zip(centres, rng.uniform(-0.2, 0.2, (n, 3)), bearing, strict=True)
            ]
        )
        translations = -np.einsum("nij,nj->ni", rotations, centres)
        focal = rng.uniform(500, 900, n)
        sizes = rng.integers([500, 400], [800, 640], (n, 2))
        points = rng.normal(size=(num_points, 3))
        points /= np.linalg.norm(points, axis=1, keepdims=True)

        camera = np.einsum("nij,mj->nmi", rotations, points) + translations[:, None]
        xy = focal[:, None, None] * camera[..., :2] / camera[..., 2:] + sizes[:, None] / 2
        facing = np.einsum("mi,nmi->nm", points, centres[:, None] - points) > 0
        inside = ((xy > 0) & (xy < sizes[:, None])).all(axis=2) & (camera[..., 2] > 0)
        image, point = np.nonzero(facing & inside & (rng.random((n, num_points)) < 0.8))
        track_xy = xy[image, point]
        # Some tracks hold one image twice, a pixel apart.
        twice = rng.choice(len(image), 20, replace=False)
        return Model(
            names=names,
            rotations=rotations,
            translations=translations,
            focal_px=focal,
            sizes=sizes,
            points=points,
            track_image=np.concatenate([image, image[twice]]),
            track_point=np.concatenate([point, point[twice]]),
            track_xy=np.concatenate([track_xy, track_xy[twice] + 1.0]),
            place=place,
        )

    return build


@pytest.fixture(scope="session")
def moved() -> Callable[..., Model]:
    """Function that tells a model in another world frame."""
    return in_another_frame
