"""Receptive fields computed from layers against gradients: which pixels move a place of the map."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from cnnimretrieval.local.receptive_field import AxisField, FieldFinder, ReceptiveField
from cnnimretrieval.networks.local_head import LocalConfig
from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork, build

# One of each family, the smallest; those that take more than a second or two are left to the slow tests.
FAMILIES = ("alexnet", "resnet18", "squeezenet1_1", "mobilenet_v3_small")
SLOW_FAMILIES = (
    "vgg11",
    "densenet121",
    "mobilenet_v2",
    "efficientnet_b0",
    "resnet50",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "convnext_tiny",
    "timm:tf_efficientnet_lite0",
    "timm:resnet18",
    "timm:regnetx_002",
)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid)


def with_head(backbone: str, local: LocalConfig | None = None) -> RetrievalNetwork:
    return build(NetworkConfig(backbone=backbone, local=local or LocalConfig()), "random", seed=1)


class Averaged(nn.Module):
    """A pooling of maxima in whose place every pixel counts."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x):
        pool = self.pool
        return functional.avg_pool2d(x, pool.kernel_size, pool.stride, pool.padding, ceil_mode=pool.ceil_mode)


class Blind(nn.Module):
    """A pooling over the whole image through which no gradient passes."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x):
        return self.pool(x.detach())


def made_sensitive(module: nn.Module) -> None:
    """Let every pixel that a place has seen move it: positive weights, no dead units, no gates."""
    for name, child in module.named_children():
        if isinstance(child, nn.MaxPool2d):
            setattr(module, name, Averaged(child))
        elif isinstance(child, ACTIVATIONS):
            setattr(module, name, nn.Identity())
        elif isinstance(child, torchvision.ops.SqueezeExcitation):
            child.avgpool = Blind(child.avgpool)
        else:
            if isinstance(child, nn.BatchNorm2d):
                nn.init.ones_(child.weight)
            if isinstance(child, nn.Conv2d):
                child.weight.data.abs_()
                child.weight.data /= child.weight.data.sum(dim=(1, 2, 3), keepdim=True)
            made_sensitive(child)


def probed(network: RetrievalNetwork, field: AxisField, length: int, across: int) -> tuple[int, int]:
    """First and last pixel along a strip that move the first place whose field lies inside of it."""
    place = -(field.start // field.stride)
    images = torch.rand(1, 3, across, length, dtype=torch.float64, requires_grad=True)
    # Not through the stop of gradients that the head begins with.
    stage, head = network.require_local()
    layer = network.trunk.get_submodule(stage.layer)
    seen = []
    handle = layer.register_forward_hook(lambda _, __, output: seen.append(output))
    network.trunk(images)
    handle.remove()
    reducible = head.reducible(seen[0])
    reducible[0, :, reducible.shape[2] // 2, place].sum().backward()
    moved = torch.nonzero(images.grad.abs().sum(dim=(0, 1, 2)))
    return int(moved.min()) - place * field.stride, int(moved.max()) - place * field.stride


def assert_field_is_true(network: RetrievalNetwork, *, more: int = 0) -> None:
    field = FieldFinder(network).of(64, 64 + more).x
    length = -(-(field.size + 3 * field.stride) // 16) * 16 + more
    field = FieldFinder(network).of(64, length).x
    made_sensitive(network.trunk)
    network.trunk.double()
    assert probed(network, field, length, 64) == (field.start, field.start + field.size - 1)


@pytest.mark.parametrize("backbone", FAMILIES)
def test_field_is_what_moves_a_place(backbone):
    assert_field_is_true(with_head(backbone))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", SLOW_FAMILIES)
def test_field_is_what_moves_a_place_of_larger_networks(backbone):
    assert_field_is_true(with_head(backbone))


@pytest.mark.slow
@pytest.mark.parametrize("more", [1, 6, 15])
def test_field_follows_padding_that_depends_on_the_size(more):
    network = with_head("timm:tf_efficientnet_lite0")
    assert FieldFinder(network).of(64, 64 + more).x != FieldFinder(network).of(64, 64).x
    assert_field_is_true(network, more=more)


def test_smoothing_sees_a_place_more_on_every_side():
    plain = FieldFinder(with_head("squeezenet1_1")).of(64, 64)
    smooth = with_head("squeezenet1_1", LocalConfig(reduction="whitening"))
    assert FieldFinder(smooth).of(64, 64).x == AxisField(plain.x.start - 16, plain.x.size + 32, 16)
    assert_field_is_true(smooth)


def test_fields_of_published_networks():
    # Worked out by hand from kernels, strides and paddings, layer by layer.
    assert FieldFinder(with_head("resnet18")).of(99, 64).y == AxisField(-105, 211, 16)
    assert FieldFinder(with_head("squeezenet1_1")).of(64, 64).x == AxisField(-88, 207, 16)


def test_centres_and_boxes_are_in_pixels_whose_centres_are_at_a_half():
    field = ReceptiveField(x=AxisField(-3, 8, 4), y=AxisField(-1, 3, 2))
    assert np.array_equal(field.centres(2, 3), [[1, 0.5], [5, 0.5], [9, 0.5], [1, 2.5], [5, 2.5], [9, 2.5]])
    assert np.array_equal(field.boxes(2, 1), [[-3, -1, 5, 2], [-3, 1, 5, 4]])


def test_places_of_a_resnet_lie_on_every_sixteenth_pixel():
    centres = FieldFinder(with_head("resnet18")).of(64, 64).centres(2, 2)
    assert np.array_equal(centres, [[0.5, 0.5], [16.5, 0.5], [0.5, 16.5], [16.5, 16.5]])


@pytest.mark.slow
def test_a_patch_of_a_transformer_stands_for_itself():
    assert FieldFinder(with_head("timm:vit_tiny_patch16_224")).of(70, 70).x == AxisField(0, 16, 16)


def test_a_network_without_local_head_has_no_field():
    with pytest.raises(ValueError, match="expected one with a local head, got resnet18:gem without"):
        FieldFinder(build(NetworkConfig(), "random"))
