"""Photos described by all ranks, each its share, for all of them."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from jaxtyping import Float

from cnnimretrieval.descriptors.extract import Described, ExtractConfig, describe
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.inputs import Inputs
from cnnimretrieval.distributed import num_ranks, of_all, rank
from cnnimretrieval.networks.network import RetrievalNetwork


def describe_together(
    network: RetrievalNetwork,
    requests: Sequence[ImageRequest],
    config: ExtractConfig,
    *,
    device: str,
    workers: int,
    inputs: Inputs,
    desc: str = "describe",
) -> Described:
    """As `describe`; each rank describes its share, and has the descriptors of all in the end."""
    size = num_ranks()
    own = requests[rank() :: size]
    found = describe(network, own, config, device=device, workers=workers, inputs=inputs, desc=desc)
    if size == 1:
        return found
    parts = of_all(found)
    positions = np.concatenate([part.positions * size + number for number, part in enumerate(parts)])
    order = np.argsort(positions)
    failures = chain.from_iterable(
        (replace(failure, position=failure.position * size + number) for failure in part.failures)
        for number, part in enumerate(parts)
    )
    vectors: Float[np.ndarray, "n d"] = np.concatenate([part.vectors for part in parts])
    return Described(
        vectors=vectors[order],
        positions=positions[order],
        failures=tuple(sorted(failures, key=lambda failure: failure.position)),
    )
