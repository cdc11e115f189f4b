"""Contact sheets: which training tuples and which rankings to show, with what the page writes below them."""

from collections.abc import Mapping, Sequence
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
    """One held-out query and its first photos in two networks' rankings."""

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
        negatives = () if tuples is None else tuple(row["negatives"])
        made.append(
            TupleRow(
                query=_picture(row["query"], thumbnails, kind="query"),
                positive=_picture(row["positive"], thumbnails, _caption(facts), kind="positive"),
                negatives=tuple(_picture(name, thumbnails, kind="other") for name in negatives),
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
        len(set(_names(one)) & set(_names(two)))
        for one, two in zip(both["negatives"], both["negatives_last"], strict=True)
    ]
    chosen = both.assign(_stayed=stayed).sort_values(["_stayed", "query"], kind="stable").head(rows)
    return tuple(
        NegativesRow(
            query=_picture(row["query"], thumbnails, kind="query"),
            first=tuple(_picture(name, thumbnails, kind="other") for name in _names(row["negatives"])),
            last=tuple(_picture(name, thumbnails, kind="other") for name in _names(row["negatives_last"])),
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


def _picture(name: str, thumbnails: Thumbnails, caption: str = "", kind: str = "") -> Picture:
    return Picture(uri=thumbnails.photo(name), name=name, caption=caption, kind=kind)


def _ranking_row(row: Mapping[Any, Any], thumbnails: Thumbnails, shown: int) -> RankingRow:
    def ranked(column: str, positives: Sequence[str], junk: Sequence[str]) -> tuple[Picture, ...]:
        names = list(_names(row[column]))[:shown]
        kinds = ["positive" if n in positives else "junk" if n in junk else "other" for n in names]
        return tuple(_picture(n, thumbnails, kind=k) for n, k in zip(names, kinds, strict=True))

    positives, junk = set(_names(row["positives"])), set(_names(row["junk"]))
    before_ap, after_ap = (
        float(np.asarray(row[column])) for column in ("average_precision", "average_precision_after")
    )
    name = str(row["query"])
    return RankingRow(
        query=Picture(uri=thumbnails.query(row), name=name, kind="query"),
        before=ranked("ranked", tuple(positives), tuple(junk)),
        after=ranked("ranked_after", tuple(positives), tuple(junk)),
        before_ap=before_ap,
        after_ap=after_ap,
    )


def _names(value: object) -> tuple[str, ...]:
    return tuple(str(name) for name in np.asarray(value, dtype=object))
