"""Two runs on the held-out queries that they share: differences by place and by query, with intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cnnimretrieval.evaluation.paired import Difference, paired_difference
from experiments.scoreboard import ROWS
from groundwork.descriptor_folder import BOX
from groundwork.files import read_json, read_table
from groundwork.settings import Values

# What makes two queries the same question: the part of the photo, how it is shown, what must be found.
_QUESTION = ("kind", "query", *BOX, "rotation_deg", "seed")
_SHOWN = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What a run answered to its held-out queries, by question: `place, average_precision`, of every row."""

    kept: str
    rows: Mapping[str, pd.DataFrame]


class QueryDifference(Values):
    """One query and its average precision in either run."""

    query: str
    place: int
    a: float
    b: float


class KindComparison(Values):
    """Two rows on the shared queries of one kind; means over places, and the queries that differ most."""

    kind: str
    row_a: str
    row_b: str
    map_a: float
    map_b: float
    by_place: Difference
    by_query: Difference
    largest_gains: tuple[QueryDifference, ...]
    largest_losses: tuple[QueryDifference, ...]


class Comparison(Values):
    """All of it: the rows that the runs keep first, then each row that both have."""

    run_a: str
    run_b: str
    seed: int
    shared: int
    only_a: int
    only_b: int
    kinds: tuple[KindComparison, ...]


def read_answers(run: Path) -> Answers:
    """The answers in WORK or WORK/model; FileNotFoundError where no training came to its proof."""
    folder = run / "model" if (run / "model").is_dir() else run
    for name in ("rankings.parquet", "metrics.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"run {run}: expected a run that was scored on held-out places, got no {name} in {folder}; "
                "run it to its end"
            )
    table = read_table(folder / "rankings.parquet")
    wanted = [tuple(sorted(names)) for names in table["positives"]]
    question = pd.Series(
        list(zip(*(table[column] for column in _QUESTION), wanted, strict=True)), dtype=object
    )
    rows = {
        row: table.loc[table["row"] == row, ["kind", "query", "place", "average_precision"]].set_axis(
            pd.Index(question[table["row"] == row], tupleize_cols=False)
        )
        for row in ROWS
        if (table["row"] == row).any()
    }
    return Answers(kept=str(read_json(folder / "metrics.json")["kept"]), rows=rows)


def compare(run_a: Path, run_b: Path, *, seed: int = 0) -> Comparison:
    """Run B against run A. ValueError when the two share no query."""
    a, b = read_answers(run_a), read_answers(run_b)
    asked_a, asked_b = (answers.rows[answers.kept].index for answers in (a, b))
    shared = asked_a[asked_a.isin(asked_b)]
    if not len(shared):
        raise ValueError(
            f"compare: expected runs that share held-out queries, got {len(asked_a)} of {run_a} and "
            f"{len(asked_b)} of {run_b} with none in common; compare runs on the same pairs"
        )
    both = [(a.kept, b.kept), *((row, row) for row in ROWS if row in a.rows and row in b.rows)]
    kinds = [
        _of_kind(a.rows[row_a].loc[shared], b.rows[row_b].loc[shared], kind, row_a, row_b, seed)
        for row_a, row_b in dict.fromkeys(both)
        for kind in ("crop", "retaken", "whole")
        if (a.rows[row_a].loc[shared, "kind"] == kind).any()
    ]
    return Comparison(
        run_a=str(run_a),
        run_b=str(run_b),
        seed=seed,
        shared=len(shared),
        only_a=len(asked_a) - len(shared),
        only_b=len(asked_b) - len(shared),
        kinds=tuple(kinds),
    )


def _of_kind(
    a: pd.DataFrame, b: pd.DataFrame, kind: str, row_a: str, row_b: str, seed: int
) -> KindComparison:
    chosen = (a["kind"] == kind).to_numpy()
    # Numbers of places are those of run A: run B may count its own otherwise.
    place = a["place"].to_numpy(dtype=np.int64)[chosen]
    ours, theirs = (table["average_precision"].to_numpy(dtype=np.float64)[chosen] for table in (b, a))
    queries = [
        QueryDifference(query=str(name), place=int(where), a=float(one), b=float(two))
        for name, where, one, two in zip(a["query"][chosen], place, theirs, ours, strict=True)
    ]
    rising = sorted(queries, key=lambda query: (query.b - query.a, query.query))
    means = pd.DataFrame({"place": place, "a": theirs, "b": ours}).groupby("place").mean().mean()
    return KindComparison(
        kind=kind,
        row_a=row_a,
        row_b=row_b,
        map_a=float(means["a"]),
        map_b=float(means["b"]),
        by_place=paired_difference(theirs, ours, place, "places", seed=seed),
        by_query=paired_difference(theirs, ours, place, "queries", seed=seed),
        largest_gains=tuple(query for query in rising[::-1][:_SHOWN] if query.b > query.a),
        largest_losses=tuple(query for query in rising[:_SHOWN] if query.b < query.a),
    )


def as_table(found: Comparison) -> str:
    """A block a kind and pair of rows."""
    lines = [
        f"A {found.run_a}",
        f"B {found.run_b}",
        f"{found.shared:,} shared queries; {found.only_a:,} of A and {found.only_b:,} of B are asked or "
        "judged otherwise and left out",
        "differences B - A with 95 % intervals, places drawn with replacement",
    ]
    for one in found.kinds:
        same = one.row_a == one.row_b
        rows = ROWS[one.row_a] if same else f"A {ROWS[one.row_a]}, B {ROWS[one.row_b]}"
        lines += [
            "",
            f"{one.kind} queries, {rows}: mAP {one.map_a:.4f} and {one.map_b:.4f}",
            f"  by place  {_in_words(one.by_place, 'places')}",
            f"  by query  {_in_words(one.by_query, 'queries')}",
        ]
        for title, queries in (("gains", one.largest_gains), ("losses", one.largest_losses)):
            if queries:
                named = ", ".join(f"{query.query} {query.a:.2f} to {query.b:.2f}" for query in queries)
                lines.append(f"  largest {title}: {named}")
    return "\n".join(lines)


def _in_words(found: Difference, what: str) -> str:
    interval = "unknown of one place" if found.low is None else f"{found.low:+.4f} to {found.high:+.4f}"
    verdict = "" if found.beyond_chance else ", which may be chance"
    counts = f"better on {found.better:,} and worse on {found.worse:,} of {found.count:,} {what}"
    return f"{found.mean:+.4f} ({interval}{verdict}), {counts}"
