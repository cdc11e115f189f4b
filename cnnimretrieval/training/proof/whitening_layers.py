"""What the whitening layers inside of a network start from: files, or whitenings of what goes through them.

A layer starts from a file, or from W = P, b = -P m of a whitening, by PCA or learned from the training pairs.
They are set from the bottom up, because what one passes on is what the next one whitens.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from cnnimretrieval.descriptors.images import open_request
from cnnimretrieval.descriptors.tensors import normalise, to_levels
from cnnimretrieval.networks.layer_files import load_layer, whitening_layer
from cnnimretrieval.networks.linear import at_every_location, set_to_whitening
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.pooling import Regional
from cnnimretrieval.networks.toolbox_files import LAYERS, LayerName
from cnnimretrieval.training.photos.collection import QueryConfig
from cnnimretrieval.training.photos.descriptions import Descriptions
from cnnimretrieval.training.photos.sampling import draw_pairs
from cnnimretrieval.training.proof.collection_whitening import WhiteningConfig, sample_pairs
from cnnimretrieval.training.proof.rows import fit_learned, fit_pca
from cnnimretrieval.whitening.apply import Whitening
from cnnimretrieval.whitening.estimates import learn_whitening, pca_whitening
from groundwork.progress import progress
from groundwork.random_streams import random_stream
from groundwork.settings import Settings

# The vectors (n, c) that a layer will whiten, of one normalised image (1, 3, h, w).
Part = Callable[[RetrievalNetwork, Tensor], Tensor]


class LayersConfig(Settings):
    """What local whitening, whitening of regions and projection start from, before the loop.

    Each starts from its file where one is given: a layer (weight, bias), as the toolbox publishes them, or a
    whitening; the others start as `start` says.
    """

    start: Literal["identity", "pca", "learned"] = Field(
        default="identity", description="from training photos by pca, or learned from training pairs"
    )
    local_whitening: Path | None = Field(default=None, description="file that local whitening starts from")
    region_whitening: Path | None = Field(
        default=None, description="file that the whitening of regions starts from"
    )
    projection: Path | None = Field(default=None, description="file that the projection starts from")
    photos: int = Field(
        default=1000, gt=0, description="drawn for local and regional layers; pairs of photos if learned"
    )
    vectors_per_photo: int = Field(
        default=40, gt=0, description="locations or regions drawn of each; matching ones of a pair if learned"
    )

    @property
    def files(self) -> Mapping[LayerName, Path]:
        """The files by the layers that start from one."""
        given = {name: getattr(self, name) for name in LAYERS}
        return {name: path for name, path in given.items() if path is not None}

    def without_paths(self) -> "LayersConfig":
        """The same but for where files lie: what they hold is the network's then."""
        return self.model_copy(update=dict.fromkeys(LAYERS))


def load_layers(network: RetrievalNetwork, config: LayersConfig) -> None:
    """Start the layers of `network` that `config` names a file for; the errors are those of `load_layer`."""
    for name, path in config.files.items():
        load_layer(network, name, path)


def start_layers(
    network: RetrievalNetwork,
    descriptions: Descriptions,
    config: LayersConfig,
    whitening: WhiteningConfig,
    query: QueryConfig,
    seed: int,
) -> None:
    """Set every whitening layer that starts from no file as `config` says, from photos that are not held out.

    Memory is bounded by `photos` x `vectors_per_photo` vectors. ValueError where they do not determine as
    many axes as a layer has outputs.
    """
    if config.start == "identity":
        return
    network.to(descriptions.device)
    for name, part in _PARTS.items():
        layer = _to_start(network, name, config)
        if layer is not None:
            found = _of_parts(part, network, descriptions, config, whitening.given.shrinkage, seed)
            set_to_whitening(layer, found)
    layer = _to_start(network, "projection", config)
    if layer is not None:
        before, shares = network.without_projection(), whitening.given
        if config.start == "pca":
            fitted = fit_pca(descriptions, before, shares.shrinkage, None)
        else:
            sample = sample_pairs(descriptions, before, whitening, query, seed)
            fitted = fit_learned(descriptions, before, sample, shares, None)
        set_to_whitening(layer, fitted.handed_out)


