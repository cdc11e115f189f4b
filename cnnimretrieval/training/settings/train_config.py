"""Everything that decides what training gives: the settings of its parts, checked together."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cnnimretrieval.descriptors.inputs import KeepConfig
from cnnimretrieval.networks.network import NetworkConfig
from cnnimretrieval.training.local.settings import LocalTrainingConfig
from cnnimretrieval.training.proof.collection_whitening import WhiteningConfig
from cnnimretrieval.training.proof.rows import Row
from cnnimretrieval.training.proof.whitening_layers import LayersConfig
from cnnimretrieval.training.settings.loop_config import LoopConfig
from cnnimretrieval.training.watching.watch import WatchConfig
from groundwork.settings import Settings


class TrainConfig(Settings):
    """Everything that decides the network that is handed out, but the weights it starts from."""

    network: NetworkConfig = NetworkConfig()
    loop: LoopConfig = LoopConfig()
    layers: LayersConfig = LayersConfig()
    whitening: WhiteningConfig = WhiteningConfig()
    inputs: KeepConfig = KeepConfig()
    keep: Row | Literal["best"] = Field(
        default="best", description="the network that is handed out: the best of all rows, or always this one"
    )
    # Left out of what is written unless it is set: see NetworkConfig.local.
    local: LocalTrainingConfig = Field(
        default=LocalTrainingConfig(),
        exclude_if=lambda local: local == LocalTrainingConfig(),
        description="how the head of network.local is learned",
    )
    curve_sizes: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        default=(),
        exclude_if=lambda sizes: not sizes,
        description="px at which the network that is handed out is scored, too, on the places to choose by: "
        "what smaller photos cost and lose",
    )
    watch: WatchConfig = Field(
        default=WatchConfig(),
        exclude_if=lambda watch: watch == WatchConfig(),
        description="what is written while training runs; it changes no result",
    )
    seed: int = Field(default=0, ge=0, description="of pairs, pools, order and distortions")

    @model_validator(mode="after")
    def _row_to_keep(self) -> "TrainConfig":
        if self.keep == "fine_tuned_loss_whitening" and not self.loop.through_whitening:
            raise ValueError(
                "keep: expected another row for a loss that sees descriptors as they are, got "
                f"{self.keep}; set loop.through_whitening, or keep another"
            )
        return self

    @model_validator(mode="after")
    def _head_to_teach(self) -> "TrainConfig":
        if self.network.local is None and self.local != LocalTrainingConfig():
            raise ValueError(
                "local: expected a network with a local head to teach, got one without; set "
                "network.local.reduction, or leave local out"
            )
        return self

    @property
    def without_local(self) -> "TrainConfig":
        """The same without a local head, which changes nothing else of a training."""
        network = self.network.model_copy(update={"local": None})
        return self.model_copy(update={"network": network, "local": LocalTrainingConfig()})

    @model_validator(mode="after")
    def _layers_to_start(self) -> "TrainConfig":
        network = self.network
        there = network.local_whitening or network.region_whitening or network.projection is not None
        for name in self.layers.files:
            if not getattr(network, name):
                raise ValueError(
                    f"layers.{name}: expected no file for a network without that layer, got "
                    f"{self.layers.files[name]}; set network.{name}, or leave it out"
                )
        if self.layers.start != "identity" and not there:
            raise ValueError(
                "layers.start: expected identity for a network without whitening layers, got "
                f"{self.layers.start}; set network.local_whitening, region_whitening or projection"
            )
        return self
