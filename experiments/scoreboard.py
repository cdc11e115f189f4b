"""The rows of the proof as a table for a terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cnnimretrieval.evaluation.metrics import MIN_PLACES

if TYPE_CHECKING:  # they come with torch, which a report does without
    from cnnimretrieval.evaluation.heldout import KindScores
    from cnnimretrieval.training.proof.rows import Row
    from cnnimretrieval.training.result import RowScores, SituationScores

# In the order of the experiment; not every run has every row.
ROWS: Mapping[str, str] = {
    "off_the_shelf": "off the shelf",
    "off_the_shelf_pca": "off the shelf + PCA whitening",
    "off_the_shelf_whitened": "off the shelf + learned whitening",
    "fine_tuned": "fine-tuned",
    "fine_tuned_loss_whitening": "fine-tuned + the loss's whitening",
    "fine_tuned_whitened": "fine-tuned + learned whitening",
}
# The kinds of query, the one that decides first; not every run has every kind.
KINDS: Mapping[str, str] = {
    "crop": "crop queries",
    "retaken": "retaken crops",
    "far": "crops, far views only",
    "whole": "whole photos",
}
# What is searched, for what: see cnnimretrieval.evaluation.queries.
SITUATIONS: Mapping[str, str] = {
    "unseen_database": "unseen photos",
    "own_collection": "own photos",
    "own_places": "for own places",
}
_WIDTH = max(map(len, ROWS.values()))


def as_table(evaluation: "Mapping[Row, RowScores]", kept: "Row") -> str:
    """For each row mAP and recall at 1, means over places, by kind of query; a star marks `kept`."""
    first = _by_kind(next(iter(evaluation.values())))
    counts = [
        f"{kind}: {scores.queries:,} queries, {scores.places:,} places" for kind, scores in first.items()
    ]
    heads = [f"{kind} mAP  R@1" for kind in first]
    lines = [
        f"held-out places, searched among photos that nothing was fitted to ({'; '.join(counts)})",
        "  ".join([" " * (_WIDTH + 2), *(f"{head:>15}" for head in heads)]),
    ]
    for row in sorted(evaluation, key=list(ROWS).index):
        cells = [f"{one.map:9.4f}{one.recall_at_1:6.2f}" for one in _by_kind(evaluation[row]).values()]
        lines.append("  ".join([f"{'*' if row == kept else ' '} {ROWS[row]:<{_WIDTH}}", *cells]))
    lines += _situations(evaluation, kept)
    places = min((scores.places for scores in first.values()), default=0)
    if places < MIN_PLACES:
        lines.append(
            f"too few places to say which row is better: {places:,}, at least {MIN_PLACES} are needed"
        )
    return "\n".join(lines)


def _situations(evaluation: "Mapping[Row, RowScores]", kept: "Row") -> list[str]:
    """The first kind of query in every situation, where there is more than one."""
    names = [name for name in SITUATIONS if name in evaluation[kept].situations]
    if len(names) < 2:
        return []
    kind = next(iter(_by_kind(evaluation[kept])))
    lines = [
        f"{kind} mAP, searched among ...",
        "  ".join([" " * (_WIDTH + 2), *(f"{SITUATIONS[name]:>15}" for name in names)]),
    ]
    for row in sorted(evaluation, key=list(ROWS).index):
        of_row = evaluation[row].situations
        cells = [f"{_by_kind(of_row[name])[kind].map:15.4f}" for name in names]
        lines.append("  ".join([f"{'*' if row == kept else ' '} {ROWS[row]:<{_WIDTH}}", *cells]))
    return lines


def _by_kind(scores: "SituationScores") -> "dict[str, KindScores]":
    kinds = {kind: getattr(scores, kind) for kind in KINDS}
    return {kind: found for kind, found in kinds.items() if found is not None}
