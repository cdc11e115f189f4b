"""The settings of learning a local head: what teaches it, on which photos, how long."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from cnnimretrieval.networks.scales import require_factors
from cnnimretrieval.training.losses.margin_heads import MarginConfig, MarginName
from groundwork.settings import Settings


class LocalWeights(Settings):
    """Weights of the losses of a local head, 0 leaves one out; DELG has classes 1, reconstruction 10."""

    classes: float = Field(default=0.0, ge=0, description="attention: clusters as classes")
    tuples: float = Field(default=0.0, ge=0, description="attention: matching photos alike, others not")
    geometry: float = Field(default=1.0, ge=0, description="attention: places of long tracks")
    tracks: float = Field(default=1.0, ge=0, description="descriptors: observations of one point alike")
    reconstruction: float = Field(default=10.0, ge=0, description="descriptors: of an autoencoder")

    @property
    def need_tracks(self) -> bool:
        """Whether the models of a reconstruction teach."""
        return self.geometry > 0 or self.tracks > 0


class LocalTrainingConfig(Settings):
    """How a local head is learned, on the trunk that is handed out: its losses never reach the trunk."""

    weights: LocalWeights = LocalWeights()
    sfm: Path | None = Field(
        default=None,
        description="folder of `reconstruct` whose tracks teach; sfm beside the pairs if not set",
    )
    photos: int = Field(default=1000, ge=2, description="at most, drawn as matching pairs, seen once each")
    image_size: int = Field(default=512, gt=0, description="longest side in px; photos are never enlarged")
    scales: tuple[float, ...] = Field(
        default=(1.0, 0.7071, 0.5), min_length=1, description="on top of image_size; each photo gets one"
    )
    epochs: int = Field(default=10, ge=1, description="over the maps of these photos")
    batch_pairs: int = Field(default=8, ge=2, description="matching pairs of photos that a step learns from")
    learning_rate: float = Field(default=1e-3, gt=0, le=1e3, description="of Adam; falls linearly to 0")
    classifier: Literal["softmax"] | MarginName = Field(
        default="softmax", description="over classes; DELF and DELG have plain soft-max"
    )
    margin: MarginConfig = MarginConfig()
    class_images: int = Field(
        default=50, ge=2, description="larger clusters are split by covisibility into classes of about this"
    )
    tuple_margin: float = Field(default=0.8, gt=0, le=2, description="distance of photos of different places")
    long_track: int = Field(default=3, ge=2, description="photos that see a point worth attending to")
    temperature: float = Field(default=0.1, gt=0, description="of correspondences")
    points_per_pair: int = Field(default=32, ge=1, description="correspondences drawn of a pair of photos")

    @model_validator(mode="after")
    def _sound(self) -> "LocalTrainingConfig":
        require_factors(self.scales)
        return self
