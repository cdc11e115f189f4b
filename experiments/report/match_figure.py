"""Two photos side by side: keypoints, lines between inliers, attention where there is one, a caption."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cnnimretrieval.local.pairing import Paired
from experiments.report.figures import BLUE, GREEN, ORANGE
from experiments.report.shown import Shown

_GAP_PX = 12.0
_MOST_LINES = 400


def match_picture(
    first: Shown, second: Shown, paired: Paired, caption: str, *, width_px: int = 1400, format: str = "png"
) -> bytes:
    """The picture as bytes of an image file, `width_px` wide.

    All keypoints are dots, those of inliers green and joined by lines, of which at most 400 are drawn. What a
    network attends to lies over the same photos in a second row, in the same colours on both.
    """
    attention = first.attention is not None or second.attention is not None
    height = max(first.picture.height, second.picture.height)
    across = first.picture.width + _GAP_PX + second.picture.width
    rows = 2 if attention else 1
    inches = width_px / 100.0
    caption_inches = 0.14 + 0.22 * len(caption.splitlines())
    body = inches * height * rows / across
    figure = Figure(figsize=(inches, body + caption_inches), dpi=100, facecolor="white")
    share = body / (body + caption_inches)
    axes = figure.add_axes((0.0, 1.0 - share / rows, 1.0, share / rows))
    _draw_photos(axes, first, second, across, height)
    _draw_matches(axes, first, second, paired)
    if attention:
        below = figure.add_axes((0.0, 1.0 - share, 1.0, share / rows))
        _draw_attention(below, first, second, across, height)
    figure.text(0.008, (1.0 - share) / 2, caption, va="center", fontsize=11, family="DejaVu Sans")
    stream = io.BytesIO()
    smaller = {"quality": 80, "optimize": True} if format == "jpeg" else {}
    figure.savefig(stream, format=format, pil_kwargs=smaller)
    return stream.getvalue()


def match_caption(first: Shown, second: Shown, paired: Paired, features: str, geometry: str) -> str:
    """The numbers of a picture in a line; and those of attention, where there is one, in another."""
    counts = (
        f"{len(first.features):,} and {len(second.features):,} keypoints ({features}), "
        f"{len(paired.matches):,} matches, {paired.num_inliers:,} inliers ({geometry})"
    )
    scores = [one.attention.scores for one in (first, second) if one.attention is not None]
    if not scores:
        return counts
    means = " and ".join(f"{one.mean():.2f}" for one in scores)
    most = " and ".join(f"{one.max():.2f}" for one in scores)
    return f"{counts}\nattention, from dark to light: mean {means}, at most {most}"


def _draw_photos(axes: Axes, first: Shown, second: Shown, across: float, height: int) -> None:
    for shown, left in ((first, 0.0), (second, first.picture.width + _GAP_PX)):
        size = shown.picture.size
        axes.imshow(np.asarray(shown.picture.convert("RGB")), extent=(left, left + size[0], size[1], 0))
    axes.set_xlim(0, across)
    axes.set_ylim(height, 0)
    axes.axis("off")


def _draw_matches(axes: Axes, first: Shown, second: Shown, paired: Paired) -> None:
    one = first.features.keypoints * first.scale
    two = second.features.keypoints * second.scale + (first.picture.width + _GAP_PX, 0.0)
    rows, inliers = paired.matches.rows, paired.verified.inliers
    for points in (one, two):
        axes.scatter(points[:, 0], points[:, 1], s=3.0, c=BLUE, alpha=0.55, linewidths=0)
    for points, side in ((one, 0), (two, 1)):
        lost = points[rows[~inliers, side]]
        axes.scatter(lost[:, 0], lost[:, 1], s=6.0, c=ORANGE, linewidths=0)
    ends = np.stack([one[rows[inliers, 0]], two[rows[inliers, 1]]], axis=1)
    if len(ends):
        drawn = ends[np.linspace(0, len(ends) - 1, min(len(ends), _MOST_LINES)).astype(int)]
        axes.add_collection(LineCollection(list(drawn), colors=GREEN, linewidths=0.7, alpha=0.7))
        axes.scatter(ends[..., 0], ends[..., 1], s=9.0, c=GREEN, linewidths=0)


def _draw_attention(axes: Axes, first: Shown, second: Shown, across: float, height: int) -> None:
    _draw_photos(axes, first, second, across, height)
    most = max(float(one.attention.scores.max()) for one in (first, second) if one.attention is not None)
    for shown, left in ((first, 0.0), (second, first.picture.width + _GAP_PX)):
        if shown.attention is None:
            continue
        (x1, y1, x2, y2), (rows, columns) = shown.attention.box, shown.attention.scores.shape
        # One more place all around, as the outermost ones may end before the photo does, or beyond it.
        wide, high = (x2 - x1) / columns, (y2 - y1) / rows
        drawn = axes.imshow(
            np.pad(shown.attention.scores, 1, mode="edge"),
            extent=(left + x1 - wide, left + x2 + wide, y2 + high, y1 - high),
            cmap="magma",
            vmin=0.0,
            vmax=most,
            alpha=0.7,
            interpolation="bilinear",
        )
        drawn.set_clip_path(Rectangle((left, 0.0), *shown.picture.size, transform=axes.transData))
    axes.set_xlim(0, across)
    axes.set_ylim(height, 0)
