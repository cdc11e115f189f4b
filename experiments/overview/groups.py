"""Photos that belong together: the places of a run, and near-copies."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Group:
    """Photos that belong together, as rows of the collection."""

    title: str
    rows: tuple[int, ...]


def places(named: Iterable[tuple[str, int]], row_of: Mapping[str, int]) -> tuple[Group, ...]:
    """The groups of (name, place), largest first, as far as `row_of` has the photos; -1 is no place."""
    rows: dict[int, list[int]] = {}
    for name, place in named:
        if place >= 0 and name in row_of:
            rows.setdefault(place, []).append(row_of[name])
    groups: Sequence[tuple[int, list[int]]] = sorted(rows.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(Group(title=f"Place {place}", rows=tuple(found)) for place, found in groups)


def numbered(groups: Iterable[Sequence[int]]) -> tuple[Group, ...]:
    """Groups of near-copies, the photo to keep first in each."""
    return tuple(Group(title=f"Group {n}", rows=tuple(rows)) for n, rows in enumerate(groups, start=1))
