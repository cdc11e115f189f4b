"""Descriptors of many photos: reading in worker processes, several scales, a bad photo costs itself only."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.passes import in_batches, one_by_one
from cnnimretrieval.descriptors.reading import read_each
from cnnimretrieval.descriptors.scales import require_factors
from cnnimretrieval.descriptors.tensors import normalise
from cnnimretrieval.networks.network import RetrievalNetwork
from groundwork.descriptor_folder import unit_rows
from groundwork.files import atomic_path, create_array, keep_rows
from groundwork.settings import Settings

_MOVED_ROWS = 4096
# The reason of a photo whose descriptor is zero or not finite.
SEES_NOTHING = "the network sees nothing in it"


class ExtractConfig(Settings):
    """How photos become descriptors."""

    image_size: int = Field(default=1024, gt=0, description="longest side in px; photos are never enlarged")
    scales: tuple[float, ...] = Field(
        default=(1.0,), min_length=1, description="factors on top of image_size"
    )
    power: float | None = Field(
        default=None,
        gt=0,
        description="exponent of the mean over scales; None takes the network's own (GeM's p, else 1)",
    )
    precision: Literal["float32", "bfloat16"] = "float32"
    batch_size: int = Field(
        default=8, gt=0, description="photos of one size that go through the network together on a GPU"
    )

    @field_validator("scales")
    @classmethod
    def _factors(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        return require_factors(scales)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A request that gave no descriptor, and why: a reason that can be counted, a message that names it."""

    position: int
    path: Path
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Described:
    """Unit descriptors of the requests that worked, in the order of the requests.

    Row i of `vectors` belongs to request `positions[i]`; `failures` holds the others, those among them of
    which the network gives nothing finite that has a direction.
    """

    vectors: Float[np.ndarray, "n d"]
    positions: Int[np.ndarray, " n"]
    failures: tuple[Failure, ...]

    def only(
        self,
        sound: Bool[np.ndarray, " n"],
        requests: Sequence[ImageRequest],
        vectors: Float[np.ndarray, "n k"],
    ) -> "Described":
        """The same with `vectors`, and without the rows that are not `sound`: those are failures.

        The rows that stay move to the front of `vectors`, in place.
        """
        kept = np.flatnonzero(sound)
        unsound = [
            _no_direction(int(position), requests[position].path, vectors[row])
            for row, position in enumerate(self.positions)
            if not sound[row]
        ]
        if unsound:
            for start in range(0, len(kept), _MOVED_ROWS):
                part = kept[start : start + _MOVED_ROWS]
                vectors[start : start + len(part)] = vectors[part]
        failures = sorted((*self.failures, *unsound), key=lambda failure: failure.position)
        return Described(
            vectors=vectors[: len(kept)], positions=self.positions[kept], failures=tuple(failures)
        )

    def require_all(self) -> Float[np.ndarray, "n d"]:
        """The vectors when every request worked; OSError naming the first that did not, otherwise."""
        if self.failures:
            first = self.failures[0]
            more = f" (and {len(self.failures) - 1} more)" if len(self.failures) > 1 else ""
            raise OSError(f"{first.message}{more}")
        return self.vectors


def describe(
    network: RetrievalNetwork,
    requests: Sequence[ImageRequest],
    config: ExtractConfig,
    *,
    device: str = "cpu",
    workers: int = 0,
    out: Path | None = None,
) -> Described:
    """Unit descriptors, float32 and not whitened, of `requests`.

    `workers` processes read ahead (0 reads in this one); the result is the same for any number, and on a CPU
    for any number of threads and whatever other photos there are. With `out` the vectors are written there
    as .npy, whole or not at all, and come back as a read-only memory map: memory is bounded by the photos
    that are described at a time. `network` is moved to `device`; its training mode is as before afterwards.
    """
    network.to(device)
    if out is None:
        vectors = np.empty((len(requests), network.dim), np.float32)
        return _fill(vectors, network, requests, config, device=device, workers=workers)
    with atomic_path(out) as unfinished:
        vectors = create_array(unfinished, (len(requests), network.dim), np.float32)
        described = _fill(vectors, network, requests, config, device=device, workers=workers)
        vectors.flush()
        keep_rows(unfinished, len(described.positions))
    return replace(described, vectors=np.load(out, mmap_mode="r"))


