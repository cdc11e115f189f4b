"""Contact sheets: which training tuples and which rankings to show, with what the page writes below them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from experiments.report.queries import paired
from experiments.report.thumbnails import Thumbnails


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One cell: a thumbnail (None: unreadable), the photo's name, a caption, and what it is to its query."""

    uri: str | None
    name: str
    caption: str = ""
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class TupleRow:
    """A query with its positive and hard negatives."""

    query: Picture
    positive: Picture
    negatives: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class NegativesRow:
    """A query with its hard negatives of the first and of the last epoch."""

    query: Picture
    first: tuple[Picture, ...]
    last: tuple[Picture, ...]
    last_epoch: int


@dataclass(frozen=True, kw_only=True)
class RankingRow:
    """One held-out query and its first photos in two networks' rankings, of those that count."""

    query: Picture
    before: tuple[Picture, ...]
    after: tuple[Picture, ...]
    before_ap: float
    after_ap: float


def tuple_sheet(
    positives: pd.DataFrame,
    tuples: pd.DataFrame | None,
    cluster_of: Mapping[str, int],
    thumbnails: Thumbnails,
    rows: int = 12,
) -> tuple[TupleRow, ...]:
    """Training examples from as many clusters as possible; without tuples, positives alone."""
    geometry = positives.set_index(["query", "positive"])
    geometry = geometry[~geometry.index.duplicated()]
    source = positives if tuples is None else tuples
    known = [pair in geometry.index for pair in zip(source["query"], source["positive"], strict=True)]
    source = source[np.asarray(known, dtype=bool)]
    made = []
    for _, row in _spread(source, cluster_of, rows).iterrows():
        facts = geometry.loc[(row["query"], row["positive"])]
        made.append(
            TupleRow(
                query=some_picture(row["query"], thumbnails, kind="query"),
                positive=some_picture(row["positive"], thumbnails, _caption(facts), kind="positive"),
                negatives=() if tuples is None else _others(row["negatives"], thumbnails),
            )
        )
    return tuple(made)


def negatives_sheet(
    first: pd.DataFrame | None, last: pd.DataFrame | None, thumbnails: Thumbnails, rows: int = 5
) -> tuple[NegativesRow, ...]:
    """Queries that were learned from in the first and in the last epoch, those whose negatives changed most.

    Nothing where there was one epoch only.
    """
    if first is None or last is None or first["epoch"].equals(last["epoch"]):
        return ()
    both = first.drop_duplicates("query").merge(
        last.drop_duplicates("query"), on="query", suffixes=("", "_last"), validate="one_to_one"
    )
    stayed = [
        len(set(names_in(one)) & set(names_in(two)))
        for one, two in zip(both["negatives"], both["negatives_last"], strict=True)
    ]
    chosen = both.assign(_stayed=stayed).sort_values(["_stayed", "query"], kind="stable").head(rows)
    return tuple(
        NegativesRow(
            query=some_picture(row["query"], thumbnails, kind="query"),
            first=_others(row["negatives"], thumbnails),
            last=_others(row["negatives_last"], thumbnails),
            last_epoch=int(row["epoch_last"]),
        )
        for row in chosen.to_dict("records")
    )


def ranking_sheet(
    rankings: pd.DataFrame,
    after: str,
    thumbnails: Thumbnails,
    *,
    best: int = 6,
    worst: int = 6,
    shown: int = 6,
) -> tuple[RankingRow, ...]:
    """Queries whose average precision rose and fell most from off the shelf to the row `after`.

    Crop queries where there are some. One query a photo, so that a single photo does not fill the sheet.
    """
    both = paired(rankings, after).drop_duplicates("query")
    rose, fell = both[both["change"] > 0].head(best), both[both["change"] < 0].tail(worst)
    chosen = pd.concat([rose, fell])
    if chosen.empty:
        chosen = both.head(best + worst)
    return tuple(_ranking_row(row, thumbnails, shown) for row in chosen.to_dict("records"))


def _spread(source: pd.DataFrame, cluster_of: Mapping[str, int], rows: int) -> pd.DataFrame:
    """One row of each cluster, then a second one of each, and so on; other queries before the same again."""
    cluster = source["query"].map(lambda name: cluster_of.get(name, -1))
    again = source.groupby("query").cumcount()
    ordered = source.assign(_cluster=cluster, _again=again).sort_values(["_again", "query"], kind="stable")
    turn = ordered.groupby("_cluster").cumcount()
    return ordered.assign(_turn=turn).sort_values(["_turn", "_cluster"], kind="stable").head(rows)


def _caption(facts: pd.Series) -> str:
    return (
        f"{int(facts['shared_points']):,} shared points, overlap {facts['overlap']:.2f}, "
        f"scale ×{facts['scale_change']:.2f}, {facts['angle_deg']:.0f}°"
    )


def some_picture(name: str, thumbnails: Thumbnails, caption: str = "", kind: str = "") -> Picture:
    """The cell of a photo of the collection."""
    return Picture(uri=thumbnails.photo(name), name=name, caption=caption, kind=kind)


def _others(names: object, thumbnails: Thumbnails) -> tuple[Picture, ...]:
    return tuple(some_picture(name, thumbnails, kind="other") for name in names_in(names))


def query_picture(row: Mapping[Any, Any], thumbnails: Thumbnails) -> Picture:
    """The cell of a held-out query, a row of the rankings."""
    return Picture(uri=thumbnails.query(row), name=str(row["query"]), kind="query")


def kind_of(row: Mapping[Any, Any], name: str) -> str:
    """What a photo is to a held-out query, a row of the rankings: positive, junk or other."""
    if name in names_in(row["positives"]):
        return "positive"
    return "junk" if name in names_in(row["junk"]) else "other"


def counted(row: Mapping[Any, Any], column: str) -> tuple[str, ...]:
    """The photos of a ranking that count for its score: all but junk, best first."""
    return tuple(name for name in names_in(row[column]) if kind_of(row, name) != "junk")


def _ranking_row(row: Mapping[Any, Any], thumbnails: Thumbnails, shown: int) -> RankingRow:
    def ranked(column: str) -> tuple[Picture, ...]:
        first = counted(row, column)[:shown]
        return tuple(some_picture(name, thumbnails, kind=kind_of(row, name)) for name in first)

    before_ap, after_ap = (
        float(np.asarray(row[column])) for column in ("average_precision", "average_precision_after")
    )
    return RankingRow(
        query=query_picture(row, thumbnails),
        before=ranked("ranked"),
        after=ranked("ranked_after"),
        before_ap=before_ap,
        after_ap=after_ap,
    )


def names_in(value: object) -> tuple[str, ...]:
    """The names in a cell of a table that holds a list of them."""
    return tuple(str(name) for name in np.asarray(value, dtype=object))
