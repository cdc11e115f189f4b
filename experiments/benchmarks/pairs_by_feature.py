"""Local features by the pairs that they verify: right and wrong ones by number of inliers, processor time.

Draws photos of some folders, and matches all pairs within a folder and some across folders by each feature,
as a reconstruction does. The folders of the photos are read as labels here, in judging: not every pair
within a folder overlaps, so compare features, not with 100 %. Goal: the last feature named verifies, by its
own least number of inliers, no pair across folders, and as many within as the first.
"""

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.benchmarks.material.sample import photo_files
from experiments.benchmarks.measuring.measure import Claim, arguments, conclude, print_table, timed
from sfm.colmap import calls as colmap
from sfm.correspondence import unit_descriptors
from sfm.detection import FeatureConfig, detector
from sfm.featurestore import ImageFeatures
from sfm.local_features.interface import Described, PairMatcher, load_method, matcher_of
from sfm.matching import MatchingConfig, preview_then_all

_LIMITS = (10, 15, 20, 25, 30, 40, 60)
_Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one feature makes of the pairs: inliers of each, and seconds of a processor."""

    inliers: dict[_Pair, int]
    photo_seconds: float
    pair_seconds: float


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("photos", type=Path, help="folder of folders of photos, which are the labels")
    parser.add_argument(
        "--features",
        nargs="+",
        default=["sift", "xfeat:1024", "aliked-lightglue:1024"],
        help="methods, each with the number of keypoints where it is not 2,048 [%(default)s]",
    )
    parser.add_argument("--folders", type=int, default=20, help="drawn by chance [%(default)s]")
    parser.add_argument("--each", type=int, default=3, help="photos of a folder [%(default)s]")
    parser.add_argument("--across", type=int, default=60, help="pairs across folders [%(default)s]")
    parser.add_argument(
        "--side", type=int, default=1024, help="photos are shrunk to, for all but SIFT [%(default)s]"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn [%(default)s]")
    given = parser.parse_args(words)
    rng = random.Random(given.seed)
    paths = draw(given.photos, given.folders, given.each, rng)
    within, across = pairs_of(paths, given.across, rng)
    found = {}
    for name in given.features:
        print(f"{name} ...", file=sys.stderr)
        found[name] = match_by(name, given.side, paths, [*within, *across])
    return _compare(found, within, across)


def draw(photos: Path, folders: int, each: int, rng: random.Random) -> list[Path]:
    """`each` photos of every one of some folders that have so many."""
    by_folder: dict[Path, list[Path]] = {}
    for path in photo_files(photos):
        by_folder.setdefault(path.parent, []).append(path)
    enough = [files for files in by_folder.values() if len(files) >= each]
    drawn = rng.sample(enough, min(folders, len(enough)))
    return [path for files in drawn for path in rng.sample(files, each)]


def pairs_of(paths: Sequence[Path], count: int, rng: random.Random) -> tuple[list[_Pair], list[_Pair]]:
    """Of the positions of photos all pairs within a folder, and `count` across folders."""
    pairs = list(combinations(range(len(paths)), 2))
    within = [(one, two) for one, two in pairs if paths[one].parent == paths[two].parent]
    others = sorted(set(pairs) - set(within))
    return within, sorted(rng.sample(others, min(count, len(others))))


def match_by(name: str, side: int, paths: Sequence[Path], pairs: Sequence[_Pair]) -> Outcome:
    """Find and match by the feature called `name`, `method` or `method:keypoints`."""
    method, count = _parts(name)
    config = FeatureConfig(method=method, max_features=count)
    if method != "sift":
        config = config.model_copy(update={"max_side_px": side})
    matcher = matcher_of(load_method(method), MatchingConfig().max_ratio)
    (images, described), finding = timed(lambda: _describe(config, paths))
    inliers, matching = timed(lambda: {pair: _inliers(matcher, images, described, pair) for pair in pairs})
    return Outcome(
        inliers=inliers, photo_seconds=finding.cpu / len(paths), pair_seconds=matching.cpu / len(pairs)
    )


def _parts(name: str) -> tuple[str, int]:
    """The method, and its number of keypoints."""
    method, _, count = name.rpartition(":")
    return (method, int(count)) if count.isdigit() else (name, FeatureConfig().max_features)


def _describe(config: FeatureConfig, paths: Sequence[Path]) -> tuple[list[ImageFeatures], list[Described]]:
    detect, images, described = detector(config), [], []
    for number, path in enumerate(paths):
        with Image.open(path) as photo:
            width, height = photo.size
        keypoints, rows = detect(path, width, height)
        images.append(
            ImageFeatures(
                image_id=number + 1,
                name=path.name,
                width=width,
                height=height,
                focal_px=float("nan"),
                keypoints=keypoints,
            )
        )
        described.append(
            Described(keypoints=keypoints, descriptors=unit_descriptors(rows), size=(width, height))
        )
    return images, described


def _inliers(
    matcher: PairMatcher, images: Sequence[ImageFeatures], described: Sequence[Described], pair: _Pair
) -> int:
    one, two = pair
    config = MatchingConfig()
    matches = preview_then_all(matcher, described[one], described[two], config)
    geometry = colmap.verify(
        images[one],
        images[two],
        matches,
        max_error_px=config.max_error_px,
        max_trials=config.max_trials,
        min_inliers=min(_LIMITS),
        seed=0,
    )
    return len(geometry.inliers)


def _compare(found: dict[str, Outcome], within: Sequence[_Pair], across: Sequence[_Pair]) -> int:
    def verified(outcome: Outcome, pairs: Sequence[_Pair], limit: int) -> int:
        return int(np.sum([outcome.inliers[pair] >= limit for pair in pairs]))

    rows = []
    for name, outcome in found.items():
        counts = (f"{verified(outcome, within, at)} / {verified(outcome, across, at)}" for at in _LIMITS)
        rows.append((name, *counts, f"{outcome.photo_seconds:.2f}", f"{outcome.pair_seconds:.3f}"))
    print(f"{len(within)} pairs within a folder, {len(across)} across: verified within / across by inliers")
    print_table(("feature", *(f">= {limit}" for limit in _LIMITS), "cpu s a photo", "cpu s a pair"), rows)
    (first, *_, last), names = found.values(), list(found)
    usual = MatchingConfig().min_inliers
    first_limit, last_limit = (
        getattr(load_method(_parts(name)[0]), "min_inliers", usual) for name in (names[0], names[-1])
    )
    return conclude(
        [
            Claim(
                what=f"pairs across folders by {names[-1]}, {last_limit} inliers",
                measured=verified(last, across, last_limit),
                limit=0,
                at_least=False,
            ),
            Claim(
                what=f"pairs within by {names[-1]} to those by {names[0]}",
                measured=verified(last, within, last_limit) / max(1, verified(first, within, first_limit)),
                limit=1.0,
                at_least=True,
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
