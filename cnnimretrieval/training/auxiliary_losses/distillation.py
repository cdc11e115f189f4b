"""The initial network as a teacher: photos of any place, or of none, keep the descriptors it gives them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from pydantic import Field, field_validator

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.scales import require_factors
from cnnimretrieval.training.photos.collection import QueryConfig
from cnnimretrieval.training.photos.descriptions import Descriptions
from cnnimretrieval.training.photos.sampling import in_turn
from groundwork.settings import Settings


class DistillationConfig(Settings):
    """What a training keeps of the initial network, which teaches photos that need no place.

    The teacher sees photos at the size that the network is handed out for, the one that learns at that of
    training. Of whole photos and one scale this holds the network near to where it started; of details, which
    the one that learns sees distorted, it teaches what distortions may not change.
    """

    weight: float = Field(
        default=0.0,
        ge=0,
        description="of the squared distance between the descriptors of both, summed over the photos of a "
        "step as the losses of tuples are; 0: no teacher",
    )
    photos: int = Field(default=1, ge=1, description="that an example brings for the teacher's sake")
    details: bool = Field(
        default=False, description="details, distorted as queries are; the teacher sees them as they are"
    )
    scales: tuple[float, ...] = Field(
        default=(1.0,), min_length=1, description="at which the teacher sees a photo"
    )

    @field_validator("scales")
    @classmethod
    def _factors(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        return require_factors(scales)


@dataclass(frozen=True, kw_only=True, eq=False)
class Taught:
    """Photos that examples bring for the teacher's sake.

    Attributes:
        requests: how the network that learns sees those of each example.
        targets: what the teacher makes of each, a unit vector, not whitened.

    """

    requests: Sequence[Sequence[ImageRequest]]
    targets: Float[np.ndarray, "e n d"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
    """The network that teaches, which stays as it is, and how it is asked."""

    network: RetrievalNetwork
    descriptions: Descriptions
    config: DistillationConfig
    query: QueryConfig

    @classmethod
    def of(
        cls,
        network: RetrievalNetwork,
        descriptions: Descriptions,
        config: DistillationConfig,
        query: QueryConfig,
    ) -> "Teacher | None":
        """The teacher that the settings ask for, if they do."""
        if not config.weight:
            return None
        return cls(network=network, descriptions=descriptions, config=config, query=query)

    def teach(self, num_examples: int, rng: np.random.Generator) -> Taught:
        """Photos for so many examples, of the training side; none comes again before all had their turn."""
        collection, config = self.descriptions.collection, self.config
        number = num_examples * config.photos
        drawn = in_turn(np.flatnonzero(~collection.table.is_val), number, rng).tolist()
        if config.details:
            shown = [collection.distorted(row, self.query, rng) for row in drawn]
        else:
            shown = [collection.whole(row) for row in drawn]
        plain = [replace(request, rotation_deg=0.0, edit=None) for request in shown]
        targets = self.descriptions.of(self.network, "photos of the teacher", plain, config.scales)
        return Taught(
            requests=[shown[start : start + config.photos] for start in range(0, number, config.photos)],
            targets=np.asarray(targets).reshape(num_examples, config.photos, -1),
        )
