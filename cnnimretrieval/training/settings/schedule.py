"""The learning rate over a training: a function of where it stands, so that a resumed one needs no state."""

import math
from typing import Literal

from pydantic import Field

from groundwork.settings import Settings


class ScheduleConfig(Settings):
    """How the learning rate changes while a network learns."""

    kind: Literal["exponential", "cosine", "constant"] = Field(
        default="exponential",
        description="falls by learning_rate_decay from epoch to epoch; or from the full rate to last_share "
        "of it along half a cosine, from step to step over all epochs; or stays",
    )
    last_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="of the rate that a cosine ends with (Loshchilov and Hutter, 2017)",
    )
    warmup_steps: int = Field(
        default=0, ge=0, description="the first steps of a training, over which the rate rises evenly"
    )

    def cosine(self, share: float) -> float:
        """The share of the full rate when `share` of the training is done."""
        return self.last_share + (1.0 - self.last_share) * (1.0 + math.cos(math.pi * min(share, 1.0))) / 2.0

    def warmed(self, steps: int) -> float:
        """The share of its rate that a step has, when `steps` came before it."""
        return min(1.0, (steps + 1) / (self.warmup_steps + 1))
