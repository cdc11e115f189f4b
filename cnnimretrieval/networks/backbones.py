"""Backbones by name: torchvision's classification networks and timm's, cut before their classifier."""

from difflib import get_close_matches

import torch

from cnnimretrieval.networks import timm_trunks
from cnnimretrieval.networks.torchvision_trunks import FAMILIES, TORCHVISION_BACKBONES, build_torchvision
from cnnimretrieval.networks.trunk import Trunk

BACKBONES: tuple[str, ...] = TORCHVISION_BACKBONES


def check_backbone_name(name: str) -> str:
    """`name` unchanged when it is one of `BACKBONES` or `timm:NAME`, else ValueError."""
    if name in BACKBONES or (name.startswith(timm_trunks.PREFIX) and len(name) > len(timm_trunks.PREFIX)):
        return name
    near = get_close_matches(name, BACKBONES, 1)
    raise ValueError(
        f"backbone: expected timm:NAME or one that torchvision has of {', '.join(FAMILIES)}, got {name!r}; "
        + (f"did you mean {near[0]!r}?" if near else "choose one of them")
    )


def build_trunk(name: str, weights: str = "pretrained", seed: int = 0) -> Trunk:
    """The trunk of backbone `name`, in evaluation mode.

    `weights` is "pretrained" (the library's own download of ImageNet weights), a file (.safetensors or
    .pth), "package: efficientnet_lite0" (weights that come inside an installed package) or "random" (drawn
    from `seed`). ValueError for an unknown name or weights of another architecture, FileNotFoundError for a
    missing file, OSError when a download fails.
    """
    check_backbone_name(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build = timm_trunks.build_timm if name.startswith(timm_trunks.PREFIX) else build_torchvision
        return build(name, weights).eval()