def describe_batch(
    network: RetrievalNetwork, levels: UInt8[Tensor, "b 3 h w"], config: ExtractConfig
) -> Float[Tensor, "b d"]:
    """Unit descriptors of pictures of one size on the network's device, over all scales of `config`.

    v = (mean_s f_s**power)**(1/power), then L2. A scaled picture is the bilinear resize of the normalised
    one, as in the published protocol (Radenovic et al., TPAMI 2019); power is GeM's p there. ValueError when
    a power other than 1 is asked of descriptors with negative components.
    """
    images = normalise(levels, network.trunk.mean, network.trunk.std)
    # The order in memory that convolutions like: 15 to 25 % faster on a CPU, results equal to 1e-6.
    images = images.contiguous(memory_format=torch.channels_last)
    half = torch.autocast(levels.device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
    with torch.inference_mode(), half:
        if config.scales == (1.0,):
            return network(images)  # type: ignore[no-any-return]
        power = network.multi_scale_power if config.power is None else config.power
        total = torch.zeros(len(images), network.dim, device=images.device)
        for scale in config.scales:
            vectors = network(_scaled(images, scale))
            if config.power not in (None, 1.0) and bool((vectors < 0.0).any()):
                raise ValueError(
                    f"power: expected 1 for {network.config.backbone}:{network.config.pooling}, whose "
                    f"descriptors have negative components, got {config.power:g}; leave it out"
                )
            total += vectors.pow(power)
        return functional.normalize((total / len(config.scales)).pow(1.0 / power), eps=1e-12)


def _scaled(images: Float[Tensor, "b 3 h w"], scale: float) -> Float[Tensor, "b 3 h2 w2"]:
    if scale == 1.0:
        return images
    # Never below one pixel; otherwise the sides are floor(side * scale) and `scale` itself places the
    # samples.
    if min(images.shape[-2:]) * scale < 1.0:
        sides = [max(1, int(side * scale)) for side in images.shape[-2:]]
        return functional.interpolate(images, size=sides, mode="bilinear", align_corners=False)
    return functional.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)


def _fill(
    vectors: Float[np.ndarray, "n d"],
    network: RetrievalNetwork,
    requests: Sequence[ImageRequest],
    config: ExtractConfig,
    *,
    device: str,
    workers: int,
) -> Described:
    """Write the descriptors into the first rows of `vectors`, which those of the result are."""
    positions: list[int] = []
    failures: list[Failure] = []
    sound = np.ones(len(requests), np.bool_)

    def usable() -> Iterator[tuple[int, Tensor]]:
        pictures = read_each(requests, config.image_size, workers=workers)
        # disable=None: no bar when stderr is not a terminal.
        bar = tqdm(pictures, desc="describe", unit="photo", total=len(requests), disable=None)
        for position, loaded in enumerate(bar):
            path, reason, message = requests[position].path, loaded.reason, loaded.message
            levels = None if loaded.levels is None else torch.from_numpy(loaded.levels)
            if levels is not None and (message := _too_small(network, levels, path)):
                reason = "too small for the network"
            if levels is None or reason:
                failures.append(Failure(position=position, path=path, reason=reason, message=message))
            else:
                positions.append(position)
                yield len(positions) - 1, levels

    def descriptors(levels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        return describe_batch(network, levels.to(device, non_blocking=True), config).cpu()

    with _evaluating(network):
        if torch.device(device).type == "cpu":
            described = one_by_one(usable(), descriptors)
        else:
            described = in_batches(usable(), config.batch_size, descriptors)
        for rows, found in described:
            vectors[rows] = found.numpy()
            sound[rows] = unit_rows(vectors[rows])
    every = Described(vectors=vectors, positions=np.array(positions, np.int64), failures=tuple(failures))
    return every.only(sound[: len(positions)], requests, vectors)


def _no_direction(position: int, path: Path, vector: Float[np.ndarray, " d"]) -> Failure:
    length = float(np.linalg.norm(vector))
    message = (
        f"photo {path}: expected a descriptor of length 1, got {length:.4g}, for {SEES_NOTHING}; "
        "leave it out or take another network"
    )
    return Failure(position=position, path=path, reason=SEES_NOTHING, message=message)


def _too_small(network: RetrievalNetwork, levels: UInt8[Tensor, "3 h w"], path: Path) -> str:
    """Why a picture is too small to describe, or nothing."""
    (height, width), trunk = levels.shape[1:], network.trunk
    if max(height, width) >= trunk.stride:
        return ""
    return (
        f"photo {path}: expected {trunk.stride} px, the stride of {trunk.name}, or more along a side, "
        f"got {width} x {height}; give a larger photo or box"
    )


@contextmanager
def _evaluating(network: RetrievalNetwork) -> Iterator[None]:
    # Layer by layer: training keeps its BatchNorm layers in evaluation mode while the rest trains.
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
