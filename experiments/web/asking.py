"""What people ask and what they are told: a search with its settings, a result; texts of forms as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnimretrieval.descriptors.images import Box
from experiments.web.faults import RequestFault


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is searched with: a row of the collection or an uploaded file, a part of it, and how.

    `right` are rows that a person marked as right: the query moves towards them.
    """

    row: int | None = None
    upload: Path | None = None
    box: Box | None = None
    right: tuple[int, ...] = ()
    steps: tuple[str, ...] = ()
    top: int = 10


@dataclass(frozen=True, kw_only=True)
class Found:
    """One result."""

    row: int
    name: str
    score: float
    box: Box | None
    inliers: int | None = None
    confidence: float | None = None


def steps_of(given: list[str], steps: Mapping[str, str]) -> tuple[str, ...]:
    """The steps of re-ranking by their names; RequestFault for one that is not among `steps`."""
    for step in given:
        if step not in steps:
            known = ", ".join(steps)
            raise RequestFault("rerank", f"rerank: expected {known}, got '{step[:40]}'; take one of them")
    return tuple(given)


def box_of(text: str) -> Box | None:
    """The box x1,y1,x2,y2 of a text, None for an empty one; RequestFault for another form."""
    if not text.strip():
        return None
    try:
        sides: list[Any] = [float(part) for part in text.split(",")]
        proper = len(sides) == 4 and sides[0] < sides[2] and sides[1] < sides[3]
    except ValueError:
        proper = False
    if not proper or not np.isfinite(sides).all():
        raise RequestFault(
            "box", f"box: expected x1,y1,x2,y2 with x1 < x2 and y1 < y2, got '{text[:60]}'; draw it again"
        )
    return sides[0], sides[1], sides[2], sides[3]
