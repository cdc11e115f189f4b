"""A network as one module for other programs: levels of photos in, finished descriptors out.

Normalisation, pooling, whitening and L2 norm are inside. Whatever file it is written to is compared with
PyTorch before the file gets its name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.export import Dim

from cnnimretrieval.descriptors.tensors import normalise
from cnnimretrieval.networks.masked_regions import for_any_size
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.pooling import l2_normalise
from cnnimretrieval.whitening.apply import Whitening

INPUT, OUTPUT = "images", "descriptors"
# Heights and widths that are compared, in px: lying, standing, and of odd sides.
_TRIED_SIZES = ((96, 128), (160, 96), (131, 97))
_TRIED_BATCHES = (1, 3)
# Of the components of unit vectors, whitened: measured 5e-7 at most, in every family of networks.
_TOLERANCE = 1e-4

Run = Callable[[UInt8[np.ndarray, "b 3 h w"]], Float[np.ndarray, "b d"]]


@dataclass(frozen=True, kw_only=True)
class Written:
    """A file that holds a network: the length of its descriptors and how far they are from PyTorch's."""

    path: Path
    dim: int
    largest_difference: float


class Finished(nn.Module):
    """RGB levels to descriptors as they are searched: all that `describe` does with a photo at one scale.

    `facts` are what a file says of the network in it.
    """

    mean: Tensor
    projection: Tensor

    def __init__(self, network: RetrievalNetwork, whitening: Whitening | None) -> None:
        super().__init__()
        self.network = network.with_pooling(for_any_size(network.pool))
        self.whitens = whitening is not None
        self.facts = {
            "network": network.config.model_dump(mode="json"),
            "fingerprint": network.fingerprint(),
            "whitening": None if whitening is None else whitening.note,
            "input": "uint8 RGB levels, (batch, 3, height, width), upright",
        }
        if whitening is not None:
            self.register_buffer("mean", torch.from_numpy(whitening.mean).float())
            self.register_buffer("projection", torch.from_numpy(whitening.projection).float())

    @classmethod
    def of(cls, network: RetrievalNetwork, *, whiten: bool) -> "Finished":
        """`network` on the CPU, for evaluation, with its whitening of one scale where `whiten` is left on."""
        network = network.cpu().eval()
        return cls(network, network.whitening if whiten else None).eval()

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Unit descriptors of upright pictures, whitened where there is a whitening."""
        trunk = self.network.trunk
        descriptors: Tensor = self.network(normalise(images, trunk.mean, trunk.std))
        if not self.whitens:
            return descriptors
        return l2_normalise((descriptors - self.mean) @ self.projection.T)

    @property
    def dim(self) -> int:
        """Length of a descriptor."""
        return len(self.projection) if self.whitens else self.network.dim

    def example(self) -> UInt8[Tensor, "2 3 h w"]:
        """Pictures that a graph is traced with."""
        return torch.zeros(2, 3, *self._sizes()[0], dtype=torch.uint8)

    def free_sides(self) -> dict[str, dict[int, Dim]]:
        """The sides of what goes in that are free: batch, and height and width where the trunk takes any."""
        sides = (0,) if self.network.trunk.only_size else (0, 2, 3)
        return {INPUT: dict.fromkeys(sides, Dim.DYNAMIC)}

    def require_agreement(self, path: Path, run: Run, who: str) -> float:
        """How far apart `run`, which is `who` with the file, and PyTorch are in any component.

        ValueError when that is no rounding.
        """
        difference = self._largest_difference(run)
        if not difference <= _TOLERANCE:
            raise ValueError(
                f"export {path}: expected {who} to give PyTorch's descriptors to {_TOLERANCE:g}, got a "
                f"difference of {difference:.2g}; keep the network in our own format"
            )
        return difference

    def no_graph(self, error: Exception, kind: str) -> ValueError:
        """The one line for a network that cannot be traced."""
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        return ValueError(
            f"export to {kind}: expected a network that is one graph for photos of any size, got "
            f"{self.network.trunk.name}, which is none ({reason}); choose another network"
        )

    def _largest_difference(self, run: Run) -> float:
        generator, found = np.random.default_rng(0), 0.0
        for height, width in self._sizes():
            for batch in _TRIED_BATCHES:
                images = generator.integers(0, 256, (batch, 3, height, width), dtype=np.uint8)
                with torch.inference_mode():
                    ours = self(torch.from_numpy(images)).numpy()
                theirs = run(images)
                if theirs.shape != ours.shape or not np.isfinite(theirs).all():
                    return float("inf")
                found = max(found, float(np.abs(ours - theirs).max()))
        return found

    def _sizes(self) -> tuple[tuple[int, int], ...]:
        only_size = self.network.trunk.only_size
        return _TRIED_SIZES if only_size is None else (only_size,)
