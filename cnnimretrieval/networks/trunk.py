"""Trunk: the part of a backbone that gives activation maps, with what its input and output look like."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# alexnet and squeezenet convolve without padding: below this side some layer of theirs would have no output
# left.
MIN_SIDE_PX = 32
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Trunk(nn.Module):
    """The convolutional part of a backbone.

    `mean` and `std` normalise RGB in [0, 1]; `stride` is the number of image pixels per activation.
    `only_size` is the one size (height, width) that some networks can take.
    """

    only_size: tuple[int, int] | None = None

    def __init__(
        self,
        features: nn.Module,
        *,
        name: str,
        out_channels: int,
        stride: int,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.features = features
        self.name = name
        self.out_channels = out_channels
        self.stride = stride
        self.mean = mean
        self.std = std

    @property
    def trial_size(self) -> tuple[int, int]:
        """Height and width of a small image that the network can take."""
        return 2 * MIN_SIDE_PX, 3 * MIN_SIDE_PX

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Activations of normalised images; sides below 32 px are padded with the mean colour (zeros)."""
        activations: Tensor = self.features(padded(images, MIN_SIDE_PX, 1))
        return activations

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """The layers that `forward` calls one after the other; none where it does something else."""
        return tuple(_in_a_row(self.features)) if type(self).forward is Trunk.forward else ()

    def layers_of(self, num_weights: int) -> int:
        """How many of `layers`, from the lowest, have no weights but the first `num_weights` tensors."""
        lowest = {id(weight) for weight in list(self.parameters())[:num_weights]}
        count = 0
        for number, layer in enumerate(self.layers if lowest else (), 1):
            weights = [id(weight) for weight in layer.parameters()]
            if not lowest.issuperset(weights):
                break
            count = number
        return count

    def below(self, images: Float[Tensor, "b 3 h w"], cut: int) -> Float[Tensor, "b c h2 w2"]:
        """What the lowest `cut` layers make of normalised images; the images themselves for 0."""
        if cut == 0:
            return images
        activations = padded(images, MIN_SIDE_PX, 1)
        for layer in self.layers[:cut]:
            activations = layer(activations)
        return activations

    def above(
        self, activations: Float[Tensor, "b c h w"], cut: int, *, recompute: bool = False
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """What the other layers make of what `below` gives: together the two are `forward`.

        With `recompute` a gradient costs each of `layers` its work again, and memory for what goes in only.
        """
        if recompute and self.layers:
            activations = padded(activations, MIN_SIDE_PX, 1) if cut == 0 else activations.clone()
            for several in _recomputable(self.layers[cut:]):
                activations = checkpoint(several, activations, use_reentrant=False, preserve_rng_state=False)
            return activations
        if cut == 0:
            return self(activations)  # type: ignore[no-any-return]
        for layer in self.layers[cut:]:
            activations = layer(activations)
        return activations


def _in_a_row(module: nn.Module) -> Iterator[nn.Module]:
    if type(module).forward is nn.Sequential.forward:
        for layer in module.children():
            yield from _in_a_row(layer)
    else:
        yield module


def _recomputable(layers: Sequence[nn.Module]) -> Iterator[nn.Sequential]:
    """Layers, each with those after it that write over what they are given: that cannot be given again."""
    several: list[nn.Module] = []
    for layer in layers:
        if several and not getattr(layer, "inplace", False):
            yield nn.Sequential(*several)
            several = []
        several.append(layer)
    yield nn.Sequential(*several)


def padded(images: Float[Tensor, "b 3 h w"], least_px: int, multiple_px: int) -> Float[Tensor, "b 3 h2 w2"]:
    """Zeros added at the right and below: sides of at least `least_px`, multiples of `multiple_px`.

    In a graph that is being exported the sides are symbols: there it always pads, most often by nothing.
    """
    height, width = images.shape[-2:]
    below, beside = (_missing(side, least_px, multiple_px) for side in (height, width))
    if not torch.compiler.is_exporting() and below == beside == 0:
        return images
    return functional.pad(images, (0, beside, 0, below))


def _missing(side: int, least_px: int, multiple_px: int) -> int:
    enough = torch.sym_max(side, least_px)
    # Not made an int, which would bind a graph to the size that it is exported with.
    return enough + (-enough) % multiple_px - side  # type: ignore[return-value]
