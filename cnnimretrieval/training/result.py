"""What training leaves in its folder for readers: scores, the row that is kept, rankings, the last tuples."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from cnnimretrieval.evaluation.heldout import Gain, HeldoutTest, Proof, gain
from cnnimretrieval.evaluation.metrics import MIN_PLACES
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.checkpoint import Progress
from cnnimretrieval.training.tuples import Tuples
from cnnimretrieval.whitening.apply import Whitening
from groundwork.files import read_json, write_json, write_table

Row = Literal["off_the_shelf", "off_the_shelf_pca", "fine_tuned", "fine_tuned_whitened"]
_METRICS = "metrics.json"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What training reached: the content of metrics.json, and which row the folder holds."""

    kept: Row
    train: Mapping[str, Any]
    evaluation: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A network as it could be handed out, and what it reaches."""

    network: RetrievalNetwork
    whitening: Whitening | None
    proof: Proof


def judge(
    candidates: Mapping[Row, Candidate],
    test: HeldoutTest,
    keep: Row | Literal["best"],
    progress: Progress,
    *,
    held_out: bool,
) -> TrainResult:
    """Compare the four candidates by the test's first kind of query, and say which one is `keep`."""
    decisive = test.kinds[0]
    # The first of equals: what was simpler to get.
    best = max(candidates, key=lambda row: candidates[row].proof.scores[decisive].map)
    kept = best if keep == "best" else keep
    over = gain(test, candidates["fine_tuned_whitened"].proof, candidates["off_the_shelf_pca"].proof)
    network = candidates["fine_tuned"].network.config
    return TrainResult(
        kept=kept,
        train={
            "backbone": network.backbone,
            "pooling": network.pooling,
            "kept": kept,
            "verdict": _verdict(kept, best, over, held_out=held_out),
            "gain": over.model_dump(),
            "epochs": [log.model_dump() for log in progress.logs],
            "seconds": round(sum(log.seconds for log in progress.logs), 1),
            "missing_negatives": sum(log.missing_negatives for log in progress.logs),
            "whitening": {
                row: found.note for row in candidates if (found := candidates[row].whitening) is not None
            },
        },
        evaluation={row: _row_scores(candidates[row].proof, decisive) for row in candidates},
    )


def _row_scores(proof: Proof, decisive: str) -> dict[str, Any]:
    scores = {kind: proof.scores[kind].model_dump() for kind in proof.scores}
    return {**scores[decisive], **scores}


def _verdict(kept: Row, best: Row, over: Gain, *, held_out: bool) -> str:
    found = (
        f"fine-tuning with learned whitening is {over} on {over.kind} queries "
        "over off the shelf with PCA whitening"
    )
    if over.places < MIN_PLACES:
        found += f", which proves nothing: at least {MIN_PLACES} places are needed"
    if not held_out:
        found += ", measured on the one place that was trained on: nothing was held out"
    if kept == "fine_tuned_whitened":
        return found
    which = "the best of the four rows" if kept == best else "as the settings say"
    return f"{found}; {which}, {kept.replace('_', ' ')}, is kept"


def write_result(out: Path, result: TrainResult, candidates: Mapping[Row, Candidate]) -> None:
    """Write metrics.json, and rankings.parquet with the rankings of every candidate."""
    rankings = [candidates[row].proof.rankings.assign(row=row) for row in candidates]
    write_table(out / "rankings.parquet", pd.concat(rankings, ignore_index=True))
    write_json(out / _METRICS, asdict(result))


def read_result(out: Path) -> TrainResult:
    """What `write_result` wrote."""
    return TrainResult(**read_json(out / _METRICS))


def write_tuples(out: Path, names: Sequence[str], epoch: int, tuples: Tuples) -> None:
    """Write the tuples of an epoch with names to tuples.parquet, in place of those of the epoch before."""
    boxes = [request.box for request in tuples.requests]
    frame = pd.DataFrame(
        {
            "epoch": epoch,
            "query": [names[row] for row in tuples.query],
            **{
                edge: [np.nan if box is None else box[number] for box in boxes]
                for number, edge in enumerate(("x1", "y1", "x2", "y2"))
            },
            "positive": [names[row] for row in tuples.positive],
            "negatives": [[names[row] for row in rows if row >= 0] for rows in tuples.negatives],
        }
    )
    write_table(out / "tuples.parquet", frame)
