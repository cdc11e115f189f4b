"""Scores on the held-out places, label-free: geometry says what a query must find in the whole collection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import Field
from scipy import stats

from cnnimretrieval.descriptors.distort import Relit
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.evaluation.metrics import MIN_PLACES, Relevance, score_rankings
from groundwork.settings import Values
from groundwork.top_k import search
from pairs.heldout import HeldoutQuery

# Ranked names kept per query for the report.
_KEPT = 20


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
class HeldoutTest:
    """The held-out queries as requests and ground truth in rows of the database, the whole collection."""

    queries: tuple[HeldoutQuery, ...]
    requests: tuple[ImageRequest, ...]
    relevance: tuple[Relevance, ...]
    names: tuple[str, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of query there are, the one that decides first: details are harder than whole photos."""
        present = {query.kind for query in self.queries}
        return tuple(kind for kind in ("crop", "whole") if kind in present)

    def place_maps(self, average_precision: Float[np.ndarray, " q"], kind: str) -> dict[int, float]:
        """Mean AP of the queries of one kind in each place."""
        by_place: dict[int, list[float]] = {}
        for query, value in zip(self.queries, average_precision, strict=True):
            if query.kind == kind:
                by_place.setdefault(query.place, []).append(float(value))
        return {place: float(np.mean(values)) for place, values in sorted(by_place.items())}


@dataclass(frozen=True, kw_only=True, eq=False)
class Proof:
    """What one network, whitened or not, reaches on the held-out places."""

    scores: Mapping[str, KindScores]
    average_precision: Float[np.ndarray, " q"]
    rankings: pd.DataFrame


def heldout_test(queries: Sequence[HeldoutQuery], names: Sequence[str], photos: Path) -> HeldoutTest:
    """The test that mining drew; `names` are the rows of the database.

    A crop is a photo of its own: cut, tilted, relit and recompressed by the query's seed, and described like
    any other photo. ValueError when no query was held out.
    """
    if not queries:
        raise ValueError(
            "held-out places: expected at least one test query, got none; "
            "add photos that overlap more, or lower pairs.heldout.min_shared_points"
        )
    row_of = {name: row for row, name in enumerate(names)}

    def rows(some: Sequence[str]) -> np.ndarray:
        return np.array([row_of[name] for name in some], np.int64)

    return HeldoutTest(
        queries=tuple(queries),
        requests=tuple(_request(query, photos) for query in queries),
        relevance=tuple(Relevance(positives=rows(q.positives), junk=rows(q.junk)) for q in queries),
        names=tuple(names),
    )


def prove(test: HeldoutTest, queries: Float[np.ndarray, "q d"], database: Float[np.ndarray, "n d"]) -> Proof:
    """Score unit descriptors of the test's queries against those of the whole collection."""
    ranking = search(queries, database)
    found = score_rankings(ranking.rows, test.relevance, cutoffs=(1,))
    precision_at_1 = found.recall[:, 0]
    scores = {}
    for kind in test.kinds:
        of_kind = np.array([query.kind == kind for query in test.queries])
        maps = test.place_maps(found.average_precision, kind)
        scores[kind] = KindScores(
            map=float(np.mean(list(maps.values()))),
            recall_at_1=float(np.mean(list(test.place_maps(precision_at_1, kind).values()))),
            map_per_query=float(found.average_precision[of_kind].mean()),
            recall_at_1_per_query=float(precision_at_1[of_kind].mean()),
            queries=int(of_kind.sum()),
            places=len(maps),
        )
    rankings = _ranking_table(test, ranking.rows, ranking.scores, found.average_precision)
    return Proof(scores=scores, average_precision=found.average_precision, rankings=rankings)


def gain(test: HeldoutTest, proof: Proof, over: Proof) -> Gain:
    """What `proof` is better by than `over` on the queries that decide; the standard error is over places."""
    kind = test.kinds[0]
    ours = test.place_maps(proof.average_precision, kind)
    theirs = test.place_maps(over.average_precision, kind)
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


def _is_proven(difference: float | None, error: float | None, places: int) -> bool:
    if difference is None or error is None or places < MIN_PLACES:
        return False
    return bool(abs(difference) > stats.t.ppf(0.975, places - 1) * error)


def _request(query: HeldoutQuery, photos: Path) -> ImageRequest:
    if query.kind == "whole":
        return ImageRequest(path=photos / query.query)
    x1, y1, x2, y2 = (float(edge) for edge in query.box)
    return ImageRequest(
        path=photos / query.query,
        box=(x1, y1, x2, y2),
        rotation_deg=query.rotation_deg,
        edit=Relit(query.seed),
        as_photo=True,
    )


def _ranking_table(
    test: HeldoutTest, rows: np.ndarray, scores: np.ndarray, average_precision: np.ndarray
) -> pd.DataFrame:
    columns = list(zip(test.queries, rows[:, :_KEPT], scores[:, :_KEPT], average_precision, strict=True))
    return pd.DataFrame(
        {
            "kind": [query.kind for query, *_ in columns],
            "query": [query.query for query, *_ in columns],
            **{
                edge: [query.box[n] for query, *_ in columns]
                for n, edge in enumerate(("x1", "y1", "x2", "y2"))
            },
            "rotation_deg": [query.rotation_deg for query, *_ in columns],
            "seed": [query.seed for query, *_ in columns],
            "place": [query.place for query, *_ in columns],
            "ranked": [[test.names[row] for row in best] for _, best, _, _ in columns],
            "scores": [values.tolist() for _, _, values, _ in columns],
            "positives": [list(query.positives) for query, *_ in columns],
            "junk": [list(query.junk) for query, *_ in columns],
            "average_precision": [float(value) for *_, value in columns],
        }
    )
