"""Local matching on the eight scenes of Mikolajczyk et al., PAMI 2005: image 1 against 2 to 6 of each.

A pair counts as verified with as many inliers as a re-ranked photo needs. The error of a homography is the
mean distance, in px of the second image, between where it puts the corners of the first one and where the
published one does (vgg_affine.json beside this file: the numbers of the data set's H1toNp). Scenes change by
viewpoint, zoom and rotation, blur, light, or compression.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from PIL import Image
from pydantic import ValidationError

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.local.detected import detect_each, detection
from cnnimretrieval.local.features import LocalFeatures
from cnnimretrieval.local.pairing import ON_A_GRID, PairConfig, pair
from cnnimretrieval.local.pyramid import PyramidConfig, describe_locally
from cnnimretrieval.networks.open import load
from cnnimretrieval.search.spatial import SpatialConfig
from experiments.benchmarks.measuring.measure import Claim, arguments, conclude
from experiments.commands import photo_features
from groundwork.files import read_json
from groundwork.settings import first_fault

_CHANGES = {
    "graf": "viewpoint",
    "wall": "viewpoint",
    "bark": "zoom, rotation",
    "boat": "zoom, rotation",
    "bikes": "blur",
    "trees": "blur",
    "leuven": "light",
    "ubc": "compression",
}
_IMAGES = 6
_GOOD_PX = 5.0
_GIVEN = ("geometry", "max_features", "max_ratio", "max_distance", "max_error_px")

Finder = Callable[[Sequence[ImageRequest]], Sequence[LocalFeatures]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One pair of images: inliers, and the corner error of the homography, infinite without one."""

    scene: str
    image: int
    matches: int
    inliers: int
    error_px: float


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("data", type=Path, help="folder of the scenes: graf/img1.jpg and so on")
    parser.add_argument("--features", default="sift", metavar="METHOD|MODEL", help="[%(default)s]")
    parser.add_argument("--max-features", type=int, default=1000, help="a photo [%(default)s]")
    parser.add_argument("--geometry", default="homography", help="[%(default)s]")
    for name in ("max_ratio", "max_distance", "max_error_px"):
        usual, of_a_model = PairConfig.model_fields[name].default, ON_A_GRID.get(name)
        told = f"[{usual}]" if of_a_model is None else f"[{usual}; {of_a_model} of a MODEL]"
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, help=told)
    parser.add_argument("--workers", type=int, default=1, help="processes [%(default)s]")
    given = parser.parse_args(words)
    try:
        values = {name: getattr(given, name) for name in _GIVEN if getattr(given, name) is not None}
        config = PairConfig.model_validate({**photo_features.tolerances(given.features), **values})
        finder = _finder(given.features, given.max_features, given.workers)
    except ValidationError as error:
        parser.error(first_fault(error))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    truth = homographies()
    scenes = [scene for scene in truth if (given.data / scene).is_dir()]
    if not scenes:
        parser.error(f"{given.data}: expected folders {', '.join(truth)}, got none of them; check the path")
    outcomes = [
        outcome for scene in scenes for outcome in measure(given.data / scene, truth[scene], finder, config)
    ]
    table = pd.DataFrame([vars(outcome) for outcome in outcomes])
    print(by_scene(table).to_string(index=False, float_format="{:.2f}".format))
    verified = float((table["inliers"] >= _min_inliers()).mean())
    close = float((table["error_px"] < _GOOD_PX).mean())
    print(
        f"all {len(table)} pairs: {verified:.2f} verified, {table['inliers'].mean():.0f} inliers, "
        f"{close:.2f} with an error below {_GOOD_PX:g} px"
    )
    return conclude([Claim(what="share of pairs verified", measured=verified, limit=0.9, at_least=True)])


def _finder(features: str, max_features: int, workers: int) -> Finder:
    """Finds features by a method, or by the local head of a network, which is a file or folder."""
    if photo_features.is_network(features):
        network, pyramid = load(features), PyramidConfig(number=max_features)
        network.require_local()
        return lambda requests: [one for one, _ in describe_locally(network, requests, pyramid)]
    config = detection(features, max_features)
    return lambda requests: [one.features() for one in detect_each(requests, config, workers=workers)]


def homographies() -> dict[str, Float[np.ndarray, "5 3 3"]]:
    """Of each scene the published maps of image 1 to images 2 to 6; (0, 0) is the first pixel's centre."""
    with resources.as_file(resources.files("experiments.benchmarks") / "vgg_affine.json") as path:
        return {scene: np.array(matrices) for scene, matrices in read_json(path).items()}


def measure(
    folder: Path, truth: Float[np.ndarray, "5 3 3"], finder: Finder, config: PairConfig
) -> list[Outcome]:
    """Image 1 of a scene against the others."""
    paths = [folder / f"img{number}.jpg" for number in range(1, _IMAGES + 1)]
    first, *others = finder([ImageRequest(path=path) for path in paths])
    with Image.open(paths[0]) as image:
        size = image.size
    outcomes = []
    for number, (other, matrix) in enumerate(zip(others, truth, strict=True), start=2):
        paired = pair(first, other, config)
        outcomes.append(
            Outcome(
                scene=folder.name,
                image=number,
                matches=len(paired.matches),
                inliers=paired.num_inliers,
                error_px=corner_error(paired.verified.matrix, matrix, size),
            )
        )
    return outcomes


def corner_error(
    found: Float[np.ndarray, "3 3"], truth: Float[np.ndarray, "3 3"], size: tuple[int, int]
) -> float:
    """Mean distance of the mapped corners; infinite for no map. Ours has pixel centres at .5, theirs at 0."""
    if not found.any():
        return float("inf")
    width, height = size
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64)
    apart = _mapped(found, corners) - (_mapped(truth, corners - 0.5) + 0.5)
    return float(np.linalg.norm(apart, axis=1).mean())


def by_scene(table: pd.DataFrame) -> pd.DataFrame:
    """A row a scene: what changes, share verified, mean inliers, median error, share of good homographies."""
    rows = []
    for scene, part in table.groupby("scene", sort=False):
        rows.append(
            {
                "scene": scene,
                "change": _CHANGES[str(scene)],
                "verified": (part["inliers"] >= _min_inliers()).mean(),
                "matches": part["matches"].mean(),
                "inliers": part["inliers"].mean(),
                "median error px": part["error_px"].median(),
                f"error < {_GOOD_PX:g} px": (part["error_px"] < _GOOD_PX).mean(),
            }
        )
    return pd.DataFrame(rows)


def _min_inliers() -> int:
    return int(SpatialConfig.model_fields["min_inliers"].default)


def _mapped(matrix: Float[np.ndarray, "3 3"], points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    moved = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    mapped: np.ndarray = moved[:, :2] / moved[:, 2:]
    return mapped


if __name__ == "__main__":
    sys.exit(main())
