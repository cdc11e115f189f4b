"""Query by query and place by place: where the trained network wins against the one off the shelf."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnnimretrieval.evaluation.paired import Difference, paired_difference
from groundwork.descriptor_folder import BOX

BEFORE = "off_the_shelf"
_QUERY = ["query", "kind", *BOX]


@dataclass(frozen=True, kw_only=True)
class PlaceRow:
    """The queries of one held-out place: mean AP before and after, and how many rose and fell."""

    place: int
    queries: int
    before: float
    after: float
    rose: int
    fell: int

    @property
    def change(self) -> float:
        """After less before."""
        return self.after - self.before


def paired(rankings: pd.DataFrame, after: str) -> pd.DataFrame:
    """Each query of the kind that decides, crops where there are some, off the shelf and in the row `after`.

    Columns of the rankings, those of `after` with the ending _after, and `change` of the average precision;
    the largest gain first.
    """
    kind = "crop" if (rankings["kind"] == "crop").any() else "whole"
    of_kind = rankings[rankings["kind"] == kind]
    both = of_kind[of_kind["row"] == BEFORE].merge(
        of_kind[of_kind["row"] == after], on=_QUERY, suffixes=("", "_after"), validate="one_to_one"
    )
    both["change"] = both["average_precision_after"] - both["average_precision"]
    return both.sort_values(["change", "query"], ascending=[False, True], ignore_index=True)


def place_rows(both: pd.DataFrame) -> tuple[PlaceRow, ...]:
    """The places, the largest loss first."""
    rows = [
        PlaceRow(
            place=int(np.asarray(place)),
            queries=len(group),
            before=float(group["average_precision"].mean()),
            after=float(group["average_precision_after"].mean()),
            rose=int((group["change"] > 0).sum()),
            fell=int((group["change"] < 0).sum()),
        )
        for place, group in both.groupby("place")
    ]
    return tuple(sorted(rows, key=lambda row: (row.change, row.place)))


def difference(both: pd.DataFrame) -> Difference | None:
    """The mean change over places with its interval; None without queries."""
    if both.empty:
        return None
    before, after = (
        both[column].to_numpy(np.float64) for column in ("average_precision", "average_precision_after")
    )
    return paired_difference(before, after, both["place"].to_numpy(np.int64), "places")
