"""Seconds a photo of scan, features, candidates and matching, in a small and a ten times larger collection.

Both are made of re-photographed copies: every source photo is cut, tilted, scaled and compressed in 15 ways.
So a photo has the same number of others that show the same in either collection, and the same share of the
candidate pairs match. The sources of the small collection are a part of the large one's. Each stage is run
from nothing, with nearest neighbours for candidates in both. Goal: the large collection takes at most 20 %
more seconds a photo.
"""

import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from experiments.benchmarks.material.sample import rephotographed
from experiments.benchmarks.measuring.measure import (
    KINDS,
    Claim,
    Took,
    add_kind,
    arguments,
    conclude,
    print_table,
    timed,
)
from groundwork.executors import LocalExecutor
from sfm.candidates import propose_pairs
from sfm.collection import scan
from sfm.features import extract_features
from sfm.matching import match
from sfm.reconstruct import ReconstructConfig

_LIMIT = 1.20


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("photos", type=Path, help="folder of photos to copy from")
    parser.add_argument("--out", type=Path, required=True, help="scratch folder; copies are kept there")
    parser.add_argument(
        "--sizes", type=int, nargs=2, default=[300, 3000], help="photos of the two collections [300 3000]"
    )
    parser.add_argument("--views", type=int, default=15, help="copies of a source photo [%(default)s]")
    parser.add_argument("--side", type=int, default=640, help="longest side of a copy [%(default)s]")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time [%(default)s]")
    add_kind(parser)
    given = parser.parse_args(words)
    small, large = sorted(given.sizes)
    with LocalExecutor(given.workers) as executor:
        executor.submit(
            abs, -1
        ).result()  # the server that forks children is started before anything is timed
        stages = {}
        for size in (small, large):
            photos = rephotographed(
                given.photos,
                given.out / f"photos-{size}",
                sources=-(-size // given.views),
                views=given.views,
                longest_px=given.side,
                seed=0,
            )
            stages[size] = _stages(photos, given.out / f"sfm-{size}", executor)
    _print(stages)
    growth = {
        kind: sum(getattr(took, kind) for took in stages[large].values())
        / sum(getattr(took, kind) for took in stages[small].values())
        * (small / large)
        for kind in KINDS
    }
    other = KINDS[given.kind == KINDS[0]]
    print(f"the same by {other} seconds: {growth[other]:.3f}")
    what = f"{given.kind} seconds a photo, {large} over {small} photos"
    return conclude([Claim(what=what, measured=growth[given.kind], limit=_LIMIT, at_least=False)])


def _stages(photos: Path, out: Path, executor: Executor) -> dict[str, Took]:
    shutil.rmtree(out, ignore_errors=True)
    config = ReconstructConfig()
    nearest = config.candidates.model_copy(update={"exhaustive_up_to": 0})
    collection, scanned = timed(lambda: scan(photos, out, config.scan, executor))
    features, extracted = timed(lambda: extract_features(collection, out, config.features, executor))
    candidates, proposed = timed(
        lambda: propose_pairs(collection, features, out, nearest, config.seed, executor)
    )
    _, matched = timed(lambda: match(candidates, features, out, config.matching, config.seed, executor))
    return {"scan": scanned, "features": extracted, "candidates": proposed, "matching": matched}


def _print(stages: dict[int, dict[str, Took]]) -> None:
    sizes = list(stages)
    rows = []
    for stage in stages[sizes[0]]:
        took = [stages[size][stage] for size in sizes]
        per_photo = [
            f"{1000 * value / size:.1f}"
            for size, one in zip(sizes, took, strict=True)
            for value in (one.wall, one.cpu)
        ]
        rows.append((stage, *per_photo))
    header = [f"{size}: {kind}" for size in sizes for kind in ("ms a photo", "CPU ms a photo")]
    print_table(("stage", *header), rows)


if __name__ == "__main__":
    sys.exit(main())
