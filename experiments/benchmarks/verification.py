"""Re-ranking 100 candidates by geometry against a plain loop: brute-force distances, scikit-image's RANSAC.

A query and candidates of 1,000 features of 128 dimensions; a tenth of the candidates show some of the
query under an affine map. All have further ones that are like the query's but lie anywhere, so that there is
something to be estimated in vain, as in photos of similar things. Goals: a second a query, five times the
plain loop, and the same candidates verified by both.
"""

import sys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from cnnimretrieval.local.features import LocalFeatures
from cnnimretrieval.search.spatial import SpatialConfig, Verifier
from experiments.benchmarks.measuring.measure import (
    Claim,
    add_kind,
    arguments,
    conclude,
    median,
    print_times,
    take_turns,
)

_SIDE_PX = 1024.0


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--candidates", type=int, default=100, help="[%(default)s]")
    parser.add_argument("--features", type=int, default=1000, help="of a photo [%(default)s]")
    parser.add_argument("--dim", type=int, default=128, help="of a descriptor [%(default)s]")
    parser.add_argument("--repeats", type=int, default=3, help="rounds [%(default)s]")
    add_kind(parser)
    given = parser.parse_args(words)
    query, candidates = scene(given.candidates, given.features, given.dim)
    config = SpatialConfig(features="sift", max_features=given.features)
    rows = np.arange(given.candidates)

    def ours() -> np.ndarray:
        return Verifier(lambda: query, lambda some: [candidates[row] for row in some], config).inliers(rows)

    found = take_turns({"ours": ours, "plain loop": lambda: plain(query, candidates, config)}, given.repeats)
    print_times(found)
    counts = [found[name][0][0] >= config.min_inliers for name in ("ours", "plain loop")]
    quick, slow = (median(rounds, given.kind) for rounds in found.values())
    return conclude(
        [
            Claim(
                what="share of candidates judged alike",
                measured=float((counts[0] == counts[1]).mean()),
                limit=0.98,
                at_least=True,
            ),
            Claim(what="seconds a query", measured=quick, limit=1.0, at_least=False),
            Claim(what="times quicker", measured=slow / quick, limit=5.0, at_least=True),
        ]
    )


def plain(query: LocalFeatures, candidates: Sequence[LocalFeatures], config: SpatialConfig) -> np.ndarray:
    """Inliers of each candidate, a pair at a time, by distances in numpy and RANSAC of scikit-image."""
    from skimage.measure import ransac
    from skimage.transform import AffineTransform

    counts = []
    for candidate in candidates:
        a, b = query.descriptors, candidate.descriptors
        distances = np.sqrt(((a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * a @ b.T).clip(min=0.0))
        order = np.argsort(distances, axis=1)
        near = np.arange(len(a)), order[:, 0]
        best, second = distances[near], distances[near[0], order[:, 1]]
        kept = (best <= config.max_distance) & (best <= config.max_ratio * second)
        kept &= distances.argmin(axis=0)[order[:, 0]] == near[0]
        one, two = query.keypoints[kept], candidate.keypoints[order[kept, 0]]
        if len(one) < 4:
            counts.append(0)
            continue
        reach = float(np.ptp(candidate.keypoints, axis=0).max())
        _, inliers = ransac(  # type: ignore[no-untyped-call]
            (one, two),
            AffineTransform,
            min_samples=3,
            residual_threshold=config.max_error_px * reach / _SIDE_PX,
            max_trials=config.max_trials,
            rng=config.seed,
        )
        counts.append(0 if inliers is None else int(inliers.sum()))
    return np.array(counts)


def scene(candidates: int, count: int, dim: int) -> tuple[LocalFeatures, list[LocalFeatures]]:
    """A query, and candidates of which every tenth shows some of its features, moved."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0, _SIDE_PX, (count, 2))
    descriptors = _unit(rng.standard_normal((count, dim)))
    found = []
    for number in range(candidates):
        shown = count // 5 + number if number % 10 == 0 else 0
        like = count // 8
        other = _unit(rng.standard_normal((count, dim)))
        other[: shown + like] = _unit(
            descriptors[: shown + like] + 0.05 * rng.standard_normal((shown + like, dim))
        )
        moved = rng.uniform(0, _SIDE_PX, (count, 2))
        moved[:shown] = points[:shown] @ [[0.9, 0.1], [-0.2, 0.8]] + 50.0 + rng.normal(size=(shown, 2))
        order = rng.permutation(count)
        found.append(_features(moved[order], other[order]))
    return _features(points, descriptors), found


def _features(points: Float[np.ndarray, "n 2"], descriptors: Float[np.ndarray, "n d"]) -> LocalFeatures:
    return LocalFeatures(
        keypoints=points.astype(np.float32),
        scales=np.ones(len(points), np.float32),
        scores=np.arange(len(points), 0, -1).astype(np.float32),
        descriptors=descriptors.astype(np.float32),
    )


def _unit(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


if __name__ == "__main__":
    sys.exit(main())
