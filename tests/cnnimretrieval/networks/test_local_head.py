import json

import pytest
import torch
from torch.nn import functional

from cnnimretrieval.networks.local_head import LocalConfig, LocalHead, attention_pooled
from cnnimretrieval.networks.model_folder import read_folder, save
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.networks.trunk_stages import find_stage, run_to, watch

DELG, DELF = LocalConfig(), LocalConfig(reduction="pca", dim=3)
HOW = LocalConfig(reduction="whitening", attention="norm", dim=3)


def network_with(local: LocalConfig | None, backbone: str = "resnet18"):
    return build(NetworkConfig(backbone=backbone, local=local), "random", seed=3)


@pytest.mark.parametrize("local", [DELG, DELF])
def test_local_losses_never_reach_the_trunk(local):
    network = network_with(local)
    images = torch.randn(2, 3, 64, 96)
    network(images).sum().backward()
    alone = {name: weight.grad.clone() for name, weight in network.trunk.named_parameters()}
    network.zero_grad()
    maps = network.local_maps(images)
    loss = maps.scores.sum() + maps.descriptors.sum()
    if maps.reconstruction is not None:
        loss = loss + maps.reconstruction.square().sum()
    (network(images).sum() + loss).backward()
    assert all(torch.equal(weight.grad, alone[name]) for name, weight in network.trunk.named_parameters())
    head = network.local
    learned = [*head.attention.parameters(), *(head.expand.parameters() if head.expand else ())]
    assert all(weight.grad.abs().sum() > 0 for weight in learned)


def test_delg_equals_its_equations():
    head = LocalHead(LocalConfig(dim=4, hidden=6), 5, seed=2).eval()
    x = torch.randn(2, 5, 3, 4).relu()
    maps = head(x)
    for b, row, column in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        place = x[b, :, row, column]
        code = head.reduce.weight @ place + head.reduce.bias
        back = (head.expand.weight @ code + head.expand.bias).clamp(min=0)
        first, norm, _, last = head.attention
        hidden = first.weight[:, :, 0, 0] @ back + first.bias
        hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        score = functional.softplus(last.weight[:, :, 0, 0] @ hidden.clamp(min=0) + last.bias)
        assert torch.allclose(maps.descriptors[b, :, row, column], code / code.norm(), atol=1e-5)
        assert torch.allclose(maps.reconstruction[b, :, row, column], back, atol=1e-6)
        assert torch.allclose(maps.scores[b, row, column], score, atol=1e-6)


def test_how_attends_to_length_and_whitens_the_mean_of_neighbours():
    head = LocalHead(HOW, 5)
    x = torch.randn(1, 5, 4, 4)
    maps = head(x)
    assert torch.allclose(maps.scores, x.norm(dim=1))
    smooth = x[0, :, 1:4, 0:3].mean(dim=(1, 2))
    expected = functional.normalize(head.reduce.weight @ smooth + head.reduce.bias, dim=0)
    assert torch.allclose(maps.descriptors[0, :, 2, 1], expected, atol=1e-5)
    corner = x[0, :, :2, :2].mean(dim=(1, 2))
    expected = functional.normalize(head.reduce.weight @ corner + head.reduce.bias, dim=0)
    assert torch.allclose(maps.descriptors[0, :, 0, 0], expected, atol=1e-5)
    assert maps.reconstruction is None
    assert not any(weight.requires_grad for weight in head.parameters())


def test_attention_pools_unit_vectors_by_score():
    x = torch.tensor([[[[3.0, 0.0]], [[4.0, 2.0]]]])
    assert torch.allclose(attention_pooled(x, torch.tensor([[[2.0, 5.0]]])), torch.tensor([[0.6, 3.3]]))


@pytest.mark.parametrize(
    ("local", "channels", "dim"),
    [(DELG, 256, 128), (DELG, 96, 96), (LocalConfig(reduction="pca"), 256, 40), (HOW, 64, 3)],
)
def test_descriptors_are_as_long_as_published_or_the_map_allows(local, channels, dim):
    assert LocalHead(local, channels).dim == dim


def test_descriptors_longer_than_the_map_are_told():
    with pytest.raises(
        ValueError, match=r"^local\.dim: expected at most the 5 channels of the map, got 9; choose"
    ):
        LocalHead(LocalConfig(dim=9), 5)


@pytest.mark.parametrize(
    ("backbone", "layer", "channels"),
    [
        ("resnet18", "features.6", 256),
        ("squeezenet1_1", "features.12", 512),
        ("mobilenet_v2", "features.13", 96),
    ],
)
def test_stage_is_the_last_map_at_stride_sixteen(backbone, layer, channels):
    network = network_with(DELG, backbone)
    assert network.stage == (layer, channels, 16)
    images = torch.randn(1, 3, 64, 96)
    slow = images
    for part in list(network.trunk.features)[: int(layer.split(".")[1]) + 1]:
        slow = part(slow)
    assert torch.equal(network.stage_map(images), slow)


def test_a_trunk_without_such_a_map_is_told():
    trunk = network_with(None, "timm:swin_tiny_patch4_window7_224").trunk
    with pytest.raises(
        ValueError, match=r"local: expected a backbone with a map at stride 16, got timm:swin"
    ):
        find_stage(trunk)


def test_layers_behind_the_stage_do_not_run():
    network = network_with(DELG)
    ran = []
    network.trunk.features[7].register_forward_hook(lambda *_: ran.append("layer4"))
    watch(network.trunk, network.stage)
    run_to(network.trunk, torch.randn(1, 3, 64, 64), network.stage)
    assert not ran
    network(torch.randn(1, 3, 64, 64))
    assert ran == ["layer4"]


@pytest.mark.parametrize("local", [DELG, DELF, HOW])
def test_a_folder_holds_the_head_too(tmp_path, local):
    network = network_with(local)
    network.local.score_quantiles.copy_(torch.linspace(0, 7, 101))
    save(network, tmp_path)
    found = read_folder(tmp_path)
    images = torch.randn(1, 3, 64, 64)
    assert found.fingerprint() == network.fingerprint()
    for ours, theirs in zip(network.local_maps(images), found.local_maps(images), strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)


def test_a_network_without_head_is_what_it_always_was(tmp_path):
    save(network_with(None), tmp_path)
    written = json.loads((tmp_path / "network.json").read_text())
    assert "local" not in written
    assert sorted(written) == [
        "backbone",
        "gem_p",
        "image_size",
        "local_whitening",
        "mean",
        "pooling",
        "projection",
        "region_whitening",
        "regional",
        "scales",
        "std",
    ]
    # Of the weights and settings before there were local heads.
    assert network_with(None).fingerprint()[:16] == "7b65669289b057ef"


def test_a_head_changes_no_descriptor_and_no_random_number():
    images = torch.randn(1, 3, 64, 64)
    torch.manual_seed(5)
    plain, headed = network_with(None), network_with(DELG)
    assert torch.equal(plain(images), headed(images))
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)
    added = plain.with_local(DELG)
    assert torch.equal(added(images), plain(images))
    assert torch.equal(added.local_maps(images).scores, headed.local_maps(images).scores)
    assert headed.without_projection().local is None
