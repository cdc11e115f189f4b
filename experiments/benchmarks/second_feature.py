"""A second, learned local feature against SIFT alone: photos registered, links of folders, processor time.

Reconstructs a folder of photos by SIFT alone, then goes on from a copy of that with the second feature. Each
run can be stopped and goes on when the benchmark is started again; times are what the stages recorded. Goals:
97 % of the photos below LABELLED registered, no two folders joined that SIFT alone does not join, at most 1.6
times the processor time. The folders of the photos are read as labels here, in judging.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.benchmarks.measuring.measure import Claim, arguments, conclude, print_table
from experiments.benchmarks.registration import folder_of, mean_error_px, print_links
from groundwork.child import preload
from groundwork.executors import LocalExecutor, usable_cores
from groundwork.links import share
from sfm.local_features.interface import modules_of
from sfm.outcome import ReconstructResult
from sfm.reconstruct import ReconstructConfig, reconstruct


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("photos", type=Path, help="folder of photos; their folders are the labels")
    parser.add_argument("--out", type=Path, required=True, help="folder to work in; kept, to go on from")
    parser.add_argument("--labelled", default="", help="folder below PHOTOS of the photos to register")
    parser.add_argument("--method", default="xfeat", help="the second feature [%(default)s]")
    parser.add_argument(
        "--workers", type=int, default=usable_cores(), help="processes at a time [%(default)s]"
    )
    given = parser.parse_args(words)
    alone = ReconstructConfig()
    second = alone.second.model_validate({"method": given.method})
    # As a run with the second feature would: later it would be loaded anew by each of its tasks.
    preload(*modules_of(given.method))
    with LocalExecutor(given.workers) as executor:
        first = reconstruct(given.photos, given.out / "alone", alone, executor)
        if not (given.out / "both").exists():
            share(given.out / "alone", given.out / "both")
        config = alone.model_copy(update={"second": second})
        both = reconstruct(given.photos, given.out / "both", config, executor)
    return _compare(given.out, given.labelled, {"alone": first, "both": both})


def _compare(out: Path, labelled: str, results: dict[str, ReconstructResult]) -> int:
    rows, shares, times, joined = [], [], [], []
    for name, result in results.items():
        images = result.images[result.images["name"].str.startswith(labelled)]
        registered = int((images["status"] == "registered").sum())
        shares.append(registered / len(images))
        times.append(cpu_seconds(result))
        joined.append(joined_folders(result))
        error = f"{mean_error_px(out / name):.3f}"
        rows.append(
            (name, f"{registered} of {len(images)}", str(result.stats.models), error, f"{times[-1]:.0f}")
        )
    print_table(("features", "registered", "models", "mean error px", "cpu s"), rows)
    print_links(out / "both", results["both"])
    return conclude(
        [
            Claim(what="share registered by both", measured=shares[1], limit=0.97, at_least=True),
            Claim(
                what="pairs of folders that both join and SIFT alone does not",
                measured=len(joined[1] - joined[0]),
                limit=0,
                at_least=False,
            ),
            Claim(what="processor time", measured=times[1] / times[0], limit=1.6, at_least=False),
        ]
    )


def cpu_seconds(result: ReconstructResult) -> float:
    """What the tasks of all stages took."""
    return sum(float(stage.get("cpu_seconds", 0.0)) for stage in result.stats.stages.values())


def joined_folders(result: ReconstructResult) -> set[frozenset[str]]:
    """Every two folders with photos of one place, or in one model."""
    found: set[frozenset[str]] = set()
    for column in ("place", "model"):
        images = result.images[result.images[column] >= 0]
        for _, names in images.groupby(column)["name"]:
            folders = sorted({folder_of(name) for name in names})
            found |= {frozenset((one, two)) for one in folders for two in folders if one < two}
    return found


if __name__ == "__main__":
    sys.exit(main())
