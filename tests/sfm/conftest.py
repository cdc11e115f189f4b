from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pycolmap
import pytest
from jaxtyping import Float, UInt8
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from groundwork.child import preload
from sfm.collection import Collection
from sfm.detection import FeatureConfig
from sfm.features import Features
from sfm.featurestore import FeatureStore, ImageFeatures, write_shard
from sfm.matchgraph import GraphConfig, MatchGraph, build_graph
from sfm.matching import Matches
from sfm.numbering import digests, rank_by_content
from sfm.pair_filters.interface import VerifiedPairs
from sfm.pair_table import pair_table
from sfm.reconstruct import PRELOAD

WIDTH, HEIGHT = 480, 360
# A lens of 40 mm on 36 x 24 mm, as the photos' EXIF says: 554.7 px.
FOCAL_35MM = 40
FOCAL_PX = FOCAL_35MM / np.hypot(36, 24) * np.hypot(WIDTH, HEIGHT)


def make_photos(folder: Path, names: list[str]) -> Path:
    """A photo of its own for every name."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (12, 16), dtype=np.uint8)
        pixels = np.kron(pixels, np.ones((64, 64), np.uint8))
        Image.fromarray(pixels).save(path, format="PNG")
    return folder


@dataclass(frozen=True)
class Scene:
    """A folder of rendered photos and the true centre of each camera, by file name."""

    folder: Path
    centres: dict[str, Float[np.ndarray, " 3"]]


def render_scene(folder: Path, *, seed: int, photos: int) -> Scene:
    """Photos of the corner of a room: three square walls of 4 units with a random pattern each."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    walls = [_pattern(rng) for _ in range(3)]
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker", "Model"
    exif.get_ifd(0x8769)[0xA405] = FOCAL_35MM
    centres = {}
    for number, turn in enumerate(np.linspace(0.2, 1.3, photos)):
        centre = np.array([4.2 * np.cos(turn), 4.2 * np.sin(turn), 1.6 + 0.35 * (number % 3)])
        target = np.array([0.9, 0.9, 1.1]) + rng.uniform(-0.15, 0.15, 3)
        name = f"{number}.png"
        Image.fromarray(_photo(walls, centre, target)).save(folder / name, exif=exif)
        centres[name] = centre
    return Scene(folder=folder, centres=centres)


def _pattern(rng: np.random.Generator) -> Float[np.ndarray, "512 512"]:
    """Overlapping rectangles on soft noise: corners at many scales."""
    pattern = 128 + 900 * gaussian_filter(rng.standard_normal((512, 512)), 6)
    for _ in range(350):
        y, x = rng.integers(0, 500, 2)
        height, width = rng.integers(6, 60, 2)
        pattern[y : y + height, x : x + width] += rng.uniform(-60, 60)
    return np.clip(gaussian_filter(pattern, 1.0), 0, 255)


def _photo(
    walls: list[Float[np.ndarray, "512 512"]],
    centre: Float[np.ndarray, " 3"],
    target: Float[np.ndarray, " 3"],
) -> UInt8[np.ndarray, "360 480"]:
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    rays = ((x - WIDTH / 2) / FOCAL_PX)[..., None] * right + ((y - HEIGHT / 2) / FOCAL_PX)[..., None] * down
    rays = rays + forward
    photo, nearest = np.full((HEIGHT, WIDTH), 128.0), np.full((HEIGHT, WIDTH), np.inf)
    for axis, wall in enumerate(walls):
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = -centre[axis] / rays[..., axis]
            points = centre + depth[..., None] * rays
        across, along = (points[..., other] * 512 / 4 for other in range(3) if other != axis)
        hit = (depth > 0) & (depth < nearest) & (across >= 0) & (across < 511) & (along >= 0) & (along < 511)
        seen = map_coordinates(wall, [across[hit], along[hit]], order=1)
        photo[hit], nearest[hit] = seen, depth[hit]
    return photo.round().astype(np.uint8)


@pytest.fixture(scope="session", autouse=True)
def _preloaded() -> None:
    preload(*PRELOAD)


@pytest.fixture(scope="session")
def two_scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scene]:
    """Photos of two places, in two folders below one."""
    root = tmp_path_factory.mktemp("photos")
    return {
        "one": render_scene(root / "one", seed=3, photos=6),
        "two": render_scene(root / "two", seed=4, photos=4),
    }


_UNFILTERED = GraphConfig(filters=())


@dataclass(frozen=True)
class World:
    """What the stages before mapping leave of photos that were never taken: points seen in space."""

    collection: Collection
    features: Features
    graph: MatchGraph


def _scene(seed: int, images: int, points: int = 150) -> pycolmap.Reconstruction:
    """Cameras of one lens around a cloud of points that all of them see."""
    pycolmap.set_random_seed(seed)
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=1, num_cameras_per_rig=1, num_frames_per_rig=images, num_points3D=points
    )
    return pycolmap.synthesize_dataset(options)


