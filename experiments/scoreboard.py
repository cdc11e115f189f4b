"""The four rows of the proof as a table for a terminal."""

from collections.abc import Mapping
from typing import Any

from cnnimretrieval.evaluation.metrics import MIN_PLACES

ROWS = {
    "off_the_shelf": "off the shelf",
    "off_the_shelf_pca": "off the shelf + PCA whitening",
    "fine_tuned": "fine-tuned",
    "fine_tuned_whitened": "fine-tuned + learned whitening",
}
_KINDS = ("crop", "whole")


def as_table(evaluation: Mapping[str, Mapping[str, Any]], kept: str) -> str:
    """For each row mAP and recall at 1, means over places, by kind of query; a star marks `kept`."""
    first = next(iter(evaluation.values()))
    kinds = [kind for kind in _KINDS if kind in first]
    counts = [
        f"{kind}: {first[kind]['queries']:,} queries, {first[kind]['places']:,} places" for kind in kinds
    ]
    heads = [f"{kind} mAP  R@1" for kind in kinds]
    lines = [
        f"held-out places ({'; '.join(counts)})",
        "  ".join([" " * 33, *(f"{head:>15}" for head in heads)]),
    ]
    for row, title in ROWS.items():
        cells = [
            f"{evaluation[row][kind]['map']:9.4f}{evaluation[row][kind]['recall_at_1']:6.2f}"
            for kind in kinds
        ]
        lines.append(
            "  ".join([f"{'*' if row == kept else ' '} {title:<31}", *(f"{cell:>15}" for cell in cells)])
        )
    places = min((first[kind]["places"] for kind in kinds), default=0)
    if places < MIN_PLACES:
        lines.append(
            f"too few places to say which row is better: {places:,}, at least {MIN_PLACES} are needed"
        )
    return "\n".join(lines)
