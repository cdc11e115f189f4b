"""Where a reconstruction runs: in processes of this machine, or on a Dask cluster."""

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from experiments.commands.exit_codes import UsageFault
from groundwork.cluster import ClusterExecutor
from groundwork.executors import LocalExecutor


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What a person said about it; nothing here changes a result.

    Attributes:
        workers: processes at a time on this machine.
        memory_gb: for all of them together; None: what is left.
        scheduler: address of a Dask scheduler, whose workers then do all.

    """

    workers: int
    memory_gb: float | None = None
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if self.scheduler is not None and self.memory_gb is not None:
            raise UsageFault(
                f"--memory-gb: expected no limit for a cluster, got {self.memory_gb:g}; "
                "give it to the workers as --memory-limit of 'dask worker'"
            )

    def open(self, photos: Path, out: Path) -> Executor:
        """The executor, for a `with` block; `photos` and `out` are what its workers must see."""
        if self.scheduler is not None:
            return ClusterExecutor(self.scheduler, photos, out)
        memory_bytes = None if self.memory_gb is None else round(self.memory_gb * 1e9)
        return LocalExecutor(self.workers, memory_bytes)
