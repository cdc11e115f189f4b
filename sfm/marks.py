"""Print that two photos carry, told by where their matches lie: info bars, dates, logos, frames.

Print keeps its place in the photo, whatever the camera sees: its depth below the nearest edge, and often all
of its place, measured from an edge or from the middle. Letters of a bar match other letters of the same line,
so along the edge they may move. What is seen of a place keeps its depth below an edge only by chance, or,
from a tripod, as much in the middle of the photo as at the edge.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

# Print explains a pair if it explains at least this share of its matches. The geometry that fits print fits
# some wrong matches, too.
_EXPLAINED_SHARE = 0.5
# Kept its place: by this much of the longer side, but at least 3 px.
_TOLERANCE = 0.003
_MIN_TOLERANCE_PX = 3.0
# COLMAP looks for watermarks in a border of a tenth of the diagonal.
_BORDER = 0.1
# Of the matches that keep their depth below an edge, so many are in the border if they lie on print; of those
# in a patch, so many keep their place.
_PURE_SHARE = 0.8
# A logo may also stand elsewhere: its matches fill little of the photo. Those of a camera on a tripod, which
# keep their places too and prove the same place, are spread.
_PATCH_AREA = 0.1
# A line of text is no thicker than this share of the longer side.
_LINE = 0.08

BORDER, PATCH = "print in the border", "print in a small patch"


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchedPoints:
    """Where the matches of some pairs lie, pair after pair.

    Attributes:
        one: x, y in px of the first photo; `two` in the second.
        pair: of each match the row of its pair, rising.
        sizes: width and height of both photos of each pair.

    """

    one: Float[np.ndarray, "m 2"]
    two: Float[np.ndarray, "m 2"]
    pair: Int[np.ndarray, " m"]
    sizes: Int[np.ndarray, "p 2 2"]

    def count(self, matches: Bool[np.ndarray, " m"]) -> Int[np.ndarray, " p"]:
        """How many of some matches each pair has."""
        return np.bincount(self.pair[matches], minlength=len(self.sizes))

    def explain(self, matches: Bool[np.ndarray, " m"]) -> Bool[np.ndarray, " p"]:
        """Where some matches are so many that what explains them explains the pair."""
        number = np.bincount(self.pair, minlength=len(self.sizes))
        return np.asarray(self.count(matches) >= np.maximum(_EXPLAINED_SHARE * number, 1))

    def share_px(self, share: float) -> Float[np.ndarray, " m"]:
        """A share of the longer side of the first photo, for each match."""
        pixels: Float[np.ndarray, " m"] = (share * self.sizes[:, 0].max(axis=1))[self.pair]
        return pixels

    @property
    def tolerance_px(self) -> Float[np.ndarray, " m"]:
        """Within which a match keeps its place, in px of the first photo."""
        return np.asarray(np.maximum(_MIN_TOLERANCE_PX, self.share_px(_TOLERANCE)))

    def medians(self, values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        """The median of its pair for each match, the upper one of two."""
        ordered = values[np.lexsort((values, self.pair))]
        number = np.bincount(self.pair, minlength=len(self.sizes))
        middle = np.cumsum(number) - number + number // 2
        found: Float[np.ndarray, " m"] = ordered[middle[self.pair]]
        return found

    def take(self, pairs: Bool[np.ndarray, " p"]) -> "MatchedPoints":
        """Some of the pairs."""
        own = pairs[self.pair]
        return MatchedPoints(
            one=self.one[own],
            two=self.two[own],
            pair=(np.cumsum(pairs) - 1)[self.pair[own]],
            sizes=self.sizes[pairs],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Print:
    """What print explains.

    Attributes:
        matches: whether print explains a match, of the pairs that it explains.
        reasons: of each pair BORDER, PATCH, or nothing where it may show a common place.

    """

    matches: Bool[np.ndarray, " m"]
    reasons: Shaped[np.ndarray, " p"]


def find_print(matched: MatchedPoints) -> Print:
    """Tell the pairs of which at least half of the matches are explained by print."""
    border, patch = _Most(matched), _Most(matched)
    for depths in _overlaid(matched):
        border.offer(_in_border(matched, *depths))
        patch.offer(_unmoved(matched, *depths))
    in_border, in_patch = (matched.explain(most.matches) for most in (border, patch))
    for pair in np.flatnonzero(in_patch).tolist():
        in_patch[pair] = _is_patch(matched, pair, patch.matches)
    reasons = np.full(len(matched.sizes), "", dtype=object)
    reasons[in_patch], reasons[in_border] = PATCH, BORDER
    matches = np.where(in_border[matched.pair], border.matches, patch.matches & in_patch[matched.pair])
    return Print(matches=matches, reasons=reasons)


def find_lines(matched: MatchedPoints) -> Bool[np.ndarray, " m"]:
    """The matches of pairs of which at least half lie on one line, of the same height in both photos.

    So do those of a text or a logo whose place is another one in each photo, and those of what is seen far
    away: a pair alone does not tell which.
    """
    found = np.zeros(len(matched.one), dtype=np.bool_)
    thin = _has_line(matched)
    found[thin[matched.pair]] = _lines(matched.take(thin))
    return found


def _has_line(matched: MatchedPoints) -> Bool[np.ndarray, " p"]:
    """Where half of a pair's matches may lie on a line of the first photo: it holds their median then."""
    found = np.zeros(len(matched.sizes), dtype=np.bool_)
    for place in matched.one.T:
        found |= matched.explain(np.abs(place - matched.medians(place)) <= matched.share_px(_LINE))
    return found


