"""What is known about a rendered collection: places, cameras and which surface points each photo sees.

For tests only, and kept beside the photos: nothing that reconstructs, mines or trains reads it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from experiments.demo.cameras import Camera
from experiments.demo.raster import solid_at
from experiments.demo.scene import Scene
from groundwork.files import read_json
from sfm.model import Model, load_model

# Beyond this angle to the normal a surface is too foreshortened to be matched.
_GRAZING_DEG = 72.0


@dataclass(frozen=True, kw_only=True, eq=False)
class DemoTruth:
    """The rendered photos and how they were taken.

    Attributes:
        photos: the folder with the photos.
        places: name -> place; a photo of nothing else that was photographed is alone in its place.
        num_places: places 0 .. num_places - 1 have several views.
        twins: the two places that share a building.
        models: per place its cameras and points spread evenly over its surfaces, in metres.

    """

    photos: Path
    places: dict[str, int]
    num_places: int
    twins: tuple[int, int] | None
    models: tuple[Model, ...]


def load_truth(out: Path) -> DemoTruth:
    """Read what `render_collection` left in `out`; FileNotFoundError where it did not finish."""
    stored = read_json(out / "truth.json")
    models = tuple(load_model(truth_path(out, place)) for place in range(max(stored["places"].values()) + 1))
    return DemoTruth(
        photos=out / "photos",
        places=stored["places"],
        num_places=stored["num_places"],
        twins=tuple(stored["twins"]) if stored["twins"] else None,
        models=models,
    )


def truth_path(out: Path, place: int) -> Path:
    """Where the model of a place is kept."""
    return out / "truth" / f"place-{place:03d}.npz"


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfacePoints:
    """Points on a scene, each with the quad that it lies on."""

    xyz: Float[np.ndarray, "m 3"]
    quad: Int[np.ndarray, " m"]


def sample_surface(scene: Scene, rng: np.random.Generator, per_square_m: float) -> SurfacePoints:
    """Points spread evenly over the solid parts of the place; ground and passers-by are left out."""
    points, rows = [], []
    for row, quad in enumerate(scene.quads):
        if not (quad.fixed and quad.sampled):
            continue
        area = float(np.linalg.norm(np.cross(quad.along, quad.down)))
        s, t = rng.random((2, rng.poisson(area * per_square_m)))
        solid = solid_at(scene, quad, s, t)
        points.append(quad.corner + s[solid, None] * quad.along + t[solid, None] * quad.down)
        rows.append(np.full(int(solid.sum()), row))
    return SurfacePoints(xyz=np.concatenate(points), quad=np.concatenate(rows))


def observed(
    points: SurfacePoints, scene: Scene, camera: Camera, seen_quad: Int[np.ndarray, "height width"]
) -> tuple[Int[np.ndarray, " o"], Float[np.ndarray, "o 2"]]:
    """The points that a photo shows, and their pixels (pixel centres at .5).

    A point is shown when its pixel sees the quad that it lies on, and not at a grazing angle.
    """
    local = points.xyz @ camera.rotation.T + camera.translation
    in_front = local[:, 2] > 0.1
    depth = np.where(in_front, local[:, 2], 1.0)
    xy = camera.focal_px * local[:, :2] / depth[:, None] + np.array([camera.width, camera.height]) / 2
    inside = in_front & (xy >= 0).all(axis=1) & (xy < (camera.width, camera.height)).all(axis=1)
    rows = np.flatnonzero(inside)
    column, line = xy[rows].astype(int).T
    rows = rows[seen_quad[line, column] == points.quad[rows]]
    rays = points.xyz[rows] - camera.centre_in_world
    normals = np.array([quad.normal for quad in scene.quads])[points.quad[rows]]
    cosines = np.abs(np.einsum("ni,ni->n", rays, normals)) / np.linalg.norm(rays, axis=1)
    rows = rows[cosines > np.cos(np.radians(_GRAZING_DEG))]
    return rows, xy[rows]


def true_model(
    names: tuple[str, ...],
    cameras: tuple[Camera, ...],
    points: SurfacePoints,
    observations: tuple[tuple[Int[np.ndarray, " o"], Float[np.ndarray, "o 2"]], ...],
    place: int,
) -> Model:
    """The model of a place as a perfect reconstruction would have it: its tracks are all visible points."""
    order = sorted(range(len(names)), key=names.__getitem__)
    seen = np.unique(np.concatenate([rows for rows, _ in observations]))
    tracks = [np.searchsorted(seen, observations[k][0]) for k in order]
    return Model(
        names=tuple(names[k] for k in order),
        rotations=np.array([cameras[k].rotation for k in order]),
        translations=np.array([cameras[k].translation for k in order]),
        focal_px=np.array([cameras[k].focal_px for k in order]),
        sizes=np.array([(cameras[k].width, cameras[k].height) for k in order]),
        points=points.xyz[seen],
        track_image=np.repeat(np.arange(len(order)), [len(track) for track in tracks]),
        track_point=np.concatenate(tracks),
        track_xy=np.concatenate([observations[k][1] for k in order]),
        place=place,
    )
