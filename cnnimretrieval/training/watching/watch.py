"""What a training leaves while it runs, for those who watch it and for itself when it was killed."""

from pydantic import Field

from groundwork.settings import Settings


class WatchConfig(Settings):
    """What is written while a training runs; nothing of it changes a result."""

    checkpoint_minutes: float = Field(
        default=10.0,
        ge=0,
        description="inside an epoch, too, a training keeps its state every so many minutes; 0: after every "
        "step. After each epoch it does so in any case",
    )
    tensorboard: bool = Field(
        default=False, description="what steps.jsonl tells goes to TensorBoard, too (tensorboard/)"
    )