def _to_start(network: RetrievalNetwork, name: LayerName, config: LayersConfig) -> nn.Linear | None:
    return None if name in config.files else whitening_layer(network, name)


def mutual_nearest(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Rows of `a` and of `b` that are each other's nearest by angle; rows of zeros match nothing."""
    lengths = [np.linalg.norm(rows, axis=1) for rows in (a, b)]
    unit_a, unit_b = (rows / np.maximum(of, 1e-12)[:, None] for rows, of in zip((a, b), lengths, strict=True))
    scores = unit_a @ unit_b.T
    nearest, back = scores.argmax(axis=1), scores.argmax(axis=0)
    rows = np.flatnonzero((back[nearest] == np.arange(len(a))) & (lengths[0] > 0.0))
    return rows, nearest[rows]


def _of_parts(
    part: Part,
    network: RetrievalNetwork,
    descriptions: Descriptions,
    config: LayersConfig,
    shrinkage: float | None,
    seed: int,
) -> Whitening:
    """The whitening of the vectors of a part: of those of single photos, or learned from matching ones."""
    rng = random_stream(seed, "whitening layers")
    table = descriptions.collection.table

    def vectors(row: int) -> Float[np.ndarray, "n c"]:
        return _vectors_of(part, network, descriptions, row)

    if config.start == "pca":
        rows = np.flatnonzero(~table.is_val)
        rows = rng.choice(rows, min(config.photos, len(rows)), replace=False)
        drawn = [_drawn(vectors(row), config.vectors_per_photo, rng) for row in _with_bar(rows.tolist())]
        return pca_whitening(np.concatenate(drawn), shrinkage=shrinkage)
    ours, theirs = [], []
    for query, positive in _with_bar(np.stack(draw_pairs(table, config.photos, rng), axis=1).tolist()):
        a, b = vectors(query), vectors(positive)
        matching = _drawn(np.stack(mutual_nearest(a, b), axis=1), config.vectors_per_photo, rng)
        ours.append(a[matching[:, 0]])
        theirs.append(b[matching[:, 1]])
    first = np.arange(sum(map(len, ours)))
    return learn_whitening(np.concatenate([*ours, *theirs]), first, first + len(first), shrinkage=shrinkage)


def _vectors_of(
    part: Part, network: RetrievalNetwork, descriptions: Descriptions, row: int
) -> Float[np.ndarray, "n c"]:
    picture = open_request(descriptions.collection.whole(row), descriptions.image_size)
    levels = to_levels(picture)[None].to(descriptions.device)
    with torch.inference_mode():
        found = part(network, normalise(levels, network.trunk.mean, network.trunk.std))
    vectors: Float[np.ndarray, "n c"] = found.float().cpu().numpy()
    return vectors


def _locations(network: RetrievalNetwork, images: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "n c"]:
    """What local whitening is given: the activations at each location."""
    return network.trunk(images)[0].flatten(1).T  # type: ignore[no-any-return]


def _regions(network: RetrievalNetwork, images: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "n c"]:
    """What the whitening of regions is given: the unit vector of each region."""
    assert isinstance(network.pool, Regional)
    activations = network.trunk(images)
    if network.local_whitening is not None:
        activations = at_every_location(network.local_whitening, activations)
    return Regional(network.pool.pool, levels=network.pool.levels).region_vectors(activations)[0]


# From the bottom up.
_PARTS: Mapping[LayerName, Part] = {"local_whitening": _locations, "region_whitening": _regions}


def _drawn(rows: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= most else rows[rng.choice(len(rows), most, replace=False)]


def _with_bar(rows: list[Any]) -> Iterator[Any]:
    return iter(progress(rows, desc="whitening layer", unit="photo"))
