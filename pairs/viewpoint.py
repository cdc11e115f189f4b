"""How two views of the same points differ: change of scale, angle between optical axes, baseline."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from pairs.frustum import frustum_overlaps
from pairs.image_pairs import Candidates
from sfm.covisibility import CovisiblePairs, covisible_pairs, visibility
from sfm.geometry import angles_between_deg, centres_in_world, depths, scales_at_points, viewing_directions
from sfm.model import Model

# Points held at a time while shared points are compared: about 100 MB of poses and depths.
_BLOCK_POINTS = 1 << 18


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedViews:
    """What the shared points of each pair say; symmetric in the two images, infinite where it is unknown."""

    scale_change: Float[np.ndarray, " p"]
    depth: Float[np.ndarray, " p"]


def pair_candidates(model: Model) -> Candidates:
    """Every pair of images of the model that shares a track, in both directions, as rows of its images.

    Sorted by (query, positive). Nothing here depends on the model's frame, nor on its unit.
    """
    visible = visibility(model)
    pairs = covisible_pairs(visible)
    first, second = pairs.first, pairs.second
    views = compare_shared_views(model, visible, pairs)
    axes = viewing_directions(model.rotations)
    centres = centres_in_world(model.rotations, model.translations)
    angle_deg = angles_between_deg(axes[first], axes[second])
    baseline = np.linalg.norm(centres[first] - centres[second], axis=1) / views.depth

    tracks = visible.sum(axis=1)
    query, positive = np.concatenate([first, second]), np.concatenate([second, first])
    shared = np.tile(pairs.shared_points, 2)
    both_ways = Candidates(
        query=query,
        positive=positive,
        shared_points=shared,
        overlap=shared / tracks[query],
        scale_change=np.tile(views.scale_change, 2),
        angle_deg=np.tile(angle_deg, 2),
        baseline=np.tile(np.where(np.isfinite(views.depth), baseline, np.inf), 2),
        frustum_overlap=frustum_overlaps(model, visible, query, positive),
    )
    return both_ways.take(np.lexsort((positive, query)))


def compare_shared_views(model: Model, visible: csr_array, pairs: CovisiblePairs) -> SharedViews:
    """Scale change and typical depth of each pair's shared points.

    Scale change is max(r, 1/r), with r the median over the shared points of the ratio of the two scales,
    where a camera sees a point at focal / depth pixels per unit. Depth is the median of sqrt(depth_a *
    depth_b). Points behind a camera are left out.
    """
    scale_change = np.full(len(pairs.first), np.inf)
    depth = np.full(len(pairs.first), np.inf)
    for block in blocks_of_pairs(visible, pairs.first, pairs.second):
        a, b = pairs.first[block], pairs.second[block]
        # The product is 1 exactly where both rows are: its columns are the points that both images see.
        shared = visible[a].multiply(visible[b]).tocsr()
        pair = np.repeat(np.arange(len(a)), np.diff(shared.indptr))
        depth_a, depth_b = (_depths(model, images[pair], shared.indices) for images in (a, b))
        usable = (depth_a > 0) & (depth_b > 0)
        pair, depth_a, depth_b = pair[usable], depth_a[usable], depth_b[usable]
        scale_a = scales_at_points(model.focal_px[a[pair]], depth_a)
        scale_b = scales_at_points(model.focal_px[b[pair]], depth_b)
        seen, ratio = _median_by_group(scale_a / scale_b, pair)
        scale_change[block.start + seen] = np.maximum(ratio, 1 / ratio)
        depth[block.start + seen] = _median_by_group(np.sqrt(depth_a * depth_b), pair)[1]
    return SharedViews(scale_change=scale_change, depth=depth)


def _depths(
    model: Model, images: Int[np.ndarray, " k"], points: Int[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    return depths(model.rotations[images], model.translations[images], model.points[points])


def blocks_of_pairs(
    visible: csr_array, first: Int[np.ndarray, " p"], second: Int[np.ndarray, " p"]
) -> Iterator[slice]:
    """Consecutive pairs whose images see about `_BLOCK_POINTS` points together, at least one pair each."""
    tracks = np.diff(visible.indptr)
    work = np.cumsum(tracks[first] + tracks[second], dtype=np.int64)
    start, done = 0, 0
    while start < len(work):
        stop = max(start + 1, int(np.searchsorted(work, done + _BLOCK_POINTS, side="right")))
        yield slice(start, stop)
        start, done = stop, int(work[stop - 1])


def _median_by_group(
    values: Float[np.ndarray, " k"], group: Int[np.ndarray, " k"]
) -> tuple[Int[np.ndarray, " g"], Float[np.ndarray, " g"]]:
    """The groups present, ascending, and the median of each group's positive values.

    Of an even number the geometric mean of the middle two: then the median of 1/x is one over that of x, and
    neither image of a pair is favoured.
    """
    order = np.lexsort((values, group))
    present, start, count = np.unique(group[order], return_index=True, return_counts=True)
    ascending = values[order]
    low, high = ascending[start + (count - 1) // 2], ascending[start + count // 2]
    return present, np.where(low == high, low, np.sqrt(low * high))
