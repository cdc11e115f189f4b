"""The counts and scores of a run, in WORK/metrics.json: what other programs read."""

from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict

from groundwork.files import read_json, write_json
from groundwork.settings import Values
from sfm.outcome import ReconstructCounts

FILE = "metrics.json"


class _Counts(Values):
    # A stage counts more than a run reports.
    model_config = ConfigDict(extra="ignore")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The counts in the stats.json that a stage left in `folder`."""
        return cls.model_validate(read_json(folder / "stats.json"))


class Reconstruction(ReconstructCounts, _Counts):
    """Files found, and what became of them."""

    def __str__(self) -> str:
        unusable = f"{self.rejected:,} rejected, {self.duplicates:,} duplicates"
        found = f"{self.registered:,} of {self.images:,} photos registered ({unusable})"
        return f"{found}, {self.models:,} models of {self.places:,} places"


class Mining(_Counts):
    """Training material that geometry proves."""

    queries: int
    positives: int
    clusters: int
    places: int
    seconds: float

    def __str__(self) -> str:
        found = f"{self.positives:,} positives of {self.queries:,} queries"
        return f"{found}, {self.clusters:,} clusters, {self.places:,} places"


class Metrics(Values):
    """Everything a run has counted and scored; `evaluation` is on the held-out places, one entry a row."""

    sfm: Reconstruction
    pairs: Mining
    train: dict[str, Any]
    evaluation: dict[str, Any]


def save(metrics: Metrics, work: Path) -> Path:
    """Write WORK/metrics.json, whole or not at all."""
    path = work / FILE
    write_json(path, metrics.model_dump(mode="json"))
    return path


def load(work: Path) -> Metrics:
    """The metrics that `save` wrote."""
    return Metrics.model_validate(read_json(work / FILE))