def _build_world(
    folder: Path, scenes: dict[str, tuple[int, int]], config: GraphConfig = _UNFILTERED
) -> World:
    """Scenes of (seed, images), one after the other; images are named `SCENE/NUMBER.png`."""
    images, pairs, inliers = [], [], []
    for name, (seed, size) in scenes.items():
        first = len(images) + 1
        registered = sorted(_scene(seed, size).images.values(), key=lambda image: image.image_id)
        for number, image in enumerate(registered):
            images.append(_features(first + number, f"{name}/{number}.png", image))
        for one, two in combinations(range(len(registered)), 2):
            matches = _matches(registered[one], registered[two])
            pairs.append((first + one, first + two))
            inliers.append(matches)
    store = FeatureStore(folder=folder / "features", shard_size=1000)
    write_shard(store.folder / store.name(0), images)
    matches = Matches(pairs=_matched_pairs(pairs, inliers), folder=folder / "matches", key="matches")
    _write_block(matches.folder, inliers)
    sizes = np.array([(image.width, image.height) for image in images])
    collection = _collection(images)
    rank = rank_by_content(digests(collection.table["sha256"]))
    graph = build_graph(matches, store, sizes, rank, folder, config)
    counts = np.array([len(image.keypoints) for image in images])
    features = Features(
        store=store,
        num_keypoints=counts,
        failed={},
        key="features",
        photos=folder,
        sha256=np.zeros(len(images), dtype="S64"),
        config=FeatureConfig(),
    )
    return World(collection=collection, features=features, graph=graph)


def _features(image_id: int, name: str, image: pycolmap.Image) -> ImageFeatures:
    points = np.array([point.xy for point in image.points2D])
    size, focal_px = (image.camera.width, image.camera.height), image.camera.mean_focal_length()
    return _image(image_id, name, size, points, focal_px)


def _image(
    image_id: int, name: str, size: tuple[int, int], points: np.ndarray, focal_px: float = np.nan
) -> ImageFeatures:
    return ImageFeatures(
        image_id=image_id,
        name=name,
        width=size[0],
        height=size[1],
        focal_px=focal_px,
        keypoints=np.column_stack([points, np.ones((len(points), 2))]).astype(np.float32),
    )


def _verified_pairs(
    folder: Path,
    photos: Sequence[tuple[tuple[int, int], np.ndarray]],
    matched: dict[tuple[int, int], np.ndarray],
    failed: Sequence[tuple[int, int]] = (),
) -> VerifiedPairs:
    """Photos as (size, keypoints), image_id 1 first; matches of keypoints by pair of image ids."""
    store = FeatureStore(folder=folder / "features", shard_size=1000)
    images = [
        _image(number, f"{number}.jpg", size, points) for number, (size, points) in enumerate(photos, start=1)
    ]
    write_shard(store.folder / store.name(0), images)
    _write_block(folder / "matches", list(matched.values()))
    pairs = _matched_pairs(list(matched), list(matched.values()))
    misses = _matched_pairs(list(failed), []).assign(geometry_kind=1, row=0)
    return VerifiedPairs(
        pairs=pairs,
        tried=pd.concat([pairs, misses], ignore_index=True),
        sizes=np.array([size for size, _ in photos]),
        matches=folder / "matches",
        store=store,
        min_inliers=20,
    )


def _matched_pairs(image_ids: Sequence[tuple[int, int]], inliers: Sequence[np.ndarray]) -> pd.DataFrame:
    """Calibrated pairs of one block, with these inliers or none."""
    return pair_table(
        np.array(image_ids, dtype=np.int32).reshape(-1, 2),
        origin="all",
        geometry_kind=2,
        inliers=[len(rows) for rows in inliers] or 0,
        block=0,
        row=np.arange(len(image_ids)),
    )


def _matches(one: pycolmap.Image, two: pycolmap.Image) -> np.ndarray:
    where = {point.point3D_id: index for index, point in enumerate(two.points2D) if point.point3D_id < 2**63}
    shared = [
        (index, where[point.point3D_id])
        for index, point in enumerate(one.points2D)
        if point.point3D_id in where
    ]
    return np.array(shared, dtype=np.uint32).reshape(-1, 2)


def _write_block(folder: Path, inliers: Sequence[np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    starts = np.concatenate([[0], np.cumsum([len(part) for part in inliers], dtype=np.int64)])
    np.savez(folder / "block-00000.npz", starts=starts, inliers=np.concatenate(inliers))


def _collection(images: Sequence[ImageFeatures]) -> Collection:
    table = pd.DataFrame(
        {
            "name": [image.name for image in images],
            "status": "usable",
            # In the order of names.
            "sha256": [f"hash of {image.name:0>20}" for image in images],
            "width": [image.width for image in images],
            "height": [image.height for image in images],
            "focal_px": [image.focal_px for image in images],
            "camera": "Maker Model",
            "image_id": [image.image_id for image in images],
        }
    )
    return Collection(photos=Path("photos"), table=table, key="collection")


@pytest.fixture(scope="session")
def build_world() -> Callable[[Path, dict[str, tuple[int, int]]], World]:
    """The function that makes a world of scenes, each given by its seed and its number of images."""
    return _build_world


@pytest.fixture(scope="session")
def verified_pairs() -> Callable[..., VerifiedPairs]:
    """The function that makes what a pair filter sees from photos, matches and failed pairs."""
    return _verified_pairs
