"""What training leaves in its folder for readers: scores, the row that is kept, rankings, the last tuples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from cnnimretrieval.evaluation.heldout import Gain, HeldoutTest, KindScores, Proof, gain
from cnnimretrieval.evaluation.metrics import MIN_PLACES
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.batches import Examples
from cnnimretrieval.training.checkpoint import EpochLog, Progress
from cnnimretrieval.whitening.apply import Whitening
from groundwork.files import read_json, write_json, write_table
from groundwork.settings import Settings

Row = Literal[
    "off_the_shelf",
    "off_the_shelf_pca",
    "off_the_shelf_whitened",
    "fine_tuned",
    "fine_tuned_loss_whitening",
    "fine_tuned_whitened",
]
_METRICS = "metrics.json"


class RowScores(KindScores):
    """What a row reaches: with the kind of query that decides, and with each kind there is."""

    crop: KindScores | None = None
    whole: KindScores | None = None

    @model_serializer(mode="wrap")
    def _without_absent_kinds(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


class TrainSummary(Settings):
    """How a training went."""

    backbone: str
    pooling: str
    kept: Row
    verdict: str
    gain: Gain = Field(description="of fine_tuned_whitened over off_the_shelf_pca")
    gain_by_training: Gain = Field(
        description="of fine_tuned_whitened over off_the_shelf_whitened: the same whitening, learned anew"
    )
    epochs: tuple[EpochLog, ...]
    seconds: float
    missing_negatives: int
    precision: str = Field(default="", description="of the activations while learning, and why")
    whitening: dict[Row, str] = Field(description="in one line what each was estimated from")


class TrainResult(Settings):
    """What training reached, the content of metrics.json; `kept` is the row that the folder holds."""

    kept: Row
    train: TrainSummary
    evaluation: dict[Row, RowScores]


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A network as it could be handed out, and what it reaches.

    `whitening` was estimated from the descriptors of `whitened_as`.
    """

    network: RetrievalNetwork
    whitening: Whitening | None
    whitened_as: RetrievalNetwork
    proof: Proof


def judge(
    candidates: Mapping[Row, Candidate],
    test: HeldoutTest,
    keep: Row | Literal["best"],
    progress: Progress,
    *,
    held_out: bool,
) -> TrainResult:
    """Compare the candidates by the test's first kind of query, and say which one is `keep`.

    The best is chosen by the very scores that are reported, which flatters it a little.
    """
    decisive = test.kinds[0]
    # The first of equals: what was simpler to get.
    best = max(candidates, key=lambda row: candidates[row].proof.scores[decisive].map)
    kept = best if keep == "best" else keep
    ours = candidates["fine_tuned_whitened"].proof
    over = gain(test, ours, candidates["off_the_shelf_pca"].proof)
    by_training = gain(test, ours, candidates["off_the_shelf_whitened"].proof)
    network = candidates["fine_tuned"].network.config
    summary = TrainSummary(
        backbone=network.backbone,
        pooling=network.pooling,
        kept=kept,
        verdict=_verdict(kept, best, over, by_training, held_out=held_out),
        gain=over,
        gain_by_training=by_training,
        epochs=progress.logs,
        seconds=round(sum(log.seconds for log in progress.logs), 1),
        missing_negatives=sum(log.missing_negatives for log in progress.logs),
        whitening={row: one.whitening.note for row, one in candidates.items() if one.whitening is not None},
    )
    evaluation = {row: _row_scores(candidates[row].proof, decisive) for row in candidates}
    return TrainResult(kept=kept, train=summary, evaluation=evaluation)


def _row_scores(proof: Proof, decisive: str) -> RowScores:
    return RowScores.model_validate({**proof.scores[decisive].model_dump(), **proof.scores})


def _verdict(kept: Row, best: Row, over: Gain, by_training: Gain, *, held_out: bool) -> str:
    found = (
        f"fine-tuning with learned whitening is {over} on {over.kind} queries over off the shelf with PCA "
        f"whitening, and {by_training} over off the shelf with learned whitening"
    )
    if over.places < MIN_PLACES:
        found += f", which proves nothing: at least {MIN_PLACES} places are needed"
    if not held_out:
        found += ", measured on the one place that was trained on: nothing was held out"
    if kept == "fine_tuned_whitened":
        return found
    which = "the best of all rows" if kept == best else "as the settings say"
    return f"{found}; {which}, {kept.replace('_', ' ')}, is kept"


def write_result(out: Path, result: TrainResult, candidates: Mapping[Row, Candidate]) -> None:
    """Write metrics.json, and rankings.parquet with the rankings of every candidate."""
    rankings = [candidates[row].proof.rankings.assign(row=row) for row in candidates]
    write_table(out / "rankings.parquet", pd.concat(rankings, ignore_index=True))
    write_json(out / _METRICS, result.model_dump(mode="json"))


def read_result(out: Path) -> TrainResult:
    """What `write_result` wrote."""
    return TrainResult.model_validate(read_json(out / _METRICS))


def write_tuples(out: Path, names: Sequence[str], epoch: int, examples: Examples) -> None:
    """Write the examples of an epoch with names to tuples.parquet, in place of those of the epoch before.

    Those of the first epoch stay in tuples-first.parquet. Of more positives than one, the first.
    """
    boxes = [request.box for request in examples.requests]
    frame = pd.DataFrame(
        {
            "epoch": epoch,
            "query": [names[row] for row in examples.rows[:, 0]],
            **{
                edge: [np.nan if box is None else box[number] for box in boxes]
                for number, edge in enumerate(("x1", "y1", "x2", "y2"))
            },
            "positive": [names[row] for row in examples.rows[:, 1]],
            "negatives": [[names[row] for row in rows if row >= 0] for rows in examples.negatives],
        }
    )
    if epoch == 1:
        write_table(out / "tuples-first.parquet", frame)
    write_table(out / "tuples.parquet", frame)
