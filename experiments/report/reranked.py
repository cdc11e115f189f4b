"""Held-out queries before and after re-ranking by geometry, with the matched points that decide it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.local.pairing import pair
from cnnimretrieval.search.spatial import SpatialConfig, Verifier, rerank_spatially
from experiments.report.match_figure import match_caption, match_picture
from experiments.report.sheets import Picture, counted, kind_of, query_picture, some_picture
from experiments.report.shown import Finder, Shown
from experiments.report.thumbnails import Thumbnails, data_uri, query_request
from groundwork.top_k import Ranking

# Photos of a ranking that are matched with the query: each costs up to a second.
CANDIDATES = 12
_SHOWN = 6
_PICTURE_PX = 1000
# Kinds of query that are shown, as many of one as of the other where there are both.
_KINDS = ("crop", "retaken")


@dataclass(frozen=True, kw_only=True)
class MatchedPair:
    """The drawn matches of a query and a photo, what the photo is to the query, and when it is first."""

    uri: str
    name: str
    kind: str
    when: str


@dataclass(frozen=True, kw_only=True)
class RerankedRow:
    """A held-out query, its first photos before and after, how many of them are right, and some matches."""

    query: Picture
    before: tuple[Picture, ...]
    after: tuple[Picture, ...]
    right_before: int
    right_after: int
    matches: tuple[MatchedPair, ...]


def reranked_sheet(
    rankings: pd.DataFrame,
    row: str,
    photos: Path,
    finder: Finder,
    config: SpatialConfig,
    thumbnails: Thumbnails,
    *,
    count: int = 4,
) -> tuple[RerankedRow, ...]:
    """Queries that the network `row` answered half right, one a place.

    What is junk is left out, as it is of the scores. A query whose photos cannot be read any more is left
    out, too.
    """
    made = []
    for query in _half_right(rankings[rankings["row"] == row], count):
        try:
            made.append(_row(query, photos, finder, config, thumbnails))
        except OSError:
            continue
    return tuple(made)


def _half_right(rankings: pd.DataFrame, count: int) -> list[dict[Any, Any]]:
    """Of the queries with right and wrong photos in front, those of average precision nearest to a half."""
    chosen: list[dict[Any, Any]] = []
    kinds = [kind for kind in _KINDS if (rankings["kind"] == kind).any()] or ["whole"]
    for number, kind in enumerate(kinds):
        of_kind = rankings[rankings["kind"] == kind]
        of_kind = of_kind.assign(_off=(of_kind["average_precision"] - 0.5).abs())
        wanted = (count * (number + 1)) // len(kinds)
        for query in of_kind.sort_values(["_off", "query"], kind="stable").to_dict("records"):
            if len(chosen) == wanted:
                break
            new_place = query["place"] not in {one["place"] for one in chosen}
            if new_place and {"positive", "other"} <= {kind_of(query, name) for name in _candidates(query)}:
                chosen.append(query)
    return chosen


def _candidates(query: dict[Any, Any]) -> tuple[str, ...]:
    """The first photos of the ranking that count."""
    return counted(query, "ranked")[:CANDIDATES]


def _row(
    query: dict[Any, Any], photos: Path, finder: Finder, config: SpatialConfig, thumbnails: Thumbnails
) -> RerankedRow:
    names = _candidates(query)
    requests = [query_request(query, photos), *(ImageRequest(path=photos / name) for name in names)]
    asked, *found = finder.find(requests)
    verifier = Verifier(
        lambda: asked.features, lambda rows: [found[number].features for number in rows], config
    )
    # All that scores are asked for here is the order of what geometry does not verify.
    numbers = np.arange(len(names))[None]
    ranking = Ranking(rows=numbers, scores=-numbers.astype(np.float32))
    reranked = rerank_spatially(ranking, verifier)
    order = reranked.rows[0].tolist()
    inliers = dict(zip(order, reranked.inliers[0].tolist(), strict=True))

    def shown(numbers: Sequence[int]) -> tuple[Picture, ...]:
        return tuple(
            some_picture(names[n], thumbnails, f"{inliers[n]:,} inliers", kind_of(query, names[n]))
            for n in numbers[:_SHOWN]
        )

    before = list(range(len(names)))
    # One picture where what was first is so still.
    firsts = {0: "before and after"} if order[0] == 0 else {0: "before", order[0]: "after"}
    drawn = [_drawn(query, (asked, found[n]), names[n], when, finder, config) for n, when in firsts.items()]
    return RerankedRow(
        query=query_picture(query, thumbnails),
        before=shown(before),
        after=shown(order),
        right_before=_right(query, [names[n] for n in before]),
        right_after=_right(query, [names[n] for n in order]),
        matches=tuple(drawn),
    )


def _right(query: dict[Any, Any], names: Sequence[str]) -> int:
    return sum(kind_of(query, name) == "positive" for name in names[:_SHOWN])


def _drawn(
    query: dict[Any, Any],
    shown: tuple[Shown, Shown],
    name: str,
    when: str,
    finder: Finder,
    config: SpatialConfig,
) -> MatchedPair:
    one, two = (finder.attend(one) for one in shown)
    paired = pair(one.features, two.features, config)
    caption = match_caption(one, two, paired, config.features, config.geometry)
    content = match_picture(one, two, paired, caption, width_px=_PICTURE_PX, format="jpeg")
    return MatchedPair(uri=data_uri(content, "image/jpeg"), name=name, kind=kind_of(query, name), when=when)
