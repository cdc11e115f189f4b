"""Tables of the page: plain rows of text out of the counts, scores and settings of a run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.report.reading import Json
from experiments.scoreboard import KINDS, ROWS, SITUATIONS


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One kind of query in one row: scores in [0, 1], and whether the row is the best of its kind."""

    map: float
    map_per_query: float
    recall_at_1: float
    best: bool


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One of the networks compared."""

    title: str
    kept: bool
    cells: tuple[Cell, ...]


def score_kinds(evaluation: Json) -> tuple[str, ...]:
    """The kinds of query that every row was scored on."""
    return tuple(kind for kind in KINDS if all(kind in scores for scores in evaluation.values()))


def score_rows(evaluation: Json, kept: str | None) -> tuple[ScoreRow, ...]:
    """The rows in the order of the experiment, as many as there are."""
    kinds = score_kinds(evaluation)
    best = {kind: max(scores[kind]["map"] for scores in evaluation.values()) for kind in kinds}
    return tuple(
        ScoreRow(
            title=title,
            kept=row == kept,
            cells=tuple(_cell(evaluation[row][kind], best[kind]) for kind in kinds),
        )
        for row, title in ROWS.items()
        if row in evaluation
    )


@dataclass(frozen=True, kw_only=True)
class SituationRow:
    """One network's mAP in every situation."""

    title: str
    kept: bool
    maps: tuple[float, ...]


def situation_rows(
    evaluation: Json, kept: str | None, kind: str
) -> tuple[tuple[str, ...], tuple[SituationRow, ...]]:
    """Names of the situations with this kind of query, and the networks' rows; none of a single one."""
    names = [
        name
        for name in SITUATIONS
        if evaluation and all(kind in row.get("situations", {}).get(name, {}) for row in evaluation.values())
    ]
    if len(names) < 2:
        return (), ()
    rows = tuple(
        SituationRow(
            title=title,
            kept=row == kept,
            maps=tuple(evaluation[row]["situations"][name][kind]["map"] for name in names),
        )
        for row, title in ROWS.items()
        if row in evaluation
    )
    return tuple(SITUATIONS[name] for name in names), rows


def _cell(scores: Mapping[str, Any], best: float) -> Cell:
    return Cell(
        map=scores["map"],
        map_per_query=scores["map_per_query"],
        recall_at_1=scores["recall_at_1"],
        best=scores["map"] == best,
    )


@dataclass(frozen=True, kw_only=True)
class RoundRow:
    """What a round came to; `same_test` says whether its scores compare with those of the round before."""

    number: int
    new_tried: int
    new_trusted: int
    registered: int
    positives: int
    maps: tuple[float, ...]
    same_test: bool

    @property
    def share(self) -> float:
        """New trusted pairs of the new ones tried."""
        return self.new_trusted / max(1, self.new_tried)


def round_rows(rounds: Sequence[Json], row: str) -> list[RoundRow]:
    """A row a round, with the mAP of one of the networks compared by kind of query."""
    before = [None, *(one["heldout"] for one in rounds)]
    return [
        RoundRow(
            number=one["number"],
            new_tried=one["new_tried"],
            new_trusted=one["new_trusted"],
            registered=one["sfm"]["registered"],
            positives=one["pairs"]["positives"],
            maps=tuple(one["evaluation"][row][kind]["map"] for kind in score_kinds(one["evaluation"])),
            same_test=earlier in (None, one["heldout"]),
        )
        for earlier, one in zip(before, rounds, strict=False)
    ]


def photo_counts(sfm: Json) -> list[tuple[str, int]]:
    """What became of the files found: these add up."""
    known = [sfm[status] for status in ("registered", "duplicates", "rejected")]
    return [
        ("registered in a model", known[0]),
        ("unregistered", sfm["images"] - sum(known)),
        ("duplicate of another file", known[1]),
        ("rejected", known[2]),
    ]


def reasons(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The most frequent reason first."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def flattened(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (dotted key, value)."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "not set" if value is None else str(value)
