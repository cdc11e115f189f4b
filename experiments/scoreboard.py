"""Scores as tables for a terminal: the four rows of the proof, and a benchmark's."""

from collections.abc import Mapping
from typing import Any

from cnnimretrieval.evaluation.benchmark import BenchmarkResult

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
    return "\n".join(lines)


def benchmark(result: BenchmarkResult) -> dict[str, Any]:
    """The scores of a benchmark as plain values, named as in a run's metrics."""
    scores = result.scores
    means = (("precision_at", scores.mean_precision), ("recall_at", scores.mean_recall))
    at_k = {
        f"{name}_{k}": float(value)
        for name, values in means
        for k, value in zip(scores.cutoffs, values, strict=True)
    }
    counts = {
        "queries": scores.num_scored,
        "photos": result.database_size,
        "unreadable": len(result.failures),
    }
    return {"map": scores.mean_average_precision, **at_k, **counts}


def benchmark_table(result: BenchmarkResult) -> str:
    """The same as lines of name and value."""
    plain = benchmark(result)
    return "\n".join(
        f"{name:<14}{f'{value:.4f}' if isinstance(value, float) else f'{value:,}':>10}"
        for name, value in plain.items()
    )
