"""Figures of the page as data URIs: models from above, curves of training, geometry of the positives."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.thumbnails import data_uri
from experiments.report.upright import Upright

# Legible on light and on dark ground, as the figures have none of their own.
INK = "#7b8494"
BLUE, ORANGE, GREEN, RED = "#3b82f6", "#f08c3a", "#2fa36b", "#d9534f"
# The scores of an epoch: colour and label.
_SCORES = {
    "map_crop": (ORANGE, "crop queries"),
    "map_retaken": (GREEN, "retaken crops"),
    "map_far": (RED, "crops, far views only"),
    "map_whole": (BLUE, "whole photos"),
}


def model_figure(view: Upright) -> str:
    """One model from above: points coloured by height, cameras as arrows, short if they look up or down."""
    figure = Figure(figsize=(2.5, 2.5), dpi=110)
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    x, y, heights = view.points.T
    low, high = np.quantile(heights, (0.02, 0.98)) if len(heights) else (0.0, 1.0)
    axes.scatter(x, y, s=1.6, c=heights, cmap="viridis", vmin=low, vmax=high, linewidths=0)
    axes.quiver(
        *view.centres[:, :2].T,
        *view.rotations[:, 2, :2].T,
        color=ORANGE,
        scale=14,
        width=0.011,
        headwidth=3.2,
        headlength=3.6,
    )
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.08)
    axes.axis("off")
    return _png(figure)


def training_figure(epochs: Sequence[Mapping[str, Any]]) -> str:
    """Loss of each epoch, how far its hard negatives were, and mAP of the held-out queries after it."""
    mined = [epoch for epoch in epochs if epoch.get("negative_distance") is not None]
    figure = Figure(figsize=(11.2 if mined else 8.4, 2.9))
    loss_axes, *middle, map_axes = figure.subplots(1, 3 if mined else 2)
    for axes in middle:
        axes.plot([e["epoch"] for e in mined], [e["negative_distance"] for e in mined], "o-", color=ORANGE)
        axes.set_ylabel("distance of hard negatives")
    trained = [epoch for epoch in epochs if epoch.get("loss") is not None]
    loss_axes.plot([e["epoch"] for e in trained], [e["loss"] for e in trained], "o-", color=BLUE)
    loss_axes.set_ylabel("training loss")
    scores = [(epoch["epoch"], _map_scores(epoch)) for epoch in epochs]
    kinds = [kind for kind in _SCORES if any(kind in found for _, found in scores)]
    for kind in kinds:
        points = [(number, found[kind]) for number, found in scores if kind in found]
        colour, label = _SCORES[kind]
        map_axes.plot(*zip(*points, strict=True), "o-", color=colour, label=label)
    map_axes.set_ylabel("mAP, held-out places")
    if kinds:
        _legend_beside(map_axes)
    for axes in (loss_axes, *middle, map_axes):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        _quiet(axes)
    figure.tight_layout(w_pad=3)
    return _svg(figure)


def size_figure(curve: Sequence[Mapping[str, Any]]) -> str:
    """MAP of each kind of query over what a photo costs, a point for each size of photos."""
    # As wide as the curves of training, so that letters are as large.
    figure = Figure(figsize=(11.2, 2.9))
    axes = figure.add_subplot()
    cost = [point["seconds_per_photo"] * 1e3 for point in curve]
    for kind, (colour, label) in _SCORES.items():
        scores = [point["map"].get(kind.removeprefix("map_")) for point in curve]
        if None not in scores:
            axes.plot(cost, scores, "o-", color=colour, label=label)
    axes.set_xscale("log")
    labels = [f"{ms:.0f} ms\n{point['image_size']} px" for point, ms in zip(curve, cost, strict=True)]
    axes.set_xticks(cost, labels)
    axes.minorticks_off()
    axes.set_xlabel("processor time a photo, longest side")
    axes.set_ylabel("mAP, places to choose by")
    _legend_beside(axes)
    _quiet(axes)
    figure.tight_layout()
    return _svg(figure)


def query_figure(before: Sequence[float], after: Sequence[float]) -> str:
    """Each held-out query as a point: its average precision off the shelf and after training."""
    figure = Figure(figsize=(4.2, 3.9))
    axes = figure.add_subplot()
    rose = np.asarray(after) >= np.asarray(before)
    for chosen, colour in ((rose, GREEN), (~rose, ORANGE)):
        axes.scatter(np.asarray(before)[chosen], np.asarray(after)[chosen], s=9, color=colour, alpha=0.6)
    axes.plot((0, 1), (0, 1), color=INK, linewidth=0.8)
    axes.set_xlabel("average precision off the shelf")
    axes.set_ylabel("after training")
    axes.set_aspect("equal")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    _quiet(axes)
    figure.tight_layout()
    return _png(figure)


def geometry_figure(positives: pd.DataFrame) -> str:
    """How the positives differ from their queries: overlap, change of scale, angle between the axes."""
    figure = Figure(figsize=(8.4, 2.3))
    columns = (("overlap", "overlap"), ("scale_change", "scale change"), ("angle_deg", "angle, degrees"))
    for axes, (column, label), colour in zip(
        figure.subplots(1, 3), columns, (BLUE, ORANGE, GREEN), strict=True
    ):
        values = positives[column].to_numpy(dtype=float)
        axes.hist(values[np.isfinite(values)], bins=24, color=colour, alpha=0.85)
        axes.set_xlabel(label)
        _quiet(axes)
    figure.tight_layout(w_pad=2)
    return _svg(figure)


def _map_scores(epoch: Mapping[str, Any]) -> dict[str, float]:
    found = epoch.get("validation") or {key: epoch[key] for key in ("map",) if key in epoch}
    return {kind: value for kind, value in found.items() if value is not None}


def _legend_beside(axes: Axes) -> None:
    """The legend at the right of the curves, wherever these are."""
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _quiet(axes: Axes) -> None:
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(alpha=0.25, color=INK, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)


def _png(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", transparent=True)
    return data_uri(stream.getvalue(), "image/png")


def _svg(figure: Figure) -> str:
    stream = io.BytesIO()
    # Without a date and with fixed ids the same run gives the same page.
    with rc_context({"svg.hashsalt": "report"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return data_uri(stream.getvalue(), "image/svg+xml")
