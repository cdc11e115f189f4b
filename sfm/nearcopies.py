"""Near-copies among thumbnails: one picture resized, saved again, in other colours or tones, or turned.

Nothing is learned from such copies as a pair, and a search that finds them proves nothing. Two photos of one
thing differ in more than copies may here: by where they were taken, or by what moved in between.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from groundwork.arrays import slices
from groundwork.files import release
from groundwork.photos import THUMBNAIL_PX
from sfm.paircodes import decode, encode, sort_unique

# Of each pixel the mean of 3 x 3 is taken away. What is left correlates so in near-copies, at least: measured
# 0.986 after resizing, compression or a moderate change of tone, and up to 0.965 between photos of a video.
_MIN_DETAIL_CORRELATION = 0.98
# And no pixel differs by more than this share of the contrast (the standard deviation): somebody walked by.
_MAX_DIFFERENCE = 0.5
# In gray values: what is weaker is as much rounding and compression as picture, in a clear sky for one.
_MIN_CONTRAST = 4.0
_MIN_DETAIL = 1.0
# Near-copies are searched by their lowest frequencies, at unit contrast: so far apart are they at most.
_RADIUS = 0.06
_FREQUENCIES = 4
_LOW = np.add.outer(range(_FREQUENCIES), range(_FREQUENCIES)) < _FREQUENCIES
_NEIGHBOURS = 8
_BLOCK = 4096

# Turns of a picture, by number: bit 2 swaps rows and columns first, bits 1 and 0 mirror them.
_TURNS = range(8)

_Thumbnails = UInt8[np.ndarray, "n p"]
_Pixels = Float[np.ndarray, "n h w"]
_Waves = Float[np.ndarray, "n f f"]


def near_copies(
    thumbnails: _Thumbnails, rows: Int[np.ndarray, " k"], num_kept: int = 0
) -> Int[np.ndarray, " k"]:
    """For each of `rows` the position among them of the photo that it is a near-copy of, else its own.

    Of copies the first in `rows` is the original; the first `num_kept` are never taken for copies. Each copy
    is one of the original itself, not of another copy: small differences do not add up along a series of
    photos. A thumbnail is a square of gray values, row by row.

    Memory grows with the photos by some 300 bytes each; `thumbnails` may be a memory map. Of each photo a few
    neighbours are looked at: a camera that never moves does not cost the square of its photos.
    """
    waves = np.zeros((len(rows), _FREQUENCIES, _FREQUENCIES), dtype=np.float32)
    for part in slices(len(rows), _BLOCK):
        waves[part] = waves_of(thumbnails[rows[part]])
        release(thumbnails)
    return _originals(_Comparison(thumbnails, rows, waves), _candidates(waves), num_kept)


def same_picture(one: _Pixels, two: _Pixels) -> Bool[np.ndarray, " n"]:
    """Whether each of `one` is a near-copy of that of `two`, in any turn."""
    same = np.zeros(len(one), dtype=np.bool_)
    for turn in _TURNS:
        left = np.flatnonzero(~same)
        if len(left):
            same[left] = near_in_detail(turned(one[left], turn), two[left])
    return same


def near_in_detail(one: _Pixels, two: _Pixels) -> Bool[np.ndarray, " n"]:
    """Whether pictures in gray are the same but for scaling, compression and a change of tone."""
    told = np.minimum(_rms(_details(one)), _rms(_details(two))) >= _MIN_DETAIL
    one = _in_tones_of(one, two)
    ours, theirs = _details(one), _details(two)
    alike = (ours * theirs).mean(axis=(1, 2)) >= _MIN_DETAIL_CORRELATION * _rms(ours) * _rms(theirs)
    alike &= np.abs(one - two).max(axis=(1, 2)) <= _MAX_DIFFERENCE * two.std(axis=(1, 2))
    near: Bool[np.ndarray, " n"] = told & alike
    return near


def waves_of(thumbnails: _Thumbnails) -> _Waves:
    """Lowest frequencies of each picture, u + v < 4 in its discrete cosine transform; all 0 if it is flat.

    Gray values count by their rank alone, so that a change of tone changes little. A projection of unit
    vectors: no two pictures are farther apart in it than they are themselves.
    """
    ranks = _ranks(thumbnails)
    ranks -= ranks.mean(axis=1, keepdims=True)
    told = thumbnails.std(axis=1, keepdims=True) >= _MIN_CONTRAST
    pixels = np.where(told, ranks / np.maximum(np.linalg.norm(ranks, axis=1, keepdims=True), 1e-6), 0)
    u, x = np.arange(_FREQUENCIES)[:, None], np.arange(THUMBNAIL_PX)
    basis = np.cos(np.pi * u * (x + 0.5) / THUMBNAIL_PX) * np.sqrt(2 / THUMBNAIL_PX)
    waves: _Waves = basis @ _squares(pixels) @ basis.T
    return waves * _LOW


def turned(pixels: _Pixels, turn: int) -> _Pixels:
    """Pictures after a turn."""
    pixels = pixels.swapaxes(1, 2) if turn & 4 else pixels
    pixels = pixels[:, ::-1] if turn & 2 else pixels
    return pixels[:, :, ::-1] if turn & 1 else pixels


def turned_waves(waves: _Waves, turn: int) -> _Waves:
    """The waves of pictures after a turn: a mirrored cosine is the same or its opposite."""
    signs = (-1.0) ** np.arange(_FREQUENCIES, dtype=np.float32)
    waves = waves.swapaxes(1, 2) if turn & 4 else waves
    waves = waves * signs[:, None] if turn & 2 else waves
    return waves * signs if turn & 1 else waves


class _Comparison:
    """Tells which of some pairs are near-copies of each other, in any turn."""

    def __init__(self, thumbnails: _Thumbnails, rows: Int[np.ndarray, " k"], waves: _Waves) -> None:
        self._thumbnails, self._rows, self.waves = thumbnails, rows, waves

    def __call__(self, pairs: Int[np.ndarray, "p 2"]) -> Bool[np.ndarray, " p"]:
        """For each pair of positions whether one is a near-copy of the other."""
        same = np.zeros(len(pairs), dtype=np.bool_)
        for part in slices(len(pairs), _BLOCK):
            same[part] = self._same(*pairs[part].T)
        return same

    def _same(self, one: Int[np.ndarray, " p"], two: Int[np.ndarray, " p"]) -> Bool[np.ndarray, " p"]:
        same = np.zeros(len(one), dtype=np.bool_)
        for turn in _TURNS:
            apart = turned_waves(self.waves[one], turn) - self.waves[two]
            near = np.flatnonzero(~same & ((apart**2).sum(axis=(1, 2)) <= _RADIUS**2))
            if len(near):
                same[near] = near_in_detail(turned(self._pixels(one[near]), turn), self._pixels(two[near]))
        return same

    def _pixels(self, positions: Int[np.ndarray, " p"]) -> _Pixels:
        pixels = self._thumbnails[self._rows[positions]].astype(np.float32)
        release(self._thumbnails)
        return _squares(pixels)


def _squares(pixels: Shaped[np.ndarray, "n p"]) -> Shaped[np.ndarray, "n h w"]:
    squares: Shaped[np.ndarray, "n h w"] = pixels.reshape(-1, THUMBNAIL_PX, THUMBNAIL_PX)
    return squares


def _ranks(thumbnails: _Thumbnails) -> Float[np.ndarray, "n p"]:
    """The rank of each gray value in its picture; equal values share the mean of theirs."""
    number = len(thumbnails)
    values = thumbnails.astype(np.int64) + 256 * np.arange(number)[:, None]
    counts = np.bincount(values.ravel(), minlength=256 * number).reshape(number, 256)
    ranks: Float[np.ndarray, "n p"] = (counts.cumsum(axis=1) - counts / 2).ravel()[values]
    return ranks


def _in_tones_of(one: _Pixels, two: _Pixels) -> _Pixels:
    """The pictures `one` with each gray value replaced by that of the same rank in `two`."""
    rank = one.reshape(len(one), -1).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return np.take_along_axis(np.sort(two.reshape(len(two), -1), axis=1), rank, axis=1).reshape(two.shape)


def _details(pixels: _Pixels) -> Float[np.ndarray, "n h2 w2"]:
    """How much each pixel differs from its surroundings, the border left out, on average 0."""
    height, width = pixels.shape[1] - 2, pixels.shape[2] - 2
    shifted = [pixels[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    details = pixels[:, 1:-1, 1:-1] - sum(shifted) / 9
    details -= details.mean(axis=(1, 2), keepdims=True)
    return details


def _rms(values: Float[np.ndarray, "n h2 w2"]) -> Float[np.ndarray, " n"]:
    rms: Float[np.ndarray, " n"] = np.sqrt((values**2).mean(axis=(1, 2)))
    return rms


def _candidates(waves: _Waves) -> Int[np.ndarray, "p 2"]:
    """Unique pairs of positions, smaller first, that are near in some turn.

    A picture is put into the tree in one turn, in which it darkens to the right and below, and more to the
    right; it is looked up in each turn in which a near-copy might have been put there.
    """
    told = np.flatnonzero(waves.any(axis=(1, 2)))
    stored = np.zeros((len(told), np.count_nonzero(_LOW)), dtype=np.float32)
    for part in slices(len(told), _BLOCK):
        for turn in _TURNS:
            after = turned_waves(waves[told[part]], turn)
            stands = np.flatnonzero(_stands(after, 0.0))
            stored[part.start + stands] = after[stands][:, _LOW]
    tree = cKDTree(stored)
    codes = [np.empty(0, dtype=np.int64)]
    for part in slices(len(told), _BLOCK):
        for turn in _TURNS:
            after = turned_waves(waves[told[part]], turn)
            asked = np.flatnonzero(_stands(after, _RADIUS))
            # The nearest may be the picture itself.
            nearest = tree.query(after[asked][:, _LOW], k=_NEIGHBOURS + 1, distance_upper_bound=_RADIUS)
            found = np.asarray(nearest[1])
            query, rank = np.nonzero(found < len(told))
            one, two = told[part.start + asked[query]], told[found[query, rank]]
            smaller, larger = np.minimum(one, two), np.maximum(one, two)
            codes.append(sort_unique(encode(smaller, larger, len(waves))[one != two]))
    return decode(sort_unique(np.concatenate(codes)), len(waves))


def _stands(waves: _Waves, slack: float) -> Bool[np.ndarray, " n"]:
    """Whether pictures are in the turn in which they are put into the tree, or as near to it as `slack`."""
    across, down = waves[:, 0, 1], waves[:, 1, 0]
    stands: Bool[np.ndarray, " n"] = (across >= -slack) & (down >= -slack) & (across - down >= -2 * slack)
    return stands


def _originals(same: _Comparison, candidates: Int[np.ndarray, "p 2"], num_kept: int) -> Int[np.ndarray, " k"]:
    """The position of each photo's original, its own where it is one."""
    num_photos = len(same.waves)
    original = np.arange(num_photos)
    pairs = candidates[same(candidates)]
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(num_photos, num_photos))
    group = connected_components(links, directed=False)[1]
    linked = np.unique(pairs)
    linked = linked[np.argsort(group[linked], kind="stable")]
    starts = np.flatnonzero(np.diff(group[linked])) + 1
    for members in np.split(linked, starts) if len(linked) else []:
        while len(members) > 1:
            first, others = members[0], members[1:]
            copies = same(np.stack([np.full(len(others), first), others], axis=1)) & (others >= num_kept)
            original[others[copies]] = first
            members = others[~copies]
    return original
