"""Descriptors of many photos: reading in worker processes, several scales, a bad photo costs itself only."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from cnnimretrieval.descriptors.halves import Look, above, below
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.inputs import Inputs
from cnnimretrieval.descriptors.passes import Input, described, in_batches, one_by_one
from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork
from cnnimretrieval.networks.precision import Precision
from cnnimretrieval.networks.scales import require_factors
from groundwork.arrays import slices
from groundwork.descriptor_folder import unit_rows
from groundwork.files import atomic_path, create_array, keep_rows
from groundwork.progress import progress
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
    precision: Precision = "float32"
    batch_size: int = Field(
        default=8, gt=0, description="photos of one size that go through the network together on a GPU"
    )

    @property
    def look(self) -> Look:
        """How photos are shown to the network."""
        return Look(image_size=self.image_size, scales=self.scales, precision=self.precision)

    @classmethod
    def meant_for(
        cls, network: NetworkConfig, *, image_size: int | None = None, scales: Sequence[float] | None = None
    ) -> "ExtractConfig":
        """The size and scales that the network's folder names, but for those that are given."""
        factors = tuple(scales or network.scales)
        size = image_size or network.image_size
        return cls(scales=factors) if size is None else cls(scales=factors, image_size=size)

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
            for part in slices(len(kept), _MOVED_ROWS):
                vectors[part] = vectors[kept[part]]
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
    inputs: Inputs | None = None,
    desc: str = "describe",
) -> Described:
    """Unit descriptors, float32 and not whitened, of `requests`.

    `workers` processes read ahead (0 reads in this one); the result is the same for any number, and on a CPU
    for any number of threads and whatever other photos there are. Given `inputs` that keep activations of
    layers below, photos of one size go through the others together, and on a CPU, too, the last bits of a
    descriptor depend on the other photos; on what is kept already nothing depends. With `out` the vectors
    are written there as .npy, whole or not at all, and come back as a read-only memory map: memory is bounded
    by the photos that are described at a time. `network` is moved to `device`; its training mode is as
    before afterwards. `desc` is what its progress is called.
    """
    # Weights, like images, in the order in memory that convolutions like, or each call brings them into it.
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ready = (inputs or Inputs()).for_network(network)
    fill = partial(_fill, network, requests, config, ready, device=device, workers=workers, desc=desc)
    if out is None:
        return fill(np.empty((len(requests), network.dim), np.float32))
    with atomic_path(out) as unfinished:
        vectors = create_array(unfinished, (len(requests), network.dim), np.float32)
        described = fill(vectors)
        vectors.flush()
        keep_rows(unfinished, len(described.positions))
    return replace(described, vectors=np.load(out, mmap_mode="r"))


def describe_batch(
    network: RetrievalNetwork, levels: UInt8[Tensor, "b 3 h w"], config: ExtractConfig
) -> Float[Tensor, "b d"]:
    """Unit descriptors of pictures of one size on the network's device, over all scales of `config`.

    v = (mean_s f_s**power)**(1/power), then L2 (Radenovic et al., TPAMI 2019); power is GeM's p there.
    ValueError when a power other than 1 is asked of descriptors with negative components.
    """
    return _describe_parts(network, 0, below(network, 0, levels, config.look), config)


def _describe_parts(
    network: RetrievalNetwork,
    num_layers: int,
    parts: Sequence[Float[Tensor, "b c _ _"]],
    config: ExtractConfig,
) -> Float[Tensor, "b d"]:
    """As `describe_batch`, of what the lowest `num_layers` layers give at each scale."""
    with torch.inference_mode():
        if config.scales == (1.0,):
            return above(network, num_layers, parts[0], config.look)
        power = network.multi_scale_power if config.power is None else config.power
        total = torch.zeros(len(parts[0]), network.dim, device=parts[0].device)
        for part in parts:
            vectors = above(network, num_layers, part, config.look)
            if config.power not in (None, 1.0) and bool((vectors < 0.0).any()):
                raise ValueError(
                    f"power: expected 1 for {network.config.backbone}:{network.config.pooling}, whose "
                    f"descriptors have negative components, got {config.power:g}; leave it out"
                )
            total += vectors.pow(power)
        return functional.normalize((total / len(config.scales)).pow(1.0 / power), eps=1e-12)


def _fill(
    network: RetrievalNetwork,
    requests: Sequence[ImageRequest],
    config: ExtractConfig,
    inputs: Inputs,
    vectors: Float[np.ndarray, "n d"],
    *,
    device: str,
    workers: int,
    desc: str,
) -> Described:
    """Write the descriptors into the first rows of `vectors`, which those of the result are."""
    positions: list[int] = []
    failures: list[Failure] = []
    sound = np.ones(len(requests), np.bool_)
    on_cpu = torch.device(device).type == "cpu"

    def usable() -> Iterator[Input]:
        given = inputs.each(network, requests, config.look, device=device, workers=workers)
        bar = progress(given, desc=desc, unit="photo", total=len(requests))
        for position, one in enumerate(bar):
            if one.reason:
                path = requests[position].path
                failures.append(Failure(position=position, path=path, reason=one.reason, message=one.message))
            else:
                positions.append(position)
                yield len(positions) - 1, one.parts

    def describe_parts(parts: list[Tensor]) -> Float[Tensor, "b d"]:
        try:
            there = [part.to(device, non_blocking=True) for part in parts]
            if inputs.num_layers == 0:
                return describe_batch(network, there[0], config).cpu()
            return _describe_parts(network, inputs.num_layers, there, config).cpu()
        except torch.OutOfMemoryError as error:
            if len(parts[0]) == 1:
                raise _no_memory(error, config, device) from error
        # Each alone, with nothing left of what they had taken together.
        alone = ([part[row : row + 1] for part in parts] for row in range(len(parts[0])))
        return torch.cat([describe_parts(one) for one in alone])

    alone = on_cpu and inputs.num_layers == 0
    batches = one_by_one(usable()) if alone else in_batches(usable(), config.batch_size)
    with evaluating(network):
        for rows, found in described(batches, describe_parts, threads=on_cpu):
            vectors[rows] = found.numpy()
            sound[rows] = unit_rows(vectors[rows])
    every = Described(vectors=vectors, positions=np.array(positions, np.int64), failures=tuple(failures))
    return every.only(sound[: len(positions)], requests, vectors)


def _no_memory(error: torch.OutOfMemoryError, config: ExtractConfig, device: str) -> RuntimeError:
    return RuntimeError(
        f"describe: expected memory for one photo of {config.image_size} px on {device}, got "
        f"'{first_words(error)}'; choose a smaller image size, or another device"
    )


def first_words(error: torch.OutOfMemoryError) -> str:
    """What it was that torch had no memory for, without the pages that it says of its allocator."""
    return ". ".join(str(error).split(". ")[:2])


def _no_direction(position: int, path: Path, vector: Float[np.ndarray, " d"]) -> Failure:
    length = float(np.linalg.norm(vector))
    message = (
        f"photo {path}: expected a descriptor of length 1, got {length:.4g}, for {SEES_NOTHING}; "
        "leave it out or take another network"
    )
    return Failure(position=position, path=path, reason=SEES_NOTHING, message=message)


@contextmanager
def evaluating(network: RetrievalNetwork) -> Iterator[None]:
    """Let the network describe inside of the block, and be as it was after it."""
    # Layer by layer: training keeps its BatchNorm layers in evaluation mode while the rest trains.
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
