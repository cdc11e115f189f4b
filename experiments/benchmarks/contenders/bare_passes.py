"""What a network has to do in any case, with nothing around it; and extraction as it is written first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from cnnimretrieval.descriptors.halves import Look, Parts, below, stacked
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.inputs import Given, Inputs
from cnnimretrieval.descriptors.passes import in_threads
from cnnimretrieval.descriptors.reading import read_one
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.losses.registry import contrastive

_TOGETHER = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Recorded(Inputs):
    """Inputs that keep in memory what they gave: a list of each call, and what was asked for in all."""

    calls: list[list[Parts]] = field(default_factory=list)
    asked: list[ImageRequest] = field(default_factory=list)

    def each(
        self,
        network: RetrievalNetwork,
        requests: Sequence[ImageRequest],
        look: Look,
        *,
        device: str,
        workers: int,
    ) -> Iterator[Given]:
        """As ever."""
        given: list[Parts] = []
        self.calls.append(given)
        self.asked.extend(requests)
        for one in super().each(network, requests, look, device=device, workers=workers):
            given.append(one.parts)
            yield one


class Bare:
    """Passes over tensors in memory: layers, and the way back of what a loss moves, in as many threads.

    Pictures of one size go together, eight at most; `alone`, they do not, as photos that are extracted.
    """

    def __init__(self, network: RetrievalNetwork, num_layers: int, look: Look) -> None:
        self._network, self._num_layers, self._look = network, num_layers, look
        self._weights = [weight for weight in network.parameters() if weight.requires_grad]

    def ready(self, given: Sequence[Parts], *, alone: bool = False) -> list[Float[Tensor, "b c h w"]]:
        """What the layers are given, in batches: activations, or normalised pictures."""
        of_shape: dict[torch.Size, list[Parts]] = {}
        for parts in given:
            of_shape.setdefault(parts[0].shape, []).append(parts)
        size = 1 if alone else _TOGETHER
        batches = [
            stacked(same[at : at + size])[0] for same in of_shape.values() for at in range(0, len(same), size)
        ]
        if self._num_layers:
            return batches
        return [below(self._network, 0, levels, self._look)[0] for levels in batches]

    def below(self, pictures: Sequence[UInt8[Tensor, "3 h w"]]) -> None:
        """The layers that never change, of each picture alone."""
        jobs = (
            partial(below, self._network, self._num_layers, one[None], self._look)
            for one in pictures
            if self._num_layers
        )
        list(in_threads(jobs))

    def describe(self, batches: Sequence[Float[Tensor, "b c h w"]]) -> None:
        """The other layers, forward."""
        list(in_threads(partial(self._forward, batch, with_graph=False) for batch in batches))

    def learn(self, tuples: Sequence[Sequence[Float[Tensor, "b c h w"]]], margin: float) -> None:
        """The same and back, of each tuple: its batches in any order, which makes no difference to time."""
        for batches in tuples:
            made = list(in_threads(partial(self._forward, batch, with_graph=True) for batch in batches))
            vectors = torch.cat([one.detach() for one in made]).requires_grad_()
            contrastive(vectors[None], margin).sum().backward()  # type: ignore[no-untyped-call]
            assert vectors.grad is not None
            gradients = torch.split(vectors.grad, [len(one) for one in made])
            both = zip(made, gradients, strict=True)
            list(in_threads(partial(self._back, one, gradient) for one, gradient in both if gradient.any()))

    def _forward(self, batch: Float[Tensor, "b c h w"], *, with_graph: bool) -> Float[Tensor, "b d"]:
        # Here, because each thread has a mode of its own.
        with torch.set_grad_enabled(with_graph):
            return self._network.of_activations(self._network.trunk.above(batch, self._num_layers))

    def _back(self, vectors: Float[Tensor, "b d"], gradient: Float[Tensor, "b d"]) -> None:
        torch.autograd.grad(vectors, self._weights, gradient, allow_unused=True)


def levels_of(requests: Sequence[ImageRequest], image_size: int) -> list[UInt8[Tensor, "3 h w"]]:
    """The pictures of different requests, decoded and scaled."""
    read = [read_one(image_size, request).levels for request in dict.fromkeys(requests)]
    return [torch.from_numpy(levels) for levels in read if levels is not None]


def extract_plainly(
    network: RetrievalNetwork, paths: Sequence[Path], image_size: int
) -> Float[np.ndarray, "n d"]:
    """One photo after the other, decoded in full, then scaled, then through the network, in this process.

    So does the reference toolbox, but for the processes that it has to read ahead.
    """
    found = []
    trunk = network.trunk
    mean, std = (np.array(value, np.float32)[:, None, None] for value in (trunk.mean, trunk.std))
    for path in paths:
        image = Image.open(path).convert("RGB")
        image.thumbnail((image_size, image_size), Image.Resampling.LANCZOS)
        levels = np.asarray(image, np.float32).transpose(2, 0, 1) / 255
        with torch.no_grad():
            found.append(network(torch.from_numpy((levels - mean) / std)[None])[0].numpy())
    return np.stack(found)
