"""Trunks of torchvision's classification networks: each family cut at the last map before its classifier."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torchvision
from torch import nn

from cnnimretrieval.networks import weights as weight_files
from cnnimretrieval.networks.pretrained import downloaded, torchvision_weights
from cnnimretrieval.networks.trunk import Trunk


def _layers_before_pooling(model: nn.Module) -> nn.Module:
    return nn.Sequential(*list(model.children())[:-2])


def _features(model: nn.Module) -> nn.Module:
    return model.get_submodule("features")


def _features_without_last_max_pool(model: nn.Module) -> nn.Module:
    return nn.Sequential(*list(_features(model).children())[:-1])


def _features_with_relu(model: nn.Module) -> nn.Module:
    # DenseNet applies this ReLU outside of its features.
    return nn.Sequential(*_features(model).children(), nn.ReLU(inplace=True))


@dataclass(frozen=True)
class _Cut:
    """How a family's networks are cut; `out_channels` None is what their first linear layer takes."""

    take: Callable[[nn.Module], nn.Module]
    classifier: str
    stride: int
    out_channels: int | None = None


_RESIDUAL = _Cut(_layers_before_pooling, "fc", 32)
_WHOLE_FEATURES = _Cut(_features, "classifier", 32)

# By how the names begin. Maps of the first seven families end in a ReLU, so they are non-negative, as GeM
# wants them; those of the others may be negative, which GeM clamps to zero.
_CUTS: Mapping[str, _Cut] = {
    "alexnet": _Cut(_features_without_last_max_pool, "classifier", 16, 256),
    "vgg": _Cut(_features_without_last_max_pool, "classifier", 16, 512),
    "resnet": _RESIDUAL,
    "resnext": _RESIDUAL,
    "wide_resnet": _RESIDUAL,
    "densenet": _Cut(_features_with_relu, "classifier", 32),
    "squeezenet": _Cut(_features, "classifier", 16, 512),
    "mobilenet": _WHOLE_FEATURES,
    "efficientnet": _WHOLE_FEATURES,
    "convnext": _WHOLE_FEATURES,
}
FAMILIES: tuple[str, ...] = tuple(_CUTS)
TORCHVISION_BACKBONES: tuple[str, ...] = tuple(
    name for name in torchvision.models.list_models(module=torchvision.models) if name.startswith(FAMILIES)
)


def build_torchvision(name: str, weights: str) -> Trunk:
    """The trunk of one of `TORCHVISION_BACKBONES`; `weights` and errors as in `backbones.build_trunk`."""
    cut = next(cut for family, cut in _CUTS.items() if name.startswith(family))
    if weights == "pretrained":
        offered = torchvision_weights(name)
        model: Any = downloaded(
            name, offered.url, lambda: torchvision.models.get_model(name, weights=offered)
        )
    else:
        model = torchvision.models.get_model(name, weights=None)
    channels = cut.out_channels or _inputs_of_first_linear(model.get_submodule(cut.classifier))
    setattr(model, cut.classifier, nn.Identity())
    features = cut.take(model)
    if weights not in ("pretrained", "random"):
        weight_files.load_into(model, features, weights, name=name, classifier=(cut.classifier,))
    return Trunk(features, name=name, out_channels=channels, stride=cut.stride)


def _inputs_of_first_linear(classifier: nn.Module) -> int:
    return next(layer.in_features for layer in classifier.modules() if isinstance(layer, nn.Linear))
