"""A pair filter: matches on print, a bar, a date, a logo or a frame of both photos, prove no common place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt32

from sfm.marks import MatchedPoints, find_lines, find_print
from sfm.matchgraph import number_places
from sfm.pair_filters.interface import Verdict, VerifiedPairs
from sfm.pair_table import WATERMARK, image_ids, image_rows
from sfm.printed import PrintedKeypoints

# A line of text that stands elsewhere in each photo is told by what it connects: so many places and lone
# photos at once, so many places among them. What is seen far away connects two, or lone photos.
_CONNECTED = 3
_CONNECTED_PLACES = 2
_RECURRING = "print that recurs"
# Sets of keypoints are put together when so many are waiting.
_WAITING = 64


def drop_stationary(verified: VerifiedPairs) -> Verdict:
    """Take out pairs that print explains, and tell the keypoints that lie on it.

    A pair with enough matches beside the print stays. Pairs in which verification itself found a watermark
    are not trusted anyhow, but tell where the print is.
    """
    found = _look(verified)
    tried = verified.tried
    marks = tried[(tried["geometry_kind"] == WATERMARK) & (tried["row"] >= 0) & (tried["inliers"] > 0)]
    more = _look(replace(verified, pairs=marks.reset_index(drop=True)))
    reasons = found.reasons
    lines = _recurring(verified, reasons == "", found.lines)
    reasons[lines] = _RECURRING
    printed = [found.printed, more.printed, _on_lines(verified, np.flatnonzero(lines))]
    keep = reasons == ""
    return Verdict(keep=keep, reasons=reasons[~keep], printed=PrintedKeypoints.union(printed))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """Of each pair why it goes, if it does, and whether most of it lies on a line; the keypoints on print."""

    reasons: Shaped[np.ndarray, " p"]
    lines: Bool[np.ndarray, " p"]
    printed: PrintedKeypoints


def _look(verified: VerifiedPairs) -> _Found:
    reasons = np.full(len(verified.pairs), "", dtype=object)
    lines = np.zeros(len(reasons), dtype=np.bool_)

    def judge(rows: Int[np.ndarray, " b"], matched: MatchedPoints) -> Bool[np.ndarray, " m"]:
        found = find_print(matched)
        beside = matched.count(~found.matches)
        reasons[rows] = np.where(beside < verified.min_inliers, found.reasons, "")
        lines[rows] = matched.count(find_lines(matched)) > 0
        return found.matches

    printed = _collect(verified, np.arange(len(reasons)), judge)
    return _Found(reasons=reasons, lines=lines, printed=printed)


def _on_lines(verified: VerifiedPairs, rows: Int[np.ndarray, " r"]) -> PrintedKeypoints:
    return _collect(verified, rows, lambda _, matched: find_lines(matched))


def _collect(
    verified: VerifiedPairs,
    rows: Int[np.ndarray, " r"],
    find: Callable[[Int[np.ndarray, " b"], MatchedPoints], Bool[np.ndarray, " m"]],
) -> PrintedKeypoints:
    """The keypoints of the matches that `find` finds, block by block."""
    ends = image_ids(verified.pairs)
    parts = [PrintedKeypoints()]
    for own, inliers in verified.read_inliers(rows):
        matched = _matched_points(verified, ends[own], inliers)
        on_print = find(own, matched)
        images = ends[own][matched.pair][on_print]
        parts.append(PrintedKeypoints.of(images.ravel(), np.concatenate(inliers)[on_print].ravel()))
        if len(parts) > _WAITING:
            parts = [PrintedKeypoints.union(parts)]
    return PrintedKeypoints.union(parts)


def _matched_points(
    verified: VerifiedPairs, ends: Int[np.ndarray, "p 2"], inliers: Sequence[UInt32[np.ndarray, "_ 2"]]
) -> MatchedPoints:
    """Where the matches of some pairs lie in the first photo and in the second, pair after pair."""
    image_ids, image = np.unique(ends, return_inverse=True)
    found = verified.keypoints(image_ids.tolist())
    keypoints = [found[image_id] for image_id in image_ids.tolist()]
    first = np.cumsum([0, *map(len, keypoints)])[image.reshape(-1, 2)]
    pair = np.repeat(np.arange(len(ends)), [len(matches) for matches in inliers])
    rows = np.concatenate(inliers) + first[pair]
    points = np.concatenate(keypoints)
    sizes = verified.sizes[ends - 1]
    return MatchedPoints(one=points[rows[:, 0]], two=points[rows[:, 1]], pair=pair, sizes=sizes)


def _recurring(
    verified: VerifiedPairs, keep: Bool[np.ndarray, " p"], lines: Bool[np.ndarray, " p"]
) -> Bool[np.ndarray, " p"]:
    """Pairs on a line that connect, with others of the kind, places which nothing else connects."""
    num_images = len(verified.sizes)
    rows = image_rows(verified.pairs)
    place = number_places(rows[keep & ~lines], num_images)
    num_places = int(place.max(initial=-1)) + 1
    node = np.where(place >= 0, place, num_places + np.arange(num_images))
    connecting = keep & lines & (node[rows[:, 0]] != node[rows[:, 1]])
    group = number_places(node[rows[connecting]], num_places + num_images)
    recurs = _sizes(group) >= _CONNECTED
    recurs &= _sizes(group[:num_places], len(recurs)) >= _CONNECTED_PLACES
    found = np.zeros(len(rows), dtype=np.bool_)
    found[connecting] = recurs[group[node[rows[connecting, 0]]]]
    return found


def _sizes(group: Int[np.ndarray, " n"], number: int = 0) -> Int[np.ndarray, " g"]:
    return np.bincount(group[group >= 0], minlength=number)
