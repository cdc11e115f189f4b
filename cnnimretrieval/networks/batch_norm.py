"""Batch normalisation folded into the convolutions before it, as the MatConvNet networks were published."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cnnimretrieval.networks.trunk import Trunk

# Of the largest activation: float32 rounds differently once scale and weights are one number.
_TOLERANCE = 1e-3


def merge_batch_norm(trunk: Trunk) -> None:
    """Fold every normalisation that follows its convolution into the weights of the latter, in place.

    The trunk gives what it gave, in evaluation mode; but training moves each merged weight as one number, and
    no scale of its own. ValueError when the trunk has none to fold, or does not call the two in the order in
    which it holds them.
    """
    height, width = trunk.trial_size
    picture = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = trunk.eval()(picture)
        count = fold_normalisations(trunk)
        after = trunk(picture)
    close = torch.allclose(after, before, rtol=0.0, atol=_TOLERANCE * float(before.abs().max()))
    if not count or not close:
        found = "one that mixes them with other layers" if count else "none"
        raise ValueError(
            f"merged_batch_norm: expected a backbone whose normalisations follow their convolutions, got "
            f"{trunk.name}, which has {found}; leave train.network.merged_batch_norm out"
        )


def fold_normalisations(network: nn.Module) -> int:
    """Fold each normalisation that stands behind a convolution into it, in place; how many there were.

    For evaluation, of networks known to call their layers in the order in which they hold them.
    """
    return sum([_fold_children(module) for module in network.modules()])


def _fold_children(module: nn.Module) -> int:
    """Fold among the children of a module; how many normalisations went."""
    count = 0
    for (name, layer), (next_name, following) in pairwise(list(module.named_children())):
        if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(layer, following))
            setattr(module, next_name, nn.Identity())
            count += 1
    return count
