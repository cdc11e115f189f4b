"""Everything that decides the result of a run: the settings of its stages, put together."""

from typing import TypeVar

from pydantic import Field, ValidationInfo, field_validator, model_validator

from cnnimretrieval.training.settings.train_config import TrainConfig
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
    rounds: int = Field(
        default=1,
        ge=1,
        le=9,
        description="from the second on, what the network of the round before finds alike is tried, too",
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

    @model_validator(mode="after")
    def _rounds_have_candidates(self) -> "RunConfig":
        if self.rounds > 1 and self.sfm.from_colmap is not None:
            raise ValueError(
                f"rounds: expected 1 with models or pairs from COLMAP, which need no candidates, got "
                f"{self.rounds}; leave one of them out"
            )
        return self
