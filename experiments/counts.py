"""What the stages before training counted, as far as a run reports it; read without waiting for torch."""

from pathlib import Path
from typing import Self

from pydantic import ConfigDict

from groundwork.settings import Settings
from sfm.outcome import ReconstructCounts


class _Counts(Settings):
    # A stage counts more than a run reports.
    model_config = ConfigDict(extra="ignore")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The counts in the stats.json that a stage left in `folder`."""
        return cls.load(folder / "stats.json")


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
