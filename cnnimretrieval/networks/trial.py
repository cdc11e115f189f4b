"""A network tried on two made-up images when it is opened: broken ones are told before any photo is read."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.whitening.apply import apply

_REMEDY = "give another network, or write this one again"


def require_sound(network: RetrievalNetwork, what: str) -> RetrievalNetwork:
    """`network` unchanged; ValueError, which calls it `what`, unless it can tell images apart.

    Its numbers may be finite one by one and still overflow or cancel out: all weights 0, an std or a
    whitening of extreme size. So two images of noise go through it, which must become finite descriptors that
    have a direction, each its own.
    """
    exponent = network.exponent
    if exponent is not None and not bool((exponent > 0.0).all()):
        raise ValueError(
            f"network {what}: expected exponents of GeM above 0, got {exponent.min().item():g}; {_REMEDY}"
        )
    vectors = _described(network)
    if np.isfinite(vectors).all() and vectors.any() and np.array_equal(vectors[0], vectors[1]):
        raise ValueError(
            f"network {what}: expected different descriptors of different images, got the same; {_REMEDY}"
        )
    _require_directions(vectors, f"network {what}: expected finite descriptors other than 0")
    for name, whitening in (("", network.whitening), (" of several scales", network.multi_scale_whitening)):
        if whitening is not None:
            with np.errstate(all="ignore"):
                whitened = apply(whitening, vectors)
            words = f"network {what}: expected its whitening{name} to give finite descriptors other than 0"
            _require_directions(whitened, words)
    return network


def _described(network: RetrievalNetwork) -> Float[np.ndarray, "2 d"]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, *network.trunk.trial_size, generator=generator)
    mean, std = (_column(values) for values in (network.trunk.mean, network.trunk.std))
    with torch.inference_mode():
        vectors: Float[np.ndarray, "2 d"] = network((images - mean) / std).numpy()
    return vectors


def _column(values: tuple[float, float, float]) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(values)[:, None, None]


def _require_directions(vectors: Float[np.ndarray, "2 d"], words: str) -> None:
    if not np.isfinite(vectors).all():
        got = "NaN or infinity"
    elif not vectors.any(axis=1).all():
        got = "zeros"
    else:
        return
    raise ValueError(f"{words}, got {got} of an image of noise; {_REMEDY}")
