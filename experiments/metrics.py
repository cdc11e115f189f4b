"""The counts and scores of a run, in WORK/metrics.json: what other programs read."""

from pathlib import Path
from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from cnnimretrieval.training.proof.rows import Row
from cnnimretrieval.training.result import RowScores, TrainSummary
from experiments.counts import Mining, Reconstruction
from experiments.rounds import Round
from groundwork.files import write_json
from groundwork.settings import Values

FILE = "metrics.json"


class Metrics(Values):
    """Everything a run has counted and scored; `evaluation` is on the held-out places, one entry a row.

    `rounds` are there where more than one was asked for; the others then tell of the last.
    """

    sfm: Reconstruction
    pairs: Mining
    train: TrainSummary
    evaluation: dict[Row, RowScores]
    rounds: tuple[Round, ...] = ()

    @model_serializer(mode="wrap")
    def _without_no_rounds(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        told: dict[str, Any] = plain(self)
        return told if self.rounds else {name: told[name] for name in told if name != "rounds"}


def save(metrics: Metrics, work: Path) -> Path:
    """Write WORK/metrics.json, whole or not at all."""
    path = work / FILE
    write_json(path, metrics.model_dump(mode="json"))
    return path


def load(work: Path) -> Metrics:
    """The metrics that `save` wrote."""
    return Metrics.load(work / FILE)
