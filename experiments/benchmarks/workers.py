"""The whole stage with one, two and four workers: how much quicker, and whether the results are the same.

Every run starts from nothing on the same photos and takes its turn with the others. Goal: two workers are at
least 1.6 x as quick as one on two cores, and images.parquet, the inliers of every pair and the files of every
model are identical byte by byte whatever the number of workers.
"""

import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from experiments.benchmarks.contenders.ours import ours
from experiments.benchmarks.measuring.fingerprint import Fingerprint, fingerprint
from experiments.benchmarks.measuring.measure import (
    Claim,
    arguments,
    conclude,
    median,
    print_table,
    print_times,
    take_turns,
)
from groundwork.executors import usable_cores
from sfm.reconstruct import ReconstructConfig


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("photos", type=Path, help="folder of photos of several places")
    parser.add_argument("--out", type=Path, required=True, help="scratch folder")
    parser.add_argument("--repeats", type=int, default=3, help="rounds [%(default)s]")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2, 4], help="numbers that take turns [1 2 4]"
    )
    given = parser.parse_args(words)
    if not {1, 2} <= set(given.workers):
        parser.error(f"--workers: expected 1 and 2 among them, got {given.workers}; add them")
    contenders = {
        f"{number} workers": partial(_run, given.photos, given.out / f"workers-{number}", number)
        for number in given.workers
    }
    found = take_turns(contenders, given.repeats)
    print_times(found)
    prints = {result for rounds in found.values() for result, _ in rounds}
    print_table(
        ("contender", "images.parquet", "matches", "models"),
        [
            (name, rounds[0][0].images[:12], rounds[0][0].matches[:12], rounds[0][0].models[:12])
            for name, rounds in found.items()
        ],
    )
    if usable_cores() < 2:
        print("one core: two workers cannot be quicker here")
    gain = median(found["1 workers"], "wall") / median(found["2 workers"], "wall")
    return conclude(
        [
            Claim(what="two workers against one, times quicker", measured=gain, limit=1.6, at_least=True),
            Claim(what="different results", measured=float(len(prints)), limit=1, at_least=False),
        ]
    )


def _run(photos: Path, out: Path, workers: int) -> Fingerprint:
    ours(photos, out, ReconstructConfig(), workers=workers)
    found = fingerprint(out)
    shutil.rmtree(out)
    return found


if __name__ == "__main__":
    sys.exit(main())
