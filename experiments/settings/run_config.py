"""Everything that decides the result of a run: the settings of its stages, put together."""

from pydantic import Field

from cnnimretrieval.training.fine_tune import TrainConfig
from groundwork.settings import Settings
from pairs.mine import MineConfig
from sfm.reconstruct import ReconstructConfig


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
