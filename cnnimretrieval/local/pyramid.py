"""Local features of pictures: the maps of a pyramid of scales, of all their places those of highest score."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional
from torchvision.ops import nms

from cnnimretrieval.descriptors.extract import evaluating
from cnnimretrieval.descriptors.images import Frame, ImageRequest
from cnnimretrieval.descriptors.passes import in_threads
from cnnimretrieval.descriptors.reading import Loaded, read_each
from cnnimretrieval.descriptors.tensors import normalise
from cnnimretrieval.local.features import LocalFeatures, by_score, no_features
from cnnimretrieval.local.receptive_field import FieldFinder
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.scales import require_factors
from groundwork.descriptor_folder import unit_rows
from groundwork.progress import progress
from groundwork.settings import Settings


class PyramidConfig(Settings):
    """Which local features of a photo are kept; the defaults are those of DELF and DELG."""

    image_size: int = Field(default=1024, gt=0, description="longest side in px; photos are never enlarged")
    scales: tuple[float, ...] = Field(
        default=tuple(round(2.0 ** (step / 2), 4) for step in range(-4, 3)),
        min_length=1,
        description="factors on top of image_size: 0.25 to 2 in steps of the root of 2",
    )
    number: int = Field(default=1000, gt=0, description="features of a photo, at most, over all scales")
    min_percentile: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="features score above so many percent of the places of training photos",
    )
    max_overlap: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="of the boxes of two features, intersection over union; 1 keeps both whatever it is",
    )

    @field_validator("scales")
    @classmethod
    def _factors(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        return require_factors(scales)


@dataclass(frozen=True, kw_only=True, eq=False)
class Attention:
    """The scores of all places of a picture; `box` is what they fill: x1, y1, x2, y2 in px."""

    scores: Float32[np.ndarray, "h w"]
    box: tuple[float, float, float, float]


class LocalDescriber:
    """Finds the local features of pictures with one network; ValueError when that has no local head."""

    def __init__(self, network: RetrievalNetwork, config: PyramidConfig) -> None:
        self._stage, self._head = network.require_local()
        self._network = network
        self._config = config
        self._fields = FieldFinder(network)
        quantile = self._head.score_quantiles.cpu().numpy()
        percents = np.linspace(0.0, 100.0, len(quantile))
        self.dim = self._head.dim
        self._least = float(np.interp(config.min_percentile, percents, quantile))

    def of(self, levels: UInt8[Tensor, "3 h w"]) -> LocalFeatures:
        """Features of a picture, positions in pixels of it.

        None at the scales at which the picture is smaller than the stride of the network, none whose place
        is not in the picture and none that is zero or not finite.
        """
        images = normalise(levels[None], self._network.trunk.mean, self._network.trunk.std)
        with torch.inference_mode():
            parts = [self._at(images, scale) for scale in self._config.scales]
        found = [part for part in parts if part is not None]
        if not found:
            return no_features(self.dim)
        centres, sizes, scores, descriptors = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        kept = self._kept(centres, sizes, scores)
        return by_score(
            centres[kept].astype(np.float32),
            sizes[kept].astype(np.float32),
            scores[kept],
            descriptors[kept],
        ).best(self._config.number)

    def attention(self, levels: UInt8[Tensor, "3 h w"]) -> Attention | None:
        """The scores at the size that a picture has; None for one that is smaller than the stride."""
        height, width = levels.shape[1:]
        if max(height, width) < self._stage.stride:
            return None
        images = normalise(levels[None], self._network.trunk.mean, self._network.trunk.std)
        with torch.inference_mode():
            scores = self._network.local_maps(images).scores[0].cpu().numpy()
        field = self._fields.of(height, width)
        centres = field.centres(*scores.shape)
        half = np.array([field.x.stride, field.y.stride]) / 2.0
        (x1, y1), (x2, y2) = (centres[0] - half).tolist(), (centres[-1] + half).tolist()
        return Attention(scores=scores, box=(x1, y1, x2, y2))

    def _at(
        self, images: Float[Tensor, "1 3 h w"], scale: float
    ) -> (
        tuple[
            Float[np.ndarray, "n 2"],
            Float[np.ndarray, " n"],
            Float32[np.ndarray, " n"],
            Float32[np.ndarray, "n d"],
        ]
        | None
    ):
        """Centres and sizes in px of the picture, scores and descriptors of the best places at a scale."""
        sides = np.array(images.shape[:1:-1])  # width, height
        width, height = (max(1, round(side * scale)) for side in sides.tolist())
        if max(width, height) < self._stage.stride:
            return None
        maps = self._network.local_maps(_resized(images, height, width))
        field = self._fields.of(height, width)
        centres = field.centres(*maps.scores.shape[1:])
        scores = maps.scores.flatten().cpu().numpy()
        descriptors = maps.descriptors[0].flatten(1).T
        inside = ((centres > 0.0) & (centres < (width, height))).all(axis=1)
        sound = inside & np.isfinite(scores) & (scores >= self._least)
        order = np.flatnonzero(sound)[np.argsort(-scores[sound], kind="stable")]
        if self._config.max_overlap == 1.0:
            order = order[: self._config.number]
        rows: Float32[np.ndarray, "n d"] = (
            descriptors[torch.from_numpy(order).to(descriptors.device)].cpu().numpy()
        )
        unit = unit_rows(rows)
        order, rows = order[unit], rows[unit]
        to_picture = sides / (width, height)
        size = np.sqrt(field.x.size * field.y.size * to_picture.prod())
        return centres[order] * to_picture, np.full(len(order), size), scores[order], rows

    def _kept(
        self,
        centres: Float[np.ndarray, "n 2"],
        sizes: Float[np.ndarray, " n"],
        scores: Float32[np.ndarray, " n"],
    ) -> Bool[np.ndarray, " n"]:
        """Which features overlap with none of higher score too much."""
        kept = np.ones(len(scores), np.bool_)
        if self._config.max_overlap < 1.0:
            half = 0.5 * sizes[:, None]
            boxes = torch.from_numpy(np.concatenate([centres - half, centres + half], axis=1)).float()
            kept[:] = False
            kept[nms(boxes, torch.from_numpy(scores), self._config.max_overlap).numpy()] = True
        return kept


def describe_locally(
    network: RetrievalNetwork,
    requests: Sequence[ImageRequest],
    config: PyramidConfig,
    *,
    device: str = "cpu",
    workers: int = 0,
) -> Iterator[tuple[LocalFeatures, str]]:
    """Yield the features of every request, in order; where a photo cannot be read, none, and the reason.

    `workers` processes read ahead. Positions are in pixels of the full upright photo, of a part of it, too.
    On a CPU the result is the same for any number of workers and threads. `network` is moved to `device`.
    ValueError when it has no local head.
    """
    network.to(device)
    describer = LocalDescriber(network, config)
    nothing = no_features(describer.dim)

    def describe(loaded: Loaded) -> tuple[LocalFeatures, str]:
        if loaded.levels is None:
            return nothing, loaded.reason
        found = describer.of(torch.from_numpy(loaded.levels).to(device))
        return _in_photo(found, loaded.frame), ""

    pictures = read_each(requests, config.image_size, workers=workers)
    bar = progress(pictures, desc="local features", unit="photo", total=len(requests))
    jobs = (partial(describe, loaded) for loaded in bar)
    with evaluating(network):
        yield from in_threads(jobs) if torch.device(device).type == "cpu" else (job() for job in jobs)


def _in_photo(features: LocalFeatures, frame: Frame) -> LocalFeatures:
    return LocalFeatures(
        keypoints=frame.to_photo(features.keypoints.astype(np.float64)).astype(np.float32),
        scales=(frame.px_per_px * features.scales).astype(np.float32),
        scores=features.scores,
        descriptors=features.descriptors,
    )


def _resized(images: Float[Tensor, "1 3 h w"], height: int, width: int) -> Float[Tensor, "1 3 h2 w2"]:
    if tuple(images.shape[2:]) == (height, width):
        return images
    smaller = height < images.shape[2]
    return functional.interpolate(
        images, size=(height, width), mode="bilinear", align_corners=False, antialias=smaller
    )
