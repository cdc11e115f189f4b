"""One epoch: its examples drawn in parts, learned from a step at a time, and how far that has come."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from cnnimretrieval.training.batches import Examples, load_batches
from cnnimretrieval.training.checkpoint import EpochLog
from cnnimretrieval.training.context import Training
from cnnimretrieval.training.mining import Mined, examples_of_part, num_parts
from cnnimretrieval.training.step import Learner
from groundwork.random_streams import random_stream

# Sees what is learned from next, with the number of the epoch.
KeepExamples = Callable[[int, Examples], None]
_TOLD = ("number", "losses", "distances", "missing")


@dataclass(kw_only=True, eq=False)
class _Part:
    """The part of an epoch that is being learned from.

    Attributes:
        drawn_from: state of the generator before it was drawn.
        mined: what was found for it.
        losses: of its steps so far, each the sum over its examples.

    """

    drawn_from: dict[str, Any]
    mined: Mined
    losses: list[float] = field(default_factory=list)


@dataclass(kw_only=True, eq=False)
class Epoch:
    """An epoch while it is learned; `state_dict` and `resumed` carry it over an interruption.

    Attributes:
        number: counted from 1.
        learner: which serves this epoch alone.
        seconds: that it took before an interruption.
        losses: of an example of each finished part, their mean.
        distances: of queries to their hard negatives, the mean of each finished part.
        missing: negatives of finished parts.
        part: that is being learned from.

    """

    number: int
    learner: Learner
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    missing: int = 0
    part: _Part | None = None
    _since: float = field(default_factory=time.monotonic)

    def learn(self, training: Training, keep_examples: KeepExamples, pause: Callable[[], None]) -> EpochLog:
        """Learn from what is left of it; `pause` is called whenever it could go on from where it stands."""
        rng = random_stream(training.seed, "epoch", self.number)
        if self.part is not None:
            rng.bit_generator.state = self.part.drawn_from
        for number in range(len(self.losses), num_parts(training.config)):
            drawn_from, part = dict(rng.bit_generator.state), self.part
            examples = examples_of_part(training, number, rng, None if part is None else part.mined)
            if part is None:
                mined = Mined(examples.negatives, examples.negative_distance)
                part = self.part = _Part(drawn_from=drawn_from, mined=mined)
            keep_examples(self.number, examples)
            self._learn(training, examples, part, pause)
            self.part = None
        pause()
        return EpochLog(
            epoch=self.number,
            loss=float(np.mean(self.losses)),
            negative_distance=float(np.mean(self.distances)) if self.distances else None,
            missing_negatives=self.missing,
            seconds=round(self._spent(), 1),
        )

    def _spent(self) -> float:
        return self.seconds + time.monotonic() - self._since

    def _learn(self, training: Training, examples: Examples, part: _Part, pause: Callable[[], None]) -> None:
        """One pass over what is left of a part; its loss is the mean of an example before its own step."""
        for batch in load_batches(examples, training, done=len(part.losses)):
            pause()
            part.losses.append(self.learner.step(batch))
        self.learner.check()
        self.losses.append(sum(part.losses) / len(examples.order))
        self.missing += int((examples.negatives < 0).sum())
        if examples.negative_distance is not None:
            self.distances.append(examples.negative_distance)

    def state_dict(self) -> dict[str, Any]:
        """How far it has come, as plain values and tensors."""
        part = None
        if self.part is not None:
            negatives, distance = self.part.mined
            part = {**vars(self.part), "mined": [torch.from_numpy(negatives), distance]}
        told = {name: getattr(self, name) for name in _TOLD}
        return {**told, "seconds": self._spent(), "part": part, "learner": self.learner.state_dict()}

    @classmethod
    def resumed(cls, state: Mapping[str, Any], learner: Learner) -> "Epoch":
        """The epoch that `state_dict` told of, with a learner that nothing was learned with."""
        learner.load_state_dict(state["learner"])
        part = state["part"]
        if part is not None:
            negatives, distance = part["mined"]
            part = _Part(**{**part, "mined": Mined(negatives.numpy(), distance)})
        told = {name: state[name] for name in _TOLD}
        return cls(**told, seconds=state["seconds"], part=part, learner=learner)
