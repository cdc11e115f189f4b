"""The counts and scores of a run, in WORK/metrics.json: what other programs read."""

from pathlib import Path

from cnnimretrieval.training.result import Row, RowScores, TrainSummary
from experiments.counts import Mining, Reconstruction
from groundwork.files import write_json
from groundwork.settings import Values

FILE = "metrics.json"


class Metrics(Values):
    """Everything a run has counted and scored; `evaluation` is on the held-out places, one entry a row."""

    sfm: Reconstruction
    pairs: Mining
    train: TrainSummary
    evaluation: dict[Row, RowScores]


def save(metrics: Metrics, work: Path) -> Path:
    """Write WORK/metrics.json, whole or not at all."""
    path = work / FILE
    write_json(path, metrics.model_dump(mode="json"))
    return path


def load(work: Path) -> Metrics:
    """The metrics that `save` wrote."""
    return Metrics.load(work / FILE)
