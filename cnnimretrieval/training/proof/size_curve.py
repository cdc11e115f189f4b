"""What a network reaches at other sizes of photos, and what a photo costs there."""

import time
from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.inputs import Inputs
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.photos.descriptions import Descriptions
from cnnimretrieval.training.proof.rows import choosing_proof
from groundwork.settings import Values

# Photos that the cost of one is measured on.
_TIMED = 16


class SizePoint(Values):
    """A network at one size, on the places set aside for choosing; on those reported where there are none."""

    image_size: int = Field(description="longest side in px")
    map: dict[str, float] = Field(description="by kind of query, among unseen photos")
    seconds_per_photo: float = Field(description="of processor time, reading included")


def size_curve(
    descriptions: Descriptions, network: RetrievalNetwork, sizes: Sequence[int]
) -> tuple[SizePoint, ...]:
    """`network` with its whitening at each of `sizes`, rising, and at the size that it is handed out for.

    None where `sizes` has none. Queries and photos are described at the same size, each never enlarged.
    OSError naming a photo that cannot be read any more.
    """
    if not sizes:
        return ()
    return tuple(_point(descriptions, network, size) for size in sorted({*sizes, descriptions.image_size}))


def _point(descriptions: Descriptions, network: RetrievalNetwork, size: int) -> SizePoint:
    at_size = descriptions
    if size != descriptions.image_size:
        # What is kept of photos is of use at the size of training and at that which is handed out only.
        at_size = replace(descriptions, image_size=size, inputs=Inputs())
    scores = choosing_proof(at_size, network, network.whitening).scores
    return SizePoint(
        image_size=size,
        map={kind: of_kind.map for kind, of_kind in scores.items()},
        seconds_per_photo=_cost(descriptions, network, size),
    )


def _cost(descriptions: Descriptions, network: RetrievalNetwork, size: int) -> float:
    """Processor seconds that this process takes to read and describe a photo."""
    collection = descriptions.collection
    requests = [collection.whole(row) for row in range(min(_TIMED, collection.table.num_images))]
    started = time.process_time()
    describe(network, requests, ExtractConfig(image_size=size), device=descriptions.device)
    return round((time.process_time() - started) / len(requests), 4)
