"""What each source of candidate pairs was good for: how many of its pairs were tried, and proved true."""

from typing import Any

import numpy as np
import pandas as pd


def yield_by_origin(tried: pd.DataFrame, trusted: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Per origin the pairs `tried`, those `trusted` of them, and their `share`.

    `tried` and `trusted` are tables of pairs with the column `origin`, trusted ones being among the tried.
    Pairs that several sources proposed count under their combination, `one+two`. Where there are
    combinations, `one in all` counts every pair that source one proposed, alone or with others.
    """
    counts = pd.DataFrame({"tried": _counts(tried), "trusted": _counts(trusted)}).fillna(0)
    parts = [str(origin).split("+") for origin in counts.index]
    found = {str(origin): counts.loc[[origin]].sum() for origin in sorted(counts.index)}
    if any(len(sources) > 1 for sources in parts):
        for source in sorted({source for sources in parts for source in sources}):
            found[f"{source} in all"] = counts[np.array([source in sources for sources in parts])].sum()
    return {
        origin: {
            "tried": int(row["tried"]),
            "trusted": int(row["trusted"]),
            "share": round(float(row["trusted"] / row["tried"]), 4),
        }
        for origin, row in found.items()
    }


def _counts(pairs: pd.DataFrame) -> "pd.Series[int]":
    counts = pairs["origin"].value_counts()
    return counts[counts > 0].rename(index=str)  # of categories those without a pair are listed, too
