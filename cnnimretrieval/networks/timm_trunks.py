"""Trunks of timm's networks: maps of convolutional ones, tokens of the patches of transformers."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cnnimretrieval.networks import weights as weight_files
from cnnimretrieval.networks.pretrained import downloaded
from cnnimretrieval.networks.trunk import MIN_SIDE_PX, Trunk, padded

PREFIX = "timm:"
# What networks are asked for, the first that their architecture knows: positions that are interpolated for
# images of any size; features without pooling.
_OPTIONS: tuple[dict[str, Any], ...] = (
    {"global_pool": "", "dynamic_img_size": True},
    {"global_pool": ""},
    {},
)
# A small image to try, in strides; both numbers are told apart from channels and from each other.
_TRIED = (7, 8)


class TimmTrunk(Trunk):
    """The map of a convolutional network, or the tokens of a transformer's patches at their places.

    Tokens that are no patches (class, registers) are dropped; images are padded to whole patches with the
    mean colour.
    """

    tokens = False

    @property
    def trial_size(self) -> tuple[int, int]:
        """As in `Trunk`: the only size, or the one that was tried."""
        return self.only_size or _tried_size(self.stride)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Activations of normalised images; ValueError when the network takes images of another size only."""
        size = (images.shape[2], images.shape[3])
        if self.only_size is not None and size != self.only_size:
            raise ValueError(
                f"backbone {self.name}: expected images of {self.only_size[1]} x {self.only_size[0]} px, to "
                f"which its positions are bound, got {size[1]} x {size[0]}; choose a network for any size"
            )
        if self.tokens:
            return _patch_map(self.features, padded(images, self.stride, self.stride))
        return _map(self.features, padded(images, MIN_SIDE_PX, 1))


def build_timm(name: str, weights: str) -> TimmTrunk:
    """The trunk `timm:NAME`; `weights` and errors as in `backbones.build_trunk`."""
    # Imported here: timm is an optional dependency, and slow to import.
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            f"backbone {name}: expected the package timm, got {error}; pip install timm"
        ) from error
    architecture = name.removeprefix(PREFIX)
    if not timm.is_model(architecture):
        raise ValueError(
            f"backbone: expected a name known to timm {timm.__version__}, got {architecture!r}; "
            "see timm.list_models()"
        )
    model = _pretrained(name, architecture) if weights == "pretrained" else _create(architecture)
    facts = model.pretrained_cfg
    if weights not in ("pretrained", "random"):
        # Distilled networks have two.
        heads = facts["classifier"] or ()
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
        weight_files.load_into(model, model, weights, name=name, classifier=heads)
    return _as_trunk(model.eval(), name)


def _create(architecture: str, **more: Any) -> Any:
    import timm

    for options in _OPTIONS[:-1]:
        try:
            return timm.create_model(architecture, num_classes=0, **options, **more)
        except (TypeError, AssertionError):
            # What an architecture says of an option that it does not know.
            continue
    return timm.create_model(architecture, num_classes=0, **_OPTIONS[-1], **more)


def _pretrained(name: str, architecture: str) -> Any:
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    published = timm.models.get_pretrained_cfg(architecture)
    if published is None or not isinstance(published.hf_hub_id, str):
        url = published.url if published is not None and isinstance(published.url, str) else None
        return downloaded(name, url, lambda: _create(architecture, pretrained=True))
    for file in ("model.safetensors", "pytorch_model.bin"):
        cached = try_to_load_from_cache(published.hf_hub_id, file)
        if isinstance(cached, str):
            # Read as a file, or the library would ask its host whether it has changed.
            return _create(architecture, pretrained=True, pretrained_cfg_overlay={"file": cached})
    return downloaded(name, constants.ENDPOINT, lambda: _create(architecture, pretrained=True))


def _as_trunk(model: Any, name: str) -> TimmTrunk:
    """The network with what a small image tells about it; one of its own size where that fails."""
    facts, stride = model.pretrained_cfg, model.feature_info[-1]["reduction"]
    own_size: tuple[int, int] = tuple(facts["input_size"][1:])
    for only_size in (None, own_size):
        side_y, side_x = only_size or _tried_size(stride)
        images = torch.zeros(1, 3, side_y, side_x)
        for tokens, read in ((False, _map), (True, _patch_map)):
            try:
                with torch.inference_mode():
                    found = read(model, images)
            except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError):
                continue
            # On a small image a map has more channels than columns; other layouts have the channels last.
            if not isinstance(found, Tensor) or found.ndim != 4 or found.shape[1] < found.shape[3]:
                continue
            trunk = TimmTrunk(
                model,
                name=name,
                out_channels=int(found.shape[1]),
                stride=stride,
                mean=facts["mean"],
                std=facts["std"],
            )
            trunk.tokens, trunk.only_size = tokens, only_size
            return trunk
    raise ValueError(
        f"backbone {name}: expected an activation map or tokens of patches, got neither of an image of "
        f"{own_size[1]} x {own_size[0]} px; choose another network"
    )


def _tried_size(stride: int) -> tuple[int, int]:
    return stride * _TRIED[0], stride * _TRIED[1]


def _map(model: Any, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
    """The last map of a convolutional network, before what its classifier adds to it."""
    features: Tensor = model.forward_features(images)
    return features


def _patch_map(model: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
    """The tokens of the patches after the last norm, each at its place."""
    features: Any = model.forward_intermediates(  # type: ignore[operator]
        images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
    )
    last: Tensor = features[-1]
    return last
