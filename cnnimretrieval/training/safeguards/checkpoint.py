"""The state of a training, after an epoch or inside one: enough to go on as if it had never stopped."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import Field

from cnnimretrieval.distributed import is_first, wait
from groundwork.files import atomic_path
from groundwork.settings import Values

_VERSION = 1


class EpochLog(Values):
    """What one epoch did; `validation` has the scores on the held-out places after it."""

    epoch: int
    loss: float | None = None
    negative_distance: float | None = None
    missing_negatives: int = 0
    skipped_steps: int = Field(default=0, exclude_if=lambda steps: steps == 0)
    learning_rate: float | None = None
    seconds: float = 0.0
    validation: dict[str, float] = Field(default_factory=dict)


class Stateful(Protocol):
    """What a checkpoint holds a part of: a network, an optimiser."""

    def state_dict(self) -> Any:
        """All that it is, as tensors and plain values."""

    def load_state_dict(self, state: Any) -> Any:
        """Become what `state_dict` told."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training has come.

    Attributes:
        logs: one per finished epoch, that of the initial network first.
        begun: the state of an epoch after these that has begun, as plain values and tensors; else None.

    """

    logs: tuple[EpochLog, ...] = ()
    begun: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        """Which weights these are."""
        if self.begun is None:
            return f"after epoch {self.epoch}, the last sound one,"
        return f"inside epoch {self.epoch + 1}, the last that were kept,"

    @property
    def epoch(self) -> int:
        """Number of the last finished epoch; -1 before the initial network was scored."""
        return self.logs[-1].epoch if self.logs else -1


class Checkpoints:
    """The one file that a training goes on from, under the `key` of all that its weights hang on.

    `parts` are what learns and what moves it; loading changes them in place.
    """

    def __init__(self, path: Path, key: str, parts: Mapping[str, Stateful], *, minutes: float = 0.0) -> None:
        self.path = path
        self._key, self._parts = key, parts
        self._seconds, self._since = 60.0 * minutes, time.monotonic()
        self._latest = Progress()

    def __str__(self) -> str:
        """Which weights are kept, and where."""
        return f"weights {self._latest} are in {self.path}"

    @property
    def due(self) -> bool:
        """Whether the last one is as old as they may get."""
        return time.monotonic() - self._since >= self._seconds

    def save(self, progress: Progress) -> None:
        """Write everything that the rest hangs on, whole or not at all, as rank 0; OSError naming the file.

        No random state is kept after an epoch: each draws from a generator of its own, seeded by run and
        epoch.
        """
        if is_first():
            self._write(progress)
        self._since, self._latest = time.monotonic(), progress

    def _write(self, progress: Progress) -> None:
        state = {
            "version": _VERSION,
            "key": self._key,
            **{name: part.state_dict() for name, part in self._parts.items()},
            "logs": [log.model_dump(mode="json") for log in progress.logs],
            "begun": progress.begun,
        }
        # Not into the file: where a write fails, as at a full disk, torch may end the process.
        content = BytesIO()
        torch.save(state, content)
        try:
            with atomic_path(self.path) as unfinished:
                unfinished.write_bytes(content.getbuffer())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def load(self, *, most_epochs: int) -> Progress:
        """Put what is in the file into the parts; no progress when none was saved with this key.

        Neither when it is of more epochs than `most_epochs`: there is no way back from it.
        """
        content = self.path.read_bytes() if self.path.is_file() else b""
        wait()  # before the first rank may write another
        if not content:
            return Progress()
        state: dict[str, Any] = torch.load(BytesIO(content), weights_only=True, map_location="cpu")
        if state["version"] != _VERSION or state["key"] != self._key:
            return Progress()
        logs = tuple(EpochLog.model_validate(log) for log in state["logs"])
        progress = Progress(logs=logs, begun=state.get("begun"))
        if progress.epoch + (progress.begun is not None) > most_epochs:
            return Progress()
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self._latest = progress
        return progress
