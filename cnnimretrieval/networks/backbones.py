"""Trunks: classification networks cut before the classifier, so that images give activation maps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cnnimretrieval.networks import weights as weight_files

# alexnet and squeezenet convolve without padding: below this side some layer of theirs would have no output
# left.
MIN_SIDE_PX = 32
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Trunk(nn.Module):
    """The convolutional part of a backbone, with what its input and output look like.

    `mean` and `std` normalise RGB in [0, 1]; `stride` is the number of image pixels per activation.
    """

    def __init__(
        self,
        features: nn.Module,
        *,
        name: str,
        out_channels: int,
        stride: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.features = features
        self.name = name
        self.out_channels = out_channels
        self.stride = stride
        self.mean = mean
        self.std = std

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Activations of normalised images; sides below 32 px are padded with the mean colour (zeros)."""
        height, width = images.shape[-2:]
        if min(height, width) < MIN_SIDE_PX:
            padding = (0, max(MIN_SIDE_PX - width, 0), 0, max(MIN_SIDE_PX - height, 0))
            images = functional.pad(images, padding)
        activations: Tensor = self.features(images)
        return activations


def _without_average_pool_and_classifier(model: nn.Module) -> nn.Module:
    return nn.Sequential(*list(model.children())[:-2])


def _features_without_last_max_pool(model: nn.Module) -> nn.Module:
    features = model.get_submodule("features")
    return nn.Sequential(*list(features.children())[:-1])


def _features(model: nn.Module) -> nn.Module:
    return model.get_submodule("features")


@dataclass(frozen=True)
class _Cut:
    """Where a torchvision network is cut, and what is left."""

    take: Callable[[nn.Module], nn.Module]
    classifier: str
    out_channels: int
    stride: int


# All of these end in a ReLU, so the activations are non-negative, as GeM wants them.
_CUTS: Mapping[str, _Cut] = {
    "alexnet": _Cut(_features_without_last_max_pool, "classifier", 256, 16),
    "vgg16": _Cut(_features_without_last_max_pool, "classifier", 512, 16),
    "resnet18": _Cut(_without_average_pool_and_classifier, "fc", 512, 32),
    "resnet50": _Cut(_without_average_pool_and_classifier, "fc", 2048, 32),
    "resnet101": _Cut(_without_average_pool_and_classifier, "fc", 2048, 32),
    "resnet152": _Cut(_without_average_pool_and_classifier, "fc", 2048, 32),
    "mobilenet_v2": _Cut(_features, "classifier", 1280, 32),
    "squeezenet1_1": _Cut(_features, "classifier", 512, 16),
}
BACKBONES: tuple[str, ...] = tuple(_CUTS)
_TIMM = "timm:"


def check_backbone_name(name: str) -> str:
    """`name` unchanged when it is one of `BACKBONES` or `timm:NAME`, else ValueError."""
    if name in _CUTS or (name.startswith(_TIMM) and len(name) > len(_TIMM)):
        return name
    raise ValueError(
        f"backbone: expected one of {', '.join(BACKBONES)} or timm:NAME, got {name!r}; choose one of them"
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
        build = _build_timm if name.startswith(_TIMM) else _build_torchvision
        return build(name, weights).eval()


def _build_torchvision(name: str, weights: str) -> Trunk:
    cut = _CUTS[name]
    if weights == "pretrained":
        # The first set of weights is the one the published retrieval networks start from.
        model = weight_files.downloaded(
            name, lambda: torchvision.models.get_model(name, weights="IMAGENET1K_V1")
        )
    else:
        model = torchvision.models.get_model(name, weights=None)
    setattr(model, cut.classifier, nn.Identity())
    if weights not in ("pretrained", "random"):
        weight_files.load_into(model, weights, name=name, classifier=cut.classifier)
    return Trunk(
        cut.take(model),
        name=name,
        out_channels=cut.out_channels,
        stride=cut.stride,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _build_timm(name: str, weights: str) -> Trunk:
    # Imported here: timm is an optional dependency, and slow to import.
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            f"backbone {name}: expected the package timm, got {error}; pip install timm"
        ) from error
    architecture = name.removeprefix(_TIMM)
    if not timm.is_model(architecture):
        raise ValueError(
            f"backbone: expected a name known to timm {timm.__version__}, got {architecture!r}; "
            "see timm.list_models()"
        )

    def create() -> Any:
        return timm.create_model(
            architecture, pretrained=weights == "pretrained", num_classes=0, global_pool=""
        )

    model = weight_files.downloaded(name, create) if weights == "pretrained" else create()
    facts = model.pretrained_cfg
    if weights not in ("pretrained", "random"):
        weight_files.load_into(model, weights, name=name, classifier=facts["classifier"])
    return Trunk(
        model,
        name=name,
        out_channels=_probed_channels(model, name),
        stride=model.feature_info[-1]["reduction"],
        mean=facts["mean"],
        std=facts["std"],
    )


def _probed_channels(model: Any, name: str) -> int:
    # timm's own num_features also exists for networks that give tokens instead of a map, so one image is
    # tried.
    _, height, width = model.pretrained_cfg["input_size"]
    with torch.inference_mode():
        activations = model.eval()(torch.zeros(1, 3, height, width))
    if activations.ndim != 4 or activations.shape[1] != model.num_features:
        raise ValueError(
            f"backbone {name}: expected an activation map (1, {model.num_features}, h, w), "
            f"got {tuple(activations.shape)}; choose a convolutional network"
        )
    return int(activations.shape[1])
