import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cnnimretrieval.networks.layer_files import load_layer
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.networks.toolbox_files import LAYERS
from cnnimretrieval.whitening.apply import Whitening, save_whitening

REMEDY = "give a file with a layer (weight, bias) of that size, or a whitening"
SHAPES = {"local_whitening": (512, 512), "region_whitening": (512, 512), "projection": (40, 512)}


@pytest.fixture
def network():
    config = NetworkConfig(
        backbone="squeezenet1_1", local_whitening=True, regional=True, region_whitening=True, projection=40
    )
    return build(config, "random")


def _layer_of(network, name):
    return {
        "local_whitening": network.local_whitening,
        "region_whitening": network.pool.whitening,
        "projection": network.projection,
    }[name]


def _state(name, seed=3):
    generator = torch.Generator().manual_seed(seed)
    outputs, inputs = SHAPES[name]
    return {
        "weight": torch.randn(outputs, inputs, generator=generator),
        "bias": torch.randn(outputs, generator=generator),
    }


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_state_of_a_linear_layer_becomes_that_layer_and_no_other(network, tmp_path, name, suffix):
    path, state = tmp_path / f"layer{suffix}", _state(name)
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    others = {key: value.clone() for key, value in network.state_dict().items()}
    load_layer(network, name, path)
    layer = _layer_of(network, name)
    assert torch.equal(layer.weight, state["weight"])
    assert torch.equal(layer.bias, state["bias"])
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, others[key])}
    assert len(changed) == 2


@pytest.mark.parametrize("convert", [torch.Tensor.half, torch.Tensor.double, torch.Tensor.numpy])
def test_layers_of_other_precision_and_of_arrays_are_read(network, tmp_path, convert):
    state = {key: value.half().float() for key, value in _state("projection").items()}
    torch.save({key: convert(value) for key, value in state.items()}, tmp_path / "layer.pth")
    load_layer(network, "projection", tmp_path / "layer.pth")
    assert torch.equal(network.projection.weight, state["weight"])


@pytest.mark.parametrize("theirs", [False, True])
def test_the_first_axes_of_a_whitening_become_a_layer(network, tmp_path, theirs):
    rng = np.random.default_rng(6)
    mean, projection = rng.normal(size=512), rng.normal(size=(50, 512))
    path = tmp_path / ("whiten.pth" if theirs else "whitening.safetensors")
    if theirs:
        torch.save({"m": mean[:, None], "P": projection}, path)
    else:
        save_whitening(Whitening(mean=mean, projection=projection, kind="pca", note=""), path)
    load_layer(network, "projection", path)
    np.testing.assert_allclose(network.projection.weight.detach(), projection[:40], atol=1e-6)
    expected = -(projection[:40] @ mean)
    np.testing.assert_allclose(network.projection.bias.detach(), expected, rtol=1e-5, atol=1e-5)


class _Payload:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            {"weight": torch.zeros(40, 512)},
            "expected the keys of a layer of 512 inputs and 40 outputs, got no 'bias'; " + REMEDY,
        ),
        (
            {**_state("projection"), "p": torch.ones(1)},
            "expected the keys of a layer of 512 inputs and 40 outputs, got 'p' too; " + REMEDY,
        ),
        (
            {"weight": torch.zeros(40, 256), "bias": torch.zeros(40)},
            "expected 'weight' of shape (40, 512) for a layer of 512 inputs and 40 outputs, got (40, 256); "
            + REMEDY,
        ),
        (
            {"weight": torch.zeros(512, 512), "bias": torch.zeros(512)},
            "expected 'weight' of shape (40, 512) for a layer of 512 inputs and 40 outputs, got (512, 512); "
            + REMEDY,
        ),
        (
            {"weight": torch.full((40, 512), torch.nan), "bias": torch.zeros(40)},
            "expected finite numbers as 'weight', got nan at [0, 0]; " + REMEDY,
        ),
        (
            {"weight": torch.zeros(40, 512), "bias": torch.zeros(40, dtype=torch.int64)},
            "expected real numbers of 16 to 64 bits as 'bias', got numbers of type int64; " + REMEDY,
        ),
        (
            [torch.zeros(40, 512)],
            "expected named tensors, got a list of something else; give the file of a state_dict",
        ),
        (
            {0: torch.zeros(40, 512)},
            "expected named tensors, got a Tensor as 0; give the file of a state_dict",
        ),
        (
            {"weight": "heavy"},
            "expected named tensors, got a str as 'weight'; give the file of a state_dict",
        ),
        (
            {"weight": _Payload()},
            "expected a .safetensors or .pth file of tensors, got one that holds print, which is not loaded; "
            "give another file",
        ),
        (
            {"m": np.zeros((3, 1)), "P": np.eye(3)},
            "expected at least 40 axes of 512-D vectors, got 3 of 3-D ones; learn it with this network, "
            "from more images",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(network, tmp_path, capsys, content, problem):
    path = tmp_path / "layer.pth"
    torch.save(content, path)
    before = network.fingerprint()
    with pytest.raises(ValueError, match=r"^projection ") as error:
        load_layer(network, "projection", path)
    assert str(error.value) == f"projection {path}: {problem}"
    assert network.fingerprint() == before
    assert capsys.readouterr().out == ""


def test_files_and_layers_that_are_not_there(network, tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        load_layer(network, "local_whitening", tmp_path / "none.pth")
    assert str(missing.value) == (
        f"local_whitening: expected a file, got {tmp_path}/none.pth, which is none; check the path"
    )
    (tmp_path / "cut.pth").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"^region_whitening .*, got one that is damaged or of another kind"):
        load_layer(network, "region_whitening", tmp_path / "cut.pth")
    plain = build(NetworkConfig(backbone="squeezenet1_1"), "random")
    for name in LAYERS:
        with pytest.raises(ValueError, match="expected a network with that layer") as error:
            load_layer(plain, name, tmp_path / "layer.pth")
        assert str(error.value) == (
            f"{name} {tmp_path}/layer.pth: expected a network with that layer, got one without; "
            f"set train.network.{name}"
        )
