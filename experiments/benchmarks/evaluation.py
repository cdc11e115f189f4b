"""Scores of 70 queries by three protocols against one million distractors, streamed and straightforward.

Descriptors and judgements are made up: benchmark photos lean towards the queries they are judged for, more or
less strongly, distractors towards none. All numbers are small integers, so that inner products are exact
whatever their order of summation. The database lies in shards on the disk. The straightforward contender
does what the reference toolbox does: it loads all descriptors, makes the full matrix of scores, sorts every
query's database and walks through each query's ranking for each protocol. Both contenders work in child
processes of one thread and are timed from the files to the scores; the straightforward one with a stable
sort, which is slower, is the oracle of what is right. Goals: the same mAP and mP@k to 1e-12, at most an
eighth of the time, and a peak of memory with all shards at most one shard above that with the first alone.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.benchmarks.contenders.evaluators import Run, make, straightforward, streamed
from experiments.benchmarks.contenders.ours import in_child
from experiments.benchmarks.measuring.measure import (
    Claim,
    Took,
    add_kind,
    arguments,
    conclude,
    median,
    print_table,
    print_times,
    take_turns,
)

_LIMIT = 8.0
_PRECISION = 1e-12


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="scratch folder")
    parser.add_argument("--photos", type=int, default=4_993, help="photos of the benchmark [%(default)s]")
    parser.add_argument("--distractors", type=int, default=1_001_001, help="[%(default)s]")
    parser.add_argument("--queries", type=int, default=70, help="[%(default)s]")
    parser.add_argument("--dim", type=int, default=32, help="length of a descriptor [%(default)s]")
    parser.add_argument("--shard", type=int, default=100_000, help="distractors in a file [%(default)s]")
    parser.add_argument("--repeats", type=int, default=3, help="rounds [%(default)s]")
    add_kind(parser)
    given = parser.parse_args(words)
    folder = given.out / "evaluation"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make(folder, given.queries, given.photos, given.distractors, given.dim, given.shard)
    found = take_turns(
        {
            "straightforward": lambda: in_child(straightforward, folder, "quicksort"),
            "streamed": lambda: in_child(streamed, folder),
        },
        given.repeats,
    )
    oracle = in_child(straightforward, folder, "stable")
    small = in_child(streamed, folder, 1)
    return _report(found, oracle, small, given)


def _report(
    found: Mapping[str, Sequence[tuple[Run, Took]]], oracle: Run, small: Run, given: argparse.Namespace
) -> int:
    inside = {name: [(run, run.took) for run, _ in rounds] for name, rounds in found.items()}
    print(
        f"{given.queries} queries, {given.photos + given.distractors:,} photos, {given.dim} dimensions, "
        f"shards of {given.shard:,}"
    )
    print_times(inside)
    peaks = {name: max(run.peak_bytes for run, _ in rounds) for name, rounds in found.items()}
    peaks["streamed, first shard only"] = small.peak_bytes
    print()
    print_table(("contender", "peak MB"), [(name, f"{peak / 1e6:.1f}") for name, peak in peaks.items()])
    difference = max(
        float(np.abs(np.subtract(run.scores, oracle.scores)).max()) for run, _ in found["streamed"]
    )
    seconds = {name: median(rounds, given.kind) for name, rounds in inside.items()}
    shard_bytes = max(given.shard, given.photos) * given.dim * 4
    return conclude(
        [
            Claim(
                what="largest difference of any mAP or mP@k from the oracle's",
                measured=difference,
                limit=_PRECISION,
                at_least=False,
            ),
            Claim(
                what=f"straightforward {given.kind} seconds over streamed ones",
                measured=seconds["straightforward"] / seconds["streamed"],
                limit=_LIMIT,
                at_least=True,
            ),
            Claim(
                what="memory that all other shards add to the peak, in shards",
                measured=(peaks["streamed"] - small.peak_bytes) / shard_bytes,
                limit=1.0,
                at_least=False,
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
