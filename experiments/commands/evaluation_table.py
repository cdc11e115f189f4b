"""The result of an evaluation as plain values for JSON and as a table for a terminal."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cnnimretrieval.evaluation.evaluate import Evaluation
from cnnimretrieval.evaluation.metrics import Scores


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """The means, what they were measured on and how, and the numbers of every query.

    A benchmark with one protocol has its means at the top, another one has them by protocol in `protocols`;
    so it is for the numbers of a query in `per_query`, which are null where it has no positives.
    """
    benchmark, config, scored = evaluation.benchmark, evaluation.config, evaluation.scored
    by_protocol = {protocol: _means(scores) for protocol, scores in scored.scores.items()}
    means = by_protocol[""] if list(by_protocol) == [""] else {"protocols": by_protocol}
    assert config.extraction is not None
    return means | {
        "benchmark": benchmark.name,
        "photos": len(benchmark.database) - len(evaluation.unreadable),
        "published_photos": benchmark.published_size,
        "ground_truth": dict(benchmark.told),
        "distractors": evaluation.num_distractors,
        "unreadable": len(evaluation.unreadable),
        "unreadable_photos": dict(evaluation.unreadable),
        "uncropped": evaluation.uncropped,
        "depth": benchmark.depth,
        "truncated_to": scored.truncated_to,
        "positives_not_ranked": scored.num_not_ranked,
        "rerank": config.rerank.model_dump(mode="json", exclude_none=True),
        "extraction": config.extraction.model_dump(mode="json"),
        "whiten": config.whiten,
        "per_query": [_query(evaluation, index) for index in range(len(benchmark.queries))],
    }


def as_table(evaluation: Evaluation) -> str:
    """Lines of name and value, a column a protocol, then what sets this evaluation apart from the usual."""
    by_protocol = {protocol: _means(scores) for protocol, scores in evaluation.scored.scores.items()}
    lines = [] if list(by_protocol) == [""] else [_line("", list(by_protocol))]
    for name in next(iter(by_protocol.values())):
        lines.append(_line(name, [_shown(means[name]) for means in by_protocol.values()]))
    lines.append(_line("photos", [_shown(len(evaluation.benchmark.database) - len(evaluation.unreadable))]))
    lines.append(_line("unreadable", [_shown(len(evaluation.unreadable))]))
    if evaluation.num_distractors:
        lines.append(_line("distractors", [_shown(evaluation.num_distractors)]))
    return "\n".join([*lines, *_remarks(evaluation)])


def _means(scores: Scores) -> dict[str, float | int]:
    at_k = {
        f"{name}_{k}": float(value)
        for name, values in (("precision_at", scores.mean_precision), ("recall_at", scores.mean_recall))
        for k, value in zip(scores.cutoffs, values, strict=True)
    }
    return {"map": scores.mean_average_precision, **at_k, "queries": scores.num_scored}


def _query(evaluation: Evaluation, index: int) -> dict[str, Any]:
    query, scores = evaluation.benchmark.queries[index], evaluation.scored.scores
    numbers = {protocol: _of_query(its_scores, index) for protocol, its_scores in scores.items()}
    box = {} if query.box is None or evaluation.uncropped else {"box": list(query.box)}
    found = numbers[""] if list(numbers) == [""] else {"protocols": numbers}
    return {"query": query.name, **box, **found}


def _of_query(scores: Scores, index: int) -> dict[str, float | None]:
    def at_k(name: str, values: Float[np.ndarray, " k"]) -> dict[str, float | None]:
        return {f"{name}_{k}": _known(value) for k, value in zip(scores.cutoffs, values, strict=True)}

    return {
        "average_precision": _known(scores.average_precision[index]),
        **at_k("precision_at", scores.precision[index]),
        **at_k("recall_at", scores.recall[index]),
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _remarks(evaluation: Evaluation) -> list[str]:
    benchmark, scored = evaluation.benchmark, evaluation.scored
    photos = len(benchmark.database)
    remarks = []
    if benchmark.depth is not None:
        remarks.append(f"map is mAP@{benchmark.depth}")
    if evaluation.uncropped:
        remarks.append("uncropped: queries with boxes were searched with as whole photos")
    for step, settings in evaluation.config.rerank.model_dump(mode="json", exclude_none=True).items():
        remarks.append(
            f"re-ranked by {step}: {', '.join(f'{key} {value}' for key, value in settings.items())}"
        )
    if scored.truncated_to is not None:
        remarks.append(
            f"truncated: rankings end after {scored.truncated_to:,} of "
            f"{photos - len(evaluation.unreadable) + evaluation.num_distractors:,} photos; "
            f"{scored.num_not_ranked:,} positives beyond count as never found"
        )
    if benchmark.told:
        remarks.append(
            f"ground truth: {'; '.join(f'{count:,} {what}' for what, count in benchmark.told.items())}"
        )
    if benchmark.published_size not in (None, photos):
        remarks.append(
            f"incomplete: {photos:,} photos where {benchmark.published_size:,} were published; "
            "do not compare with published scores"
        )
    return remarks


def _shown(value: float | int) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:<14}{''.join(f'{cell:>10}' for cell in cells)}"
