"""The picture of a comparison of recipes: a dot and an interval each."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from cnnimretrieval.evaluation.paired import Difference
from groundwork.files import atomic_path


def plot(differences: Mapping[str, Difference], first: str, path: Path) -> None:
    """Draw how much each recipe scores above the `first`, with its 95 % interval, the best at the top."""
    if not differences:
        return
    names = sorted(differences, key=lambda name: differences[name].mean)
    figure = Figure(figsize=(7, 1 + 0.35 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for height, name in enumerate(names):
        found = differences[name]
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [height, height], color="tab:gray", linewidth=2)
        axes.plot(found.mean, height, "o", color=_colour(found))
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.margins(y=0.5 / len(names))
    axes.set_xlabel(f"mAP of details above {first}; green or red: the interval leaves 0 out")
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, format="svg", metadata={"Date": None})


def _colour(found: Difference) -> str:
    """Of the dot: whether the recipe gains, loses, or neither beyond chance."""
    if not found.beyond_chance:
        return "tab:gray"
    return "tab:green" if found.mean > 0.0 else "tab:red"
