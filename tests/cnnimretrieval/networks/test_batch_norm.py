import pytest
import torch
from torch import nn

from cnnimretrieval.networks.backbones import build_trunk
from cnnimretrieval.networks.batch_norm import merge_batch_norm
from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.networks.open import load
from cnnimretrieval.networks.trunk import Trunk

MERGED = NetworkConfig(backbone="resnet18", merged_batch_norm=True)


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 80, generator=torch.Generator().manual_seed(6))


def _spread(trunk: nn.Module) -> None:
    """Statistics and scales as after training: those of a fresh network change nothing."""
    generator = torch.Generator().manual_seed(1)
    for layer in trunk.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.running_mean, layer.bias.data):
                values.copy_(torch.randn(values.shape, generator=generator) / 10)
            for values in (layer.running_var, layer.weight.data):
                values.copy_(torch.rand(values.shape, generator=generator) + 0.5)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vgg11_bn"])
def test_a_merged_trunk_gives_what_it_gave_without_any_normalisation(name, images):
    plain, merged = (build_trunk(name, "random", seed=2) for _ in range(2))
    for trunk in (plain, merged):
        _spread(trunk)
    merge_batch_norm(merged)
    with torch.inference_mode():
        expected = plain(images)
        torch.testing.assert_close(merged(images), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in plain.modules())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in merged.modules())


class _Backwards(nn.Module):
    """Holds a convolution before its normalisation and calls them the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, images):
        return self.conv(self.norm(images))


@pytest.mark.parametrize(
    ("layers", "found"),
    [(nn.Conv2d(3, 3, 1), "none"), (_Backwards(), "one that mixes them with other layers")],
)
def test_what_cannot_be_merged_is_told(layers, found):
    trunk = Trunk(layers, name="odd", out_channels=3, stride=1)
    _spread(trunk)
    with pytest.raises(ValueError, match=rf"^merged_batch_norm: .* got odd, which has {found}; leave "):
        merge_batch_norm(trunk)


def test_a_folder_keeps_a_merged_network(tmp_path, images):
    network = build(MERGED, "random", seed=4)
    save(network, tmp_path)
    again = load(tmp_path)
    assert again.config.merged_batch_norm
    assert again.fingerprint() == network.fingerprint()
    with torch.inference_mode():
        assert torch.equal(again(images), network(images))
    assert build(NetworkConfig(backbone="resnet18"), "random", seed=4).fingerprint() != network.fingerprint()
