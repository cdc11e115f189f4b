"""Linear layers that whiten inside a network: at every location, on every region, or at its end."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cnnimretrieval.whitening.apply import Whitening


def identity_linear(inputs: int, outputs: int) -> nn.Linear:
    """A layer that passes on the first `outputs` components: what an end layer is before it is learned."""
    # Not filled with random numbers first, which would move the global generator.
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def set_to_whitening(layer: nn.Linear, whitening: Whitening, *, what: str = "whitening for a layer") -> None:
    """Make `layer` the affine part of `whitening`, learned or PCA: weight P[:outputs], bias -P[:outputs] m.

    ValueError, which calls the whitening `what`, when it is of another dimension or has fewer axes than the
    layer has outputs.
    """
    inputs, outputs = layer.in_features, layer.out_features
    if len(whitening.mean) != inputs or whitening.dim < outputs:
        raise ValueError(
            f"{what}: expected at least {outputs} axes of {inputs}-D vectors, got "
            f"{whitening.dim} of {len(whitening.mean)}-D ones; learn it with this network, from more images"
        )
    projection = torch.from_numpy(whitening.projection[:outputs])
    with torch.no_grad():
        layer.weight.copy_(projection)
        layer.bias.copy_(-(projection @ torch.from_numpy(whitening.mean)))


def at_every_location(layer: nn.Linear, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
    """`layer` applied to the vector at each location of the map."""
    return functional.conv2d(x, layer.weight[:, :, None, None], layer.bias)
