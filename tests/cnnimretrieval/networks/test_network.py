import hashlib

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cnnimretrieval.networks.linear import set_to_whitening
from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.networks.open import load
from cnnimretrieval.networks.pooling import Gem, Regional, l2_normalise
from cnnimretrieval.whitening.apply import Whitening, apply
from cnnimretrieval.whitening.estimates import pca_whitening


@pytest.fixture
def images():
    return torch.randn(3, 3, 64, 80, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("pooling", ["mac", "spoc", "gem"])
def test_descriptors_are_unit_rows_of_the_pooled_activations(images, pooling):
    network = build(NetworkConfig(backbone="squeezenet1_1", pooling=pooling), "random")
    with torch.inference_mode():
        descriptors = network(images)
        activations = network.trunk(images)
    pooled = {
        "mac": activations.amax(dim=(2, 3)),
        "spoc": activations.mean(dim=(2, 3)),
        "gem": activations.clamp(min=1e-6).pow(3).mean(dim=(2, 3)).pow(1 / 3),
    }[pooling]
    torch.testing.assert_close(descriptors, torch.nn.functional.normalize(pooled), rtol=0, atol=1e-5)
    assert descriptors.shape == (3, network.dim)
    assert network.multi_scale_power == (3.0 if pooling == "gem" else 1.0)


EVERY_LAYER = NetworkConfig(
    backbone="squeezenet1_1",
    pooling="gemmp",
    local_whitening=True,
    regional=True,
    region_whitening=True,
    projection=40,
)


def _whitening(inputs, axes, seed):
    rng = np.random.default_rng(seed)
    return Whitening(
        mean=rng.normal(size=inputs), projection=rng.normal(size=(axes, inputs)), kind="pca", note=""
    )


def test_a_folder_with_the_whitening_of_another_network_is_told(tmp_path):
    network = build(NetworkConfig(backbone="squeezenet1_1"), "random")
    network.whitening = _whitening(30, 4, 1)
    save(network, tmp_path)
    with pytest.raises(ValueError, match="whitening") as error:
        load(tmp_path)
    assert str(error.value) == (
        f"network {tmp_path}/whitening.safetensors: expected a whitening of 512-D descriptors, got one of "
        "30-D ones; write the network again"
    )


def test_layers_that_are_not_learned_yet_leave_the_descriptor_as_it_is(images):
    plain = build(NetworkConfig(backbone="squeezenet1_1"), "random")
    options = {"local_whitening": True, "projection": 100}
    more = build(plain.config.model_copy(update=options), "random")
    with torch.inference_mode():
        expected = plain(images)[:, :100]
        torch.testing.assert_close(more(images), torch.nn.functional.normalize(expected), rtol=0, atol=1e-5)
    assert (plain.dim, more.dim) == (512, 100)


def test_every_layer_acts_in_its_place(images):
    network = build(EVERY_LAYER, "random")
    local, region, end = _whitening(512, 512, 1), _whitening(512, 512, 2), _whitening(512, 50, 3)
    set_to_whitening(network.local_whitening, local)
    set_to_whitening(network.pool.whitening, region)
    set_to_whitening(network.projection, end)
    with torch.inference_mode():
        activations = network.trunk(images).double().numpy()
        found = network(images)
    at_locations = np.einsum("dc,bchw->bdhw", local.projection, activations - local.mean[:, None, None])
    pooled = Regional(Gem(3.0)).region_vectors(torch.from_numpy(at_locations)).detach().numpy()
    regions = apply(region, pooled.reshape(-1, 512)).reshape(pooled.shape)
    expected = apply(end, l2_normalise(torch.from_numpy(regions.sum(axis=1))).numpy(), 40)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert network.exponent.shape == (512,)
    assert network.multi_scale_power == 1.0


@pytest.mark.parametrize(
    ("option", "power"),
    [({}, 2.4), ({"local_whitening": True}, 2.4), ({"regional": True}, 1.0), ({"projection": 7}, 1.0)],
)
def test_only_plain_gem_averages_scales_with_its_exponent(option, power):
    network = build(NetworkConfig(backbone="squeezenet1_1", gem_p=2.4, **option), "random")
    assert network.multi_scale_power == pytest.approx(power)


def test_a_layer_takes_the_first_axes_of_a_whitening():
    layer, whitening = torch.nn.Linear(6, 3), _whitening(6, 5, 0)
    set_to_whitening(layer, whitening)
    x = np.random.default_rng(1).normal(size=(4, 6))
    expected = (x - whitening.mean) @ whitening.projection[:3].T
    np.testing.assert_allclose(layer(torch.from_numpy(x).float()).detach(), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"^whitening for a layer: ") as error:
        set_to_whitening(torch.nn.Linear(6, 6), whitening)
    assert str(error.value) == (
        "whitening for a layer: expected at least 6 axes of 6-D vectors, got 5 of 6-D ones; "
        "learn it with this network, from more images"
    )


def test_the_exponent_learns(network, images):
    assert network.pool.p.requires_grad
    network(images)[0, 0].backward()
    assert network.pool.p.grad.abs().item() > 0.0


def test_a_folder_gives_the_same_network_back(network, images, tmp_path):
    network.pool.p.data.fill_(2.4)
    with torch.inference_mode():
        network.whitening = pca_whitening(network(images).numpy())
        save(network, tmp_path / "model")
        again = load(tmp_path / "model")
        assert torch.equal(again(images), network(images))
    assert not again.training
    assert again.config == network.config
    assert again.multi_scale_power == pytest.approx(2.4)
    np.testing.assert_array_equal(again.whitening.projection, network.whitening.projection)
    assert again.fingerprint() == network.fingerprint()
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert names == ["network.json", "weights.safetensors", "whitening.safetensors"]


def test_a_folder_keeps_every_layer_and_both_whitenings(images, tmp_path):
    config = EVERY_LAYER.model_copy(update={"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)})
    network = build(config, "random")
    set_to_whitening(network.projection, _whitening(512, 40, 3))
    network.whitening, network.multi_scale_whitening = _whitening(40, 30, 4), _whitening(40, 20, 5)
    save(network, tmp_path)
    again = load(tmp_path)
    with torch.inference_mode():
        assert torch.equal(again(images), network(images))
    assert (again.trunk.mean, again.trunk.std) == (config.mean, config.std)
    assert again.whitening_for((1.0,)).dim == 30
    assert again.whitening_for((1.0, 0.5)).dim == 20
    again.multi_scale_whitening = None
    assert again.whitening_for((1.0, 0.5)).dim == 30


def test_an_option_that_is_off_is_not_part_of_the_fingerprint(network):
    config = '{"backbone":"squeezenet1_1","pooling":"gem","gem_p":3.0}'
    digest = hashlib.sha256(config.encode())
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode() + value.numpy().tobytes())
    assert network.fingerprint() == digest.hexdigest()
    shifted = build(network.config.model_copy(update={"mean": (0.0, 0.0, 0.0)}), "random", seed=3)
    assert shifted.fingerprint() != network.fingerprint()


def test_parts_that_do_not_fit_together_are_named():
    for wrong, line in (
        (
            {"regional": True, "pooling": "rmac"},
            "regional: expected pooling mac, spoc, gem or gemmp, got rmac, which has regions of its own; "
            "choose one of the two",
        ),
        (
            {"region_whitening": True},
            "region_whitening: expected regional = true, got false; set it, or leave region_whitening out",
        ),
    ):
        with pytest.raises(ValidationError) as error:
            NetworkConfig(**wrong)
        assert error.value.errors()[0]["msg"] == f"Value error, {line}"
    with pytest.raises(ValueError, match=r"^projection: ") as error:
        build(NetworkConfig(backbone="squeezenet1_1", projection=513), "random")
    assert str(error.value) == (
        "projection: expected at most the 512 dimensions of squeezenet1_1, got 513; choose a smaller one"
    )


def test_saving_again_without_whitening_forgets_the_old_one(network, tmp_path):
    identity = Whitening(mean=np.zeros(512), projection=np.eye(512), kind="pca", note="")
    network.whitening = identity
    save(network, tmp_path)
    assert load(tmp_path).whitening is not None
    network.whitening = None
    save(network, tmp_path)
    assert load(tmp_path).whitening is None


def test_a_folder_that_was_left_half_written_does_not_load(network, tmp_path, monkeypatch):
    save(network, tmp_path)

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("cnnimretrieval.networks.model_folder.save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save(network, tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"^network .*: expected a folder with network\.json, got none; train"
    ):
        load(tmp_path)


def test_fingerprints_tell_networks_apart(network):
    before = network.fingerprint()
    network.pool.p.data.add_(1e-6)
    assert network.fingerprint() != before


def test_names_of_networks_are_read_as_backbone_and_pooling():
    assert load("squeezenet1_1", "random").config == NetworkConfig(backbone="squeezenet1_1", pooling="gem")
    assert load("squeezenet1_1:mac", "random").config.pooling == "mac"
    assert load("squeezenet1_1:mac-r", "random").config.regional
    pytest.importorskip("timm")
    config = load("timm:tf_efficientnet_lite0:spoc", "random").config
    assert config == NetworkConfig(backbone="timm:tf_efficientnet_lite0", pooling="spoc")


def test_wrong_names_and_folders_are_named(network, tmp_path):
    for name in ("resnet19", "resnet18:max", str(tmp_path / "none")):
        with pytest.raises(
            ValueError,
            match=r"^network: expected a folder written by training, a checkpoint or BACKBONE\[:POOLING\]",
        ):
            load(name, "random")
    with pytest.raises(ValueError, match=r"^network: ") as error:
        load("gl18-tl-resnet50-gem-w")
    assert str(error.value) == (
        "network: expected the file of the published network gl18-tl-resnet50-gem-w, got its name; "
        "download it and give its path, which ends in gl18-tl-resnet50-gem-w-83fdc30.pth"
    )
    save(network, tmp_path)
    with pytest.raises(
        ValueError, match=r"expected no other weights for a saved network, got x\.pth; leave them out$"
    ):
        load(tmp_path, "x.pth")
    (tmp_path / "network.json").write_text('{"backbone": "alexnet"}')
    with pytest.raises(
        ValueError,
        match=r"'trunk\.features\.0\.weight' of shape .* for alexnet:gem, got \(64, 3, 3, 3\); write",
    ):
        load(tmp_path)
    (tmp_path / "network.json").write_text('{"backbone": "alexnet", "depth": 3}')
    with pytest.raises(
        ValueError,
        match=r"network\.json: expected a network's config of this version, got the unknown key 'depth'",
    ):
        load(tmp_path)
