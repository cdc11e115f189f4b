"""Scores on queries drawn by geometry, label-free: what a network reaches in each situation of a user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from pydantic import Field
from scipy import stats

from cnnimretrieval.evaluation.metrics import MIN_PLACES, average_precision, places_without_junk
from cnnimretrieval.evaluation.queries import QuerySet, Situation, SituationName
from cnnimretrieval.evaluation.ranks import judged_ranks
from groundwork.descriptor_folder import BOX
from groundwork.settings import Values
from groundwork.top_k import search

# Ranked names kept per query for the report.
_KEPT = 20
# The kinds of score, the one that decides first: details are harder than whole photos.
KINDS = ("crop", "retaken", "far", "whole")
# The kinds that choices are made by: what people search with.
DETAILS = ("crop", "retaken")


class KindScores(Values):
    """Scores of one kind of query.

    `map` and `recall_at_1` are means over places of the mean over a place's queries, so that a place with
    many photos counts no more than one with few; the others are means over queries.
    """

    map: float
    recall_at_1: float
    map_per_query: float
    recall_at_1_per_query: float
    queries: int
    places: int


class Gain(Values):
    """Difference of two mAPs over places, and how sure it is: paired over places.

    `map` is None where no place has both, `standard_error` where fewer than two have: it is unknown then.
    `proven` is a difference beyond chance, by Student's t, two-sided at 95 %, over at least `MIN_PLACES`
    places: with few places the error itself is uncertain.
    """

    kind: str
    map: float | None = Field(description="unknown (None) where no place has a score in both rows")
    standard_error: float | None = Field(description="unknown (None) of a single place")
    places: int
    places_better: int
    places_worse: int
    proven: bool

    def __str__(self) -> str:
        """In words, with as much doubt as there is."""
        difference = "unknown" if self.map is None else f"{self.map:+.4f}"
        error = "unknown" if self.standard_error is None else f"{self.standard_error:.4f}"
        places = "place" if self.places == 1 else "places"
        return f"{difference} mAP (standard error {error} over {self.places:,} {places})"


@dataclass(frozen=True, kw_only=True, eq=False)
class KindProof:
    """Average precision and precision at 1 of the queries of one kind, and the place of each."""

    average_precision: Float[np.ndarray, " q"]
    precision_at_1: Float[np.ndarray, " q"]
    place: Int[np.ndarray, " q"]

    def scores(self) -> KindScores:
        """Means over places and over queries."""
        maps, firsts = self.by_place(self.average_precision), self.by_place(self.precision_at_1)
        return KindScores(
            map=float(np.mean(list(maps.values()))),
            recall_at_1=float(np.mean(list(firsts.values()))),
            map_per_query=float(self.average_precision.mean()),
            recall_at_1_per_query=float(self.precision_at_1.mean()),
            queries=len(self.place),
            places=len(maps),
        )

    def by_place(self, values: Float[np.ndarray, " q"]) -> dict[int, float]:
        """Mean of `values` over the queries of each place."""
        places, index = np.unique(self.place, return_inverse=True)
        means = np.bincount(index, values) / np.bincount(index)
        return dict(zip(places.tolist(), means.tolist(), strict=True))


@dataclass(frozen=True, kw_only=True, eq=False)
class Proof:
    """What one network, whitened or not, reaches in one situation, by kind of query."""

    situation: SituationName
    kinds: Mapping[str, KindProof]

    @property
    def decisive(self) -> str:
        """The kind of query that decides: the first of `KINDS` that there is."""
        return next(kind for kind in KINDS if kind in self.kinds)

    @property
    def map_of_details(self) -> float:
        """What choices are made by: the mean mAP of crops and retaken crops, or of the kind that decides."""
        kinds = [kind for kind in DETAILS if kind in self.kinds] or [self.decisive]
        return float(np.mean([self.kinds[kind].scores().map for kind in kinds]))

    @property
    def scores(self) -> dict[str, KindScores]:
        """Of every kind, the one that decides first."""
        return {kind: self.kinds[kind].scores() for kind in KINDS if kind in self.kinds}


def prove(
    queries: QuerySet,
    situation: Situation,
    asked: Float[np.ndarray, "q d"],
    searched: Float[np.ndarray, "n d"],
) -> Proof:
    """Score unit descriptors of the queries of one situation, and of what is searched in it, in their order.

    Of a query only the ranks of the images of its own place are kept: memory does not grow with the square
    of the collection.
    """
    truths = [queries.truth(number, situation) for number in situation.queries]
    judged = [np.concatenate(truth) for truth in truths]
    ranks = judged_ranks(asked, searched, judged)
    found: dict[str, list[tuple[float, float, int]]] = {}
    for number, truth, rank in zip(situation.queries.tolist(), truths, ranks, strict=True):
        query = queries.queries[number]
        near, far, _ = np.split(rank, np.cumsum([len(part) for part in truth[:2]]))
        kinds = {query.kind: np.concatenate([near, far])} | ({"far": far} if query.kind == "crop" else {})
        for kind, positives in kinds.items():
            if len(positives):
                places = places_without_junk(positives, np.setdiff1d(rank, positives))
                precision = average_precision(places, len(positives))
                found.setdefault(kind, []).append((precision, float(places[0] == 0), query.place))
    return Proof(situation=situation.name, kinds={kind: _of_kind(rows) for kind, rows in found.items()})


def gain(proof: Proof, over: Proof) -> Gain:
    """What `proof` is better by than `over` on the queries that decide; the standard error is over places."""
    kind = proof.decisive
    ours, theirs = (one.kinds[kind].by_place(one.kinds[kind].average_precision) for one in (proof, over))
    differences = np.array([ours[place] - theirs[place] for place in ours])
    differences = differences[np.isfinite(differences)]
    count = len(differences)
    difference = float(differences.mean()) if count else None
    error = float(differences.std(ddof=1)) / count**0.5 if count > 1 else None
    return Gain(
        kind=kind,
        map=difference,
        standard_error=error,
        places=count,
        places_better=int((differences > 0).sum()),
        places_worse=int((differences < 0).sum()),
        proven=_is_proven(difference, error, count),
    )


def ranking_table(
    queries: QuerySet,
    situation: Situation,
    asked: Float[np.ndarray, "q d"],
    searched: Float[np.ndarray, "n d"],
    proof: Proof,
) -> pd.DataFrame:
    """One row a query of the situation: how it is made, the first names of its ranking, and its score.

    `junk` is that among the ranked names.
    """
    ranking = search(asked, searched, _KEPT)
    rows = np.arange(len(searched)) if situation.database is None else situation.database
    precision = {kind: iter(one.average_precision.tolist()) for kind, one in proof.kinds.items()}
    table = []
    for number, ranked, scores in zip(situation.queries.tolist(), ranking.rows, ranking.scores, strict=True):
        query = queries.queries[number]
        names = [queries.table.names[row] for row in rows[ranked].tolist()]
        *_, junk = queries.truth(number, situation)
        ignored = {queries.table.names[row] for row in rows[junk].tolist()}
        table.append(
            {
                "kind": query.kind,
                "query": query.query,
                **dict(zip(BOX, query.box, strict=True)),
                "rotation_deg": query.rotation_deg,
                "seed": query.seed,
                "place": query.place,
                "ranked": names,
                "scores": scores.tolist(),
                "positives": list(query.positives),
                "junk": [name for name in names if name in ignored],
                "average_precision": next(precision[query.kind]),
            }
        )
    return pd.DataFrame(table)


def _of_kind(rows: Sequence[tuple[float, float, int]]) -> KindProof:
    precision, first, place = zip(*rows, strict=True)
    return KindProof(
        average_precision=np.array(precision), precision_at_1=np.array(first), place=np.array(place)
    )


def _is_proven(difference: float | None, error: float | None, places: int) -> bool:
    if difference is None or error is None or places < MIN_PLACES:
        return False
    return bool(abs(difference) > stats.t.ppf(0.975, places - 1) * error)
