"""What training leaves in its folder for readers: scores, the row that is kept, rankings, the last tuples."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from cnnimretrieval.evaluation.heldout import Gain, KindScores, Proof, gain
from cnnimretrieval.evaluation.metrics import MIN_PLACES
from cnnimretrieval.evaluation.queries import SituationName
from cnnimretrieval.training.learning.batches import Examples
from cnnimretrieval.training.proof.rows import Candidate, Row
from cnnimretrieval.training.proof.size_curve import SizePoint
from cnnimretrieval.training.safeguards.checkpoint import EpochLog, Progress
from groundwork.descriptor_folder import BOX
from groundwork.files import write_json, write_table
from groundwork.settings import Values

_METRICS = "metrics.json"


class SituationScores(Values):
    """What a row reaches in one situation, with each kind of query there is."""

    crop: KindScores | None = Field(default=None, description="details, tilted and relit")
    retaken: KindScores | None = Field(default=None, description="details, as another camera takes them")
    far: KindScores | None = Field(default=None, description="crops that must find far views only")
    whole: KindScores | None = Field(default=None, description="whole photos")

    @model_serializer(mode="wrap")
    def _without_absent_kinds(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


class RowScores(KindScores, SituationScores):
    """What a row reaches: with the kind of query that decides, and with each kind there is.

    These are of the first situation there is; `situations` has all.
    """

    situations: dict[SituationName, SituationScores] = Field(default_factory=dict)


class TrainSummary(Values):
    """How a training went."""

    backbone: str
    pooling: str
    image_size: int | None = Field(
        default=None, description="longest side in px at which everything was described and proved"
    )
    kept: Row
    verdict: str
    chosen_on: Literal["places set aside", "reported places"] = Field(
        default="reported places", description="what the row that is kept was chosen by"
    )
    gain: Gain = Field(description="of fine_tuned_whitened over off_the_shelf_pca")
    gain_by_training: Gain = Field(
        description="of fine_tuned_whitened over off_the_shelf_whitened: the same whitening, learned anew"
    )
    initial_share: float = Field(
        default=0.0, description="of the initial weights in those of the fine-tuned network"
    )
    epochs: tuple[EpochLog, ...]
    seconds: float = Field(
        default=0.0,
        description="of the call that ended the training, with all that it described, whitened and proved; "
        "`epochs` have what learning took, in calls that were stopped, too",
    )
    missing_negatives: int
    precision: str = Field(default="", description="of the activations while learning, and why")
    curve: tuple[SizePoint, ...] = Field(
        default=(), description="the network that is kept at other sizes of photos, where asked for"
    )
    whitening: dict[Row, str] = Field(description="in one line what each was estimated from")


class TrainResult(Values):
    """What training reached, the content of metrics.json; `kept` is the row that the folder holds."""

    kept: Row
    train: TrainSummary
    evaluation: dict[Row, RowScores]


def judge(
    candidates: Mapping[Row, Candidate],
    keep: Row | Literal["best"],
    progress: Progress,
    *,
    image_size: int,
    initial_share: float,
) -> TrainResult:
    """Compare the candidates, and say which one is `keep`; the best is that of places set aside for choosing.

    Where none could be set aside the reported scores choose, which flatters the chosen row a little.
    """
    # The first of equals: what was simpler to get.
    best = max(candidates, key=lambda row: candidates[row].score)
    kept = best if keep == "best" else keep
    reported = {row: one.reported[0] for row, one in candidates.items()}
    over = gain(reported["fine_tuned_whitened"], reported["off_the_shelf_pca"])
    by_training = gain(reported["fine_tuned_whitened"], reported["off_the_shelf_whitened"])
    network = candidates["fine_tuned"].network.config
    set_aside = bool(candidates[kept].choosing)
    summary = TrainSummary(
        backbone=network.backbone,
        pooling=network.pooling,
        image_size=image_size,
        kept=kept,
        verdict=_verdict(kept, best, over, by_training, reported[kept], set_aside=set_aside),
        chosen_on="places set aside" if set_aside else "reported places",
        gain=over,
        gain_by_training=by_training,
        initial_share=initial_share,
        epochs=progress.logs,
        missing_negatives=sum(log.missing_negatives for log in progress.logs),
        whitening={
            row: one.whitened.handed_out.note for row, one in candidates.items() if one.whitened is not None
        },
    )
    evaluation = {row: _row_scores(one.reported) for row, one in candidates.items()}
    return TrainResult(kept=kept, train=summary, evaluation=evaluation)


def _row_scores(proofs: Sequence[Proof]) -> RowScores:
    situations = {proof.situation: SituationScores.model_validate(proof.scores) for proof in proofs}
    first = proofs[0].scores
    return RowScores.model_validate(
        {**first[proofs[0].decisive].model_dump(), **first, "situations": situations}
    )


def _verdict(kept: Row, best: Row, over: Gain, by_training: Gain, reported: Proof, *, set_aside: bool) -> str:
    found = (
        f"fine-tuning with learned whitening is {over} on {over.kind} queries over off the shelf with PCA "
        f"whitening, and {by_training} over off the shelf with learned whitening"
    )
    if over.places < MIN_PLACES:
        found += f", which proves nothing: at least {MIN_PLACES} places are needed"
    if reported.situation == "own_places":
        found += ", measured on the one place that was trained on: nothing was held out"
    if kept == "fine_tuned_whitened":
        return found
    which = "as the settings say"
    if kept == best:
        which = "the best of all rows" + (" on the places set aside for choosing" if set_aside else "")
    return f"{found}; {which}, {kept.replace('_', ' ')}, is kept"


def write_result(out: Path, result: TrainResult, candidates: Mapping[Row, Candidate]) -> None:
    """Write metrics.json, and rankings.parquet with the rankings of every candidate."""
    rankings = [candidates[row].rankings.assign(row=row) for row in candidates]
    write_table(out / "rankings.parquet", pd.concat(rankings, ignore_index=True))
    write_json(out / _METRICS, result.model_dump(mode="json"))


def read_result(out: Path) -> TrainResult:
    """What `write_result` wrote."""
    return TrainResult.load(out / _METRICS)


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
                for number, edge in enumerate(BOX)
            },
            "positive": [names[row] for row in examples.rows[:, 1]],
            "negatives": [[names[row] for row in rows if row >= 0] for rows in examples.negatives],
        }
    )
    if epoch == 1:
        write_table(out / "tuples-first.parquet", frame)
    write_table(out / "tuples.parquet", frame)
