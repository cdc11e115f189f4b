"""Where a reconstruction runs: in processes of this machine, or on a Dask cluster."""

import math
import re
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from experiments.exit_codes import UsageFault
from groundwork.child import preload
from groundwork.cluster import ClusterExecutor
from groundwork.executors import LocalExecutor

# [PROTOCOL://]HOST:PORT, the host a name, an IPv4 address, or an IPv6 address in brackets.
_ADDRESS = re.compile(r"(?:[a-z]+://)?(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+):[0-9]{1,5}/?")


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
        if self.memory_gb is not None and not math.isfinite(self.memory_gb):
            raise UsageFault(
                f"--memory-gb: expected a number, got {self.memory_gb:g}; leave it out to use what is left"
            )
        if self.scheduler is not None and not _ADDRESS.fullmatch(self.scheduler):
            raise UsageFault(
                f"--scheduler: expected an address as tcp://host:8786, got '{self.scheduler}'; "
                "take the one that 'dask scheduler' prints"
            )
        if self.scheduler is not None and find_spec("distributed") is None:
            raise UsageFault(
                "--scheduler: expected the package distributed, got none; "
                "pip install 'cnnimretrieval[cluster]'"
            )
        if self.scheduler is not None and self.memory_gb is not None:
            raise UsageFault(
                f"--memory-gb: expected no limit for a cluster, got {self.memory_gb:g}; "
                "give it to the workers as --memory-limit of 'dask worker'"
            )

    def open(self, photos: Path, out: Path, modules: Sequence[str] = ()) -> Executor:
        """The executor, for a `with` block; `photos` and `out` are what its workers must see.

        Tasks need these modules, or none: those of a reconstruction.
        """
        if not modules:
            # These take a second to load, which --help need not wait for.
            from cnnimretrieval.descriptors import reading
            from sfm.reconstruct import PRELOAD

            modules = (*PRELOAD, reading.__name__, *reading.EDITS)
        preload(*modules)
        if self.scheduler is not None:
            return ClusterExecutor(self.scheduler, photos, out)
        memory_bytes = None if self.memory_gb is None else round(self.memory_gb * 1e9)
        return LocalExecutor(self.workers, memory_bytes)