def _lines(matched: MatchedPoints) -> Bool[np.ndarray, " m"]:
    most, thickness = _Most(matched), matched.share_px(_LINE)
    for one, two in _overlaid(matched):
        for place, moved in zip(one.T[:2], (one - two).T[:2], strict=True):
            along = np.abs(moved - matched.medians(moved)) <= matched.tolerance_px
            most.offer(along & (np.abs(place - matched.medians(place)) <= thickness))
    return np.asarray(most.matches & matched.explain(most.matches)[matched.pair])


class _Most:
    """Of several explanations the one of most matches, for each pair."""

    def __init__(self, matched: MatchedPoints) -> None:
        self._matched = matched
        self._number = np.zeros(len(matched.sizes), dtype=np.int64)
        self.matches = np.zeros(len(matched.one), dtype=np.bool_)

    def offer(self, matches: Bool[np.ndarray, " m"]) -> None:
        """Take over what explains more matches of a pair than all before."""
        number = self._matched.count(matches)
        better = (number > self._number)[self._matched.pair]
        self.matches[better] = matches[better]
        self._number = np.maximum(number, self._number)


def _overlaid(
    matched: MatchedPoints,
) -> Iterator[tuple[Float[np.ndarray, "m 4"], Float[np.ndarray, "m 4"]]]:
    """Depths of the matches below the left, top, right and bottom edge, in px of the first photo.

    For each way to lay the second photo over the first: in its four turns, as it is, or grown to the same
    width or height.
    """
    first, second = matched.sizes[:, 0], matched.sizes[:, 1]
    one = _depths(matched.one, first[matched.pair])
    two = _depths(matched.two, second[matched.pair])
    for turn in range(4):
        turned = np.roll(two, turn, axis=1)
        growth = first / (second[:, ::-1] if turn % 2 else second)
        yield one, turned
        if (growth != 1.0).any():
            yield one, turned * growth[matched.pair, :1]
            yield one, turned * growth[matched.pair, 1:]


def _depths(points: Float[np.ndarray, "m 2"], sizes: Int[np.ndarray, "m 2"]) -> Float[np.ndarray, "m 4"]:
    return np.concatenate([points, sizes - points], axis=1)


def _in_border(
    matched: MatchedPoints, one: Float[np.ndarray, "m 4"], two: Float[np.ndarray, "m 4"]
) -> Bool[np.ndarray, " m"]:
    """Matches in the border that keep their depth, of pairs with few such matches elsewhere."""
    level = np.abs(one - two) <= matched.tolerance_px[:, None]
    border = _BORDER * np.hypot(*matched.sizes[:, 0].T)[matched.pair, None]
    found = (level & (one <= border) & (two <= border)).any(axis=1)
    pure = matched.count(found) >= _PURE_SHARE * matched.count(level.any(axis=1))
    return np.asarray(found & pure[matched.pair])


def _unmoved(
    matched: MatchedPoints, one: Float[np.ndarray, "m 4"], two: Float[np.ndarray, "m 4"]
) -> Bool[np.ndarray, " m"]:
    """Matches that keep their place, across and along, measured from an edge or from the middle."""
    tolerance, moved = matched.tolerance_px[:, None], one - two
    level = np.abs(moved) <= tolerance
    central = np.abs(moved[:, :2] - moved[:, 2:]) <= 2 * tolerance
    return np.asarray((level[:, :2] | level[:, 2:] | central).all(axis=1))


def _is_patch(matched: MatchedPoints, pair: int, unmoved: Bool[np.ndarray, " m"]) -> bool:
    """Whether the unmoved matches of a pair fill little of both photos, and few others lie among them."""
    start, end = np.searchsorted(matched.pair, [pair, pair + 1])
    own = unmoved[start:end]
    for points, size in zip((matched.one, matched.two), matched.sizes[pair], strict=True):
        # A twentieth may lie outside on each side.
        low, high = np.quantile(points[start:end][own], [0.05, 0.95], axis=0)
        inside = ((points[start:end] >= low) & (points[start:end] <= high)).all(axis=1)
        if np.prod((high - low) / size) > _PATCH_AREA or own[inside].mean() < _PURE_SHARE:
            return False
    return True
