"""One epoch: its examples drawn in parts, learned from a step at a time, and how far that has come."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from cnnimretrieval.distributed import same_weights
from cnnimretrieval.training.learning.batches import Batch, Examples, load_batches
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.mining import Mined, draw_epoch, examples_of_part
from cnnimretrieval.training.learning.optimiser import set_rate
from cnnimretrieval.training.learning.state import LearningState
from cnnimretrieval.training.learning.step import Learner
from cnnimretrieval.training.safeguards.checkpoint import EpochLog
from cnnimretrieval.training.safeguards.divergence import Diverged, NothingMoved
from cnnimretrieval.training.watching.clock import Spent
from groundwork.random_streams import random_stream

logger = logging.getLogger(__name__)

# Sees what is learned from next, with the number of the epoch.
KeepExamples = Callable[[int, Examples], None]
# Of a part; more are no accident of single photos.
_MOST_SKIPPED = 10
_TOLD = ("number", "losses", "distances", "missing", "skipped")


@dataclass(kw_only=True, eq=False)
class _Part:
    """The part of an epoch that is being learned from.

    Attributes:
        drawn_from: state of the generator before its order was drawn.
        mined: what was found for it.
        losses: of its steps so far, each the sum over its examples; 0 of one that was skipped.
        skipped: examples of each step that was.

    """

    drawn_from: dict[str, Any]
    mined: Mined
    losses: list[float] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)


@dataclass(kw_only=True, eq=False)
class Epoch:
    """An epoch while it is learned; `state_dict` and `resumed` carry it over an interruption.

    Attributes:
        training: that it belongs to.
        state: which it moves.
        number: counted from 1.
        seconds: that it took before an interruption.
        losses: of an example of each finished part, their mean.
        distances: of queries to their hard negatives, the mean of each finished part.
        missing: negatives of finished parts.
        skipped: steps of finished parts that moved nothing.
        part: that is being learned from.

    """

    training: Training
    state: LearningState
    number: int
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    missing: int = 0
    skipped: int = 0
    part: _Part | None = None

    def __post_init__(self) -> None:
        """Begin with a learner that serves this epoch alone."""
        self._learner = Learner(self.training, self.state.optimizer, self.state.classes, self.state.scaler)
        self._since, self._told = time.monotonic(), self.training.clock.read()

    @property
    def steps(self) -> int:
        """Steps that were begun."""
        return self._learner.steps

    @property
    def rate(self) -> float:
        """The learning rate of the latest step, or that of the first before there was one."""
        return self.training.config.rate(self.number, max(0, self.steps - 1))

    def learn(self, keep_examples: KeepExamples, pause: Callable[[], None]) -> EpochLog:
        """Learn from what is left of it; `pause` is called whenever it could go on from where it stands."""
        same_weights(self.training.network)
        rng = random_stream(self.training.seed, "epoch", self.number)
        drawn = draw_epoch(self.training, rng)
        if self.part is not None:
            rng.bit_generator.state = self.part.drawn_from
        for of_part in drawn[len(self.losses) :]:
            drawn_from, part = dict(rng.bit_generator.state), self.part
            with self.training.clock.part("mine"):
                examples = examples_of_part(self.training, of_part, rng, None if part is None else part.mined)
            if part is None:
                mined = Mined(examples.negatives, examples.negative_distance)
                part = self.part = _Part(drawn_from=drawn_from, mined=mined)
            keep_examples(self.number, examples)
            self._learn_part(examples, part, pause)
            self.part = None
        pause()
        return EpochLog(
            epoch=self.number,
            loss=float(np.mean(self.losses)),
            negative_distance=float(np.mean(self.distances)) if self.distances else None,
            missing_negatives=self.missing,
            skipped_steps=self.skipped,
            learning_rate=self.rate,
            seconds=round(self._spent(), 1),
        )

    def _learn_part(self, examples: Examples, part: _Part, pause: Callable[[], None]) -> None:
        """One pass over what is left of a part; its loss is the mean of an example before its own step."""
        for batch in load_batches(examples, self.training, done=len(part.losses)):
            pause()
            self._step(batch, part)
        learned = len(examples.order) - sum(part.skipped)
        if not learned:
            raise Diverged("expected a step with a finite loss, got none")
        self._learner.check()
        self.losses.append(sum(part.losses) / learned)
        self.skipped += len(part.skipped)
        self.missing += int((examples.negatives < 0).sum())
        if examples.negative_distance is not None:
            self.distances.append(examples.negative_distance)

    def _step(self, batch: Batch, part: _Part) -> None:
        rate = set_rate(self.state.optimizer, self.training.config, self.number, self.steps)
        try:
            loss = self._learner.step(batch)
            self.state.stepped()
            part.losses.append(loss)
            self._tell({"loss": loss / len(batch), "rate": rate, "examples": len(batch)})
        except NothingMoved as found:
            if self.training.config.not_finite == "stop" or len(part.skipped) == _MOST_SKIPPED:
                raise
            logger.warning("epoch %d, step %d is skipped: %s", self.number, self.steps, found)
            part.losses.append(0.0)
            part.skipped.append(len(batch))
            self._tell({"skipped": str(found), "rate": rate, "examples": len(batch)})

    def _tell(self, numbers: Mapping[str, Any]) -> None:
        """Write to the journal what the latest step was like, and what took its time since the one before."""
        before, self._told = self._told, self.training.clock.read()
        seconds = {
            part: round(spent.wall_s - before.get(part, Spent()).wall_s, 4)
            for part, spent in self._told.items()
        }
        numbers = {**numbers, "seconds": {part: one for part, one in seconds.items() if one}}
        self.training.journal.step(self.number, self.steps, self.at, numbers)
        self.training.trace.step()

    @property
    def at(self) -> int:
        """The number of the latest step over all epochs, each of as many steps as it can have."""
        return (self.number - 1) * self.training.config.steps_per_epoch + self.steps

    def _spent(self) -> float:
        return self.seconds + time.monotonic() - self._since

    def state_dict(self) -> dict[str, Any]:
        """How far it has come, as plain values and tensors."""
        part = None
        if self.part is not None:
            negatives, distance = self.part.mined
            part = {**vars(self.part), "mined": [torch.from_numpy(negatives), distance]}
        told = {name: getattr(self, name) for name in _TOLD}
        return {**told, "seconds": self._spent(), "part": part, "learner": self._learner.state_dict()}

    @classmethod
    def resumed(cls, training: Training, state: LearningState, told: Mapping[str, Any]) -> "Epoch":
        """The epoch that `state_dict` told of."""
        part = told["part"]
        if part is not None:
            negatives, distance = part["mined"]
            part = _Part(**{**part, "mined": Mined(negatives.numpy(), distance)})
        values = {name: told[name] for name in (*_TOLD, "seconds")}
        epoch = cls(training=training, state=state, part=part, **values)
        epoch._learner.load_state_dict(told["learner"])
        return epoch
