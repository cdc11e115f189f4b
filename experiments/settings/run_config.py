"""Everything that decides the result of a run: the settings of its stages, put together."""

from typing import TypeVar

from pydantic import Field, ValidationInfo, field_validator

from cnnimretrieval.training.fine_tune import TrainConfig
from groundwork.settings import Settings
from pairs.mine import MineConfig
from sfm.reconstruct import ReconstructConfig

Stage = TypeVar("Stage", ReconstructConfig, MineConfig, TrainConfig)


class RunConfig(Settings):
    """The settings of a run; defaults are those of the stages."""

    seed: int = Field(default=0, ge=0, description="of every stage that gives no other")
    weights: str = Field(
        default="pretrained",
        description="of the backbone: pretrained (the library's download), a FILE, or package:NAME",
    )
    sfm: ReconstructConfig = ReconstructConfig()
    pairs: MineConfig = MineConfig()
    train: TrainConfig = TrainConfig()

    @field_validator("sfm", "pairs", "train")
    @classmethod
    def _with_the_seed_of_the_run(cls, stage: Stage, info: ValidationInfo) -> Stage:
        if "seed" in stage.model_fields_set or "seed" not in info.data:
            return stage
        return stage.model_copy(update={"seed": info.data["seed"]})
