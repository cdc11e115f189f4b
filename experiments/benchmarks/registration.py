"""Proposed candidate pairs against every pair: photos registered, pairs tried, error, links of folders.

Reconstructs a folder of photos twice with the same features: with the default candidates, and with every
pair. Each run can be stopped and goes on when the benchmark is started again. Goals: at least 98 % of the
photos that every pair registers, at most 10 % of its pairs, a mean reprojection error at most 5 % higher.
The folders of the photos are read as labels here, in judging: trusted pairs and models that join two of them
are listed.

`--estimate N` matches N random pairs, says how long all of them will take, and does no more.
"""

import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path, PurePosixPath

import numpy as np

from experiments.benchmarks.measuring.measure import Claim, arguments, conclude, print_table
from groundwork.executors import LocalExecutor, usable_cores
from groundwork.files import read_table
from groundwork.links import share
from sfm.collection import scan
from sfm.features import extract_features
from sfm.matching import match
from sfm.outcome import ReconstructResult
from sfm.pair_table import ENDS, pair_table
from sfm.reconstruct import ReconstructConfig, reconstruct


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("photos", type=Path, help="folder of photos; their folders are the labels")
    parser.add_argument("--out", type=Path, required=True, help="folder to work in; kept, to go on from")
    parser.add_argument(
        "--workers", type=int, default=usable_cores(), help="processes at a time [%(default)s]"
    )
    parser.add_argument("--estimate", type=int, metavar="N", help="match N random pairs only")
    parser.add_argument(
        "--exhaustive-up-to", type=int, help="of the default candidates, to force proposals on a small folder"
    )
    given = parser.parse_args(words)
    chosen = ReconstructConfig()
    if given.exhaustive_up_to is not None:
        chosen = _with_limit(chosen, given.exhaustive_up_to)
    with LocalExecutor(given.workers) as executor:
        if given.estimate:
            return _estimate(given.photos, given.out / "proposed", given.estimate, executor)
        proposed = reconstruct(given.photos, given.out / "proposed", chosen, executor)
        exhaustive = given.out / "exhaustive"
        if not exhaustive.exists():
            share(given.out / "proposed", exhaustive)
        every = reconstruct(given.photos, exhaustive, _with_limit(chosen, sys.maxsize), executor)
    print_links(given.out / "proposed", proposed)
    return _compare(given.out, proposed, every)


def _with_limit(config: ReconstructConfig, limit: int) -> ReconstructConfig:
    candidates = config.candidates.model_copy(update={"exhaustive_up_to": limit})
    return config.model_copy(update={"candidates": candidates})


def _compare(out: Path, proposed: ReconstructResult, every: ReconstructResult) -> int:
    names = [
        set(result.images.loc[result.images["status"] == "registered", "name"])
        for result in (proposed, every)
    ]
    pairs = [len(read_table(out / part / "candidates.parquet")) for part in ("proposed", "exhaustive")]
    errors = [mean_error_px(out / part) for part in ("proposed", "exhaustive")]
    print_table(
        ("candidates", "pairs", "registered", "models", "mean error px"),
        [
            (name, f"{count:,}", str(len(found)), str(result.stats.models), f"{error:.4f}")
            for name, count, found, result, error in zip(
                ("proposed", "every pair"), pairs, names, (proposed, every), errors, strict=True
            )
        ],
    )
    for title, lost in (("every pair only", names[1] - names[0]), ("proposed only", names[0] - names[1])):
        folders = Counter(folder_of(name) for name in lost)
        print(f"registered by {title}: {len(lost)} {dict(folders.most_common(12))}")
    return conclude(
        [
            Claim(
                what="share of every pair's registered photos",
                measured=len(names[0] & names[1]) / max(1, len(names[1])),
                limit=0.98,
                at_least=True,
            ),
            Claim(what="share of the pairs", measured=pairs[0] / pairs[1], limit=0.10, at_least=False),
            Claim(
                what="reprojection error over every pair's",
                measured=errors[0] / errors[1],
                limit=1.05,
                at_least=False,
            ),
        ]
    )


def mean_error_px(out: Path) -> float:
    """Mean over the points of all models of their reprojection error."""
    models = read_table(out / "models.parquet")
    return float(np.average(models["reprojection_error_px"], weights=models["points"]))


def print_links(out: Path, result: ReconstructResult) -> None:
    """Trusted pairs and models that join folders."""
    collection = read_table(out / "collection.parquet", ["name", "image_id"])
    folder_of_id = {
        image_id: folder_of(name)
        for name, image_id in zip(collection["name"], collection["image_id"], strict=True)
        if image_id > 0
    }
    pairs = read_table(out / "graph.parquet")
    one, two = (pairs[column].map(folder_of_id) for column in ENDS)
    linked = Counter(tuple(sorted(pair)) for pair in zip(one, two, strict=True) if pair[0] != pair[1])
    print(f"trusted pairs: {len(pairs)}, of them between folders: {sum(linked.values())}")
    for (first, second), count in linked.most_common():
        print(f"  {count} between {first} and {second}")
    for number, model in enumerate(result.models):
        folders = Counter(map(folder_of, model.names))
        if len(folders) > 1:
            print(f"  model {number} joins {dict(folders.most_common())}")


def _estimate(photos: Path, out: Path, count: int, executor: Executor) -> int:
    """Say how long every pair will take, by the time of random ones with a warm start."""
    config = ReconstructConfig()
    collection = scan(photos, out, config.scan, executor)
    features = extract_features(collection, out, config.features, executor)
    rows = np.flatnonzero(features.num_keypoints >= config.candidates.min_keypoints) + 1
    rng = np.random.default_rng(0)
    pairs = np.sort(rng.choice(rows, (count, 2)), axis=1)
    pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    table = pair_table(pairs, origin="list")
    scratch = out.with_name("estimate")
    shutil.rmtree(scratch, ignore_errors=True)
    started = time.perf_counter()
    match(table, features, scratch, config.matching, config.seed, executor)
    each = (time.perf_counter() - started) / len(pairs)
    total = len(rows) * (len(rows) - 1) // 2
    print(
        f"{1000 * each:.2f} ms a pair over {len(pairs)} random pairs; all {total:,} pairs: "
        f"{each * total / 60:.0f} min"
    )
    shutil.rmtree(scratch)
    return 0


def folder_of(name: str) -> str:
    """The label of a photo."""
    return str(PurePosixPath(name).parent)


if __name__ == "__main__":
    sys.exit(main())
