"""Several runs of one collection with different seeds as one table, rows of the proof by situation.

Each seed has a split of its own: other places are trained on, set aside to choose by, and reported. Scores
are means over the seeds. Differences are paired by query among unseen photos, means over the places of all
seeds, with the 95 % interval of a bootstrap over these places; a place that two seeds report counts twice.
"""

import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from cnnimretrieval.evaluation.heldout import KindScores
from cnnimretrieval.evaluation.paired import Difference, paired_difference
from cnnimretrieval.training.result import RowScores, TrainResult, read_result
from experiments.benchmarks.measuring.measure import arguments, print_table
from experiments.comparison import Answers, read_answers
from experiments.scoreboard import KINDS, ROWS, SITUATIONS
from groundwork.files import write_json

# The row that a run kept, whichever that was.
_KEPT = "kept"
_NAMES = {**ROWS, _KEPT: "handed out"}
# What is told of the differences: the second row over the first.
_TOLD = (
    ("off_the_shelf", "off_the_shelf_whitened"),
    ("off_the_shelf_pca", "fine_tuned_whitened"),
    ("off_the_shelf_whitened", "fine_tuned_whitened"),
    ("off_the_shelf_whitened", _KEPT),
)
_KINDS_OF_QUERY = ("crop", "retaken", "whole")


def main(words: Sequence[str] | None = None) -> int:
    """Print both tables, and write them to OUT if it is given."""
    parser = arguments(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="WORK or WORK/model of each seed")
    parser.add_argument("--out", type=Path, help="JSON file for the tables")
    given = parser.parse_args(words)
    results = [read_result(run / "model" if (run / "model").is_dir() else run) for run in given.runs]
    scores, differences = _scores(results), _differences([read_answers(run) for run in given.runs])
    print_table(*scores)
    print()
    print_table(*differences)
    print(f"kept: {', '.join(ROWS[result.kept] for result in results)}")
    if given.out is not None:
        write_json(given.out, {"scores": scores, "differences": differences})
    return 0


_Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def _scores(results: Sequence[TrainResult]) -> _Table:
    """The mAP of every row by situation and kind of query, mean over the seeds."""
    cells: dict[str, dict[str, float]] = {}
    for situation, kind in product(SITUATIONS, KINDS):
        for row in ROWS:
            found = [_score(result, row, situation, kind) for result in results]
            known = [score for score in found if score is not None]
            if len(known) == len(results):
                cells.setdefault(f"{SITUATIONS[situation]}: {kind}", {})[row] = float(np.mean(known))
    shown = [row for row in ROWS if any(row in of_column for of_column in cells.values())]
    rows = [
        (ROWS[row], *(f"{of_column[row]:.4f}" if row in of_column else "" for of_column in cells.values()))
        for row in shown
    ]
    return ("network", *cells), rows


def _score(result: TrainResult, row: str, situation: str, kind: str) -> float | None:
    by_name: Mapping[str, RowScores] = {str(name): scores for name, scores in result.evaluation.items()}
    if row not in by_name:
        return None
    situations = {str(name): scores for name, scores in by_name[row].situations.items()}
    found: KindScores | None = getattr(situations.get(situation), kind, None)
    return None if found is None else found.map


def _differences(runs: Sequence[Answers]) -> _Table:
    """The differences of some rows, by kind of query."""
    rows = []
    for one, other in _TOLD:
        if all({one, other} <= {*run.rows, _KEPT} for run in runs):
            found = [_difference(runs, one, other, kind) for kind in _KINDS_OF_QUERY]
            rows.append((f"{_NAMES[other]} over {_NAMES[one]}", *map(_in_words, found)))
    return ("among unseen photos", *(KINDS[kind] for kind in _KINDS_OF_QUERY)), rows


def _difference(runs: Sequence[Answers], one: str, other: str, kind: str) -> Difference:
    tables = []
    for number, run in enumerate(runs):
        after = run.rows[run.kept if other == _KEPT else other]["average_precision"]
        tables.append(run.rows[one].assign(other=after, seed=number))
    queries = pd.concat([table[table["kind"] == kind] for table in tables])
    a, b = (queries[name].to_numpy(np.float64) for name in ("average_precision", "other"))
    place = queries.groupby(["seed", "place"]).ngroup().to_numpy(np.int64)
    return paired_difference(a, b, place, "places")


def _in_words(found: Difference) -> str:
    interval = "" if found.low is None else f" ({found.low:+.4f} to {found.high:+.4f})"
    return f"{found.mean:+.4f}{interval}, {found.better} places better, {found.worse} worse"


if __name__ == "__main__":
    sys.exit(main())
