"""What a training tells of each step and epoch while it runs: lines of JSON, and TensorBoard if asked for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnimretrieval.training.safeguards.checkpoint import EpochLog
from groundwork.files import atomic_path

NAME = "steps.jsonl"
TENSORBOARD = "tensorboard"


class Journal:
    """Appends to steps.jsonl in `folder`; nothing without one.

    A line of a step: its loss, of an example before the step, its learning rate, examples and seconds; after
    the last step of an epoch one of the epoch. What a training that is resumed will tell again is taken out.
    """

    def __init__(self, folder: Path | None = None, *, tensorboard: bool = False) -> None:
        self._path = None if folder is None else folder / NAME
        self._writer = _writer() if tensorboard and folder is not None else None
        self._board: Any = None

    def go_on(self, epoch: int, steps: int, at: int) -> None:
        """Forget what was told after `epoch` epochs and so many steps of the next, number `at` over all."""
        if self._path is not None and self._writer is not None:
            self._board = self._writer(str(self._path.parent / TENSORBOARD), purge_step=at + 1)
        if self._path is None or not self._path.is_file():
            return
        lines = self._path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if _is_before(line, epoch, steps)]
        if len(kept) < len(lines):
            with atomic_path(self._path) as unfinished:
                unfinished.write_bytes(b"".join(kept))

    def step(self, epoch: int, step: int, at: int, numbers: Mapping[str, Any]) -> None:
        """Tell of a step of an epoch, both counted from 1; `at` counts it over all epochs."""
        self._tell({"epoch": epoch, "step": step, **numbers})
        self._plot(at, numbers)

    def epoch(self, log: EpochLog, at: int) -> None:
        """Tell of an epoch after its last step, number `at` over all."""
        told = log.model_dump(mode="json", exclude_none=True)
        self._tell(told)
        self._plot(at, {f"epoch/{name}": value for name, value in told.items() if name != "epoch"})

    def close(self) -> None:
        """Let go of what TensorBoard reads."""
        if self._board is not None:
            self._board.close()

    def _tell(self, line: Mapping[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _plot(self, at: int, numbers: Mapping[str, Any]) -> None:
        if self._board is None:
            return
        for name, value in numbers.items():
            if isinstance(value, Mapping):
                self._plot(at, {f"{name}/{inner}": one for inner, one in value.items()})
            elif isinstance(value, int | float):
                self._board.add_scalar(name, value, at)


def _is_before(line: bytes, epoch: int, steps: int) -> bool:
    """Whether a line is whole, which a kill may have prevented, and of what came before."""
    try:
        told: dict[str, Any] = json.loads(line)
    except ValueError:
        return False
    begun = told["epoch"] == epoch + 1 and "step" in told and told["step"] <= steps
    return begun or bool(told["epoch"] <= epoch)


def _writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "train.watch.tensorboard: expected the package tensorboard, got none installed; "
            "pip install 'cnnimretrieval[tensorboard]', or leave it out"
        ) from error
    return SummaryWriter
