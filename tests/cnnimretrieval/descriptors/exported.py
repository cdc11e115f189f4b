"""A small network with a whitening, and photos as it takes them: for tests of files for other programs."""

from pathlib import Path

import numpy as np
from PIL import Image

from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork, build
from cnnimretrieval.whitening.apply import Whitening


def whitening(dim: int, kept: int) -> Whitening:
    rng = np.random.default_rng(2)
    mean, projection = rng.normal(size=dim) * 0.02, rng.normal(size=(kept, dim))
    return Whitening(mean=mean, projection=projection, kind="learned", note="drawn")


def whitened_network() -> RetrievalNetwork:
    """Its descriptors have 20 dimensions."""
    network = build(NetworkConfig(backbone="alexnet"), "random", seed=3)
    network.whitening = whitening(network.dim, 20)
    return network


def levels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
