import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.open import load
from cnnimretrieval.networks.reference import save_reference
from cnnimretrieval.whitening.apply import Whitening

EYE = np.eye(512)


@pytest.fixture
def model(network, tmp_path):
    """The folder of a whole network with a whitening."""
    network.whitening = Whitening(mean=np.zeros(512), projection=EYE, kind="pca", note="")
    save(network, tmp_path / "model")
    assert load(tmp_path / "model").fingerprint() == network.fingerprint()
    return tmp_path / "model"


def _told(path):
    with pytest.raises(ValueError, match="expected") as error:
        load(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ('{"backbone": ', "Invalid JSON: EOF while parsing a value"),
        ("", "Invalid JSON: EOF while parsing"),
        ('{"backbone": "squeezenet1_1", "version": 2}', "the unknown key 'version'"),
        (
            '{"backbone": "squeezenet1_1", "std": [0.1, 0.0, 0.1]}',
            "'std.1' = 0.0: Input should be greater than 0",
        ),
        ('{"backbone": "squeezenet1_1", "std": [0.1, NaN, 0.1]}', "'std.1' = nan: Input should be"),
        (
            '{"backbone": "squeezenet1_1", "std": ["a", 1, 1]}',
            "'std.0' = 'a': Input should be a valid number",
        ),
        (
            '{"backbone": "squeezenet1_1", "mean": [0.1, Infinity, 0.1]}',
            "'mean.1' = inf: Input should be a finite",
        ),
        ('{"backbone": "squeezenet1_1", "mean": [0.1, 0.1]}', "'mean.2' = [0.1, 0.1]: Field required"),
        (
            '{"backbone": "squeezenet1_1", "gem_p": 0}',
            "'gem_p' = 0: Input should be greater than or equal to 1",
        ),
        ('{"backbone": 3}', "'backbone' = 3: Input should be a valid string"),
    ],
)
def test_a_config_that_is_damaged_is_told_with_its_file(model, text, got):
    (model / "network.json").write_text(text)
    told = _told(model)
    assert told.startswith(
        f"network {model}/network.json: expected a network's config of this version, got {got}"
    )
    assert told.endswith("; write the network again")


def _set(key, value):
    return lambda state: state | {key: value(state[key])}


WEIGHT = "trunk.features.0.weight"


@pytest.mark.parametrize(
    ("spoil", "got"),
    [
        (
            _set(WEIGHT, lambda x: x * torch.nan),
            f"expected finite numbers as '{WEIGHT}', got nan at [0, 0, 0, 0]",
        ),
        (
            _set(WEIGHT, torch.Tensor.char),
            f"expected real numbers of 16 to 64 bits as '{WEIGHT}', got numbers of",
        ),
        (_set(WEIGHT, lambda x: x[:5].clone()), f"expected '{WEIGHT}' of shape (64, 3, 3, 3)"),
        (_set("pool.p", lambda x: x * torch.inf), "expected finite numbers as 'pool.p', got inf at [0]"),
        (lambda s: {k: v for k, v in s.items() if k != WEIGHT}, f"got no '{WEIGHT}'"),
        (lambda s: s | {"more": torch.zeros(1)}, "got 'more' too"),
    ],
)
def test_weights_that_are_damaged_are_told_with_their_file(model, spoil, got):
    path = model / "weights.safetensors"
    save_file(spoil(load_file(path)), path)
    told = _told(model)
    assert told.startswith(f"network {path}: ")
    assert got in told
    assert told.endswith("; write the network again")


@pytest.mark.parametrize("name", ["weights", "whitening"])
def test_truncated_files_are_told(model, name):
    path = model / f"{name}.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    assert str(path) in _told(model)


@pytest.mark.parametrize(
    ("spoil", "got"),
    [
        (
            lambda s: {k: v * 0 for k, v in s.items()} | {"pool.p": s["pool.p"]},
            "expected different descriptors",
        ),
        (lambda s: {k: v * 0 for k, v in s.items()}, "expected exponents of GeM above 0, got 0; "),
        (_set("pool.p", lambda x: x * -1), "expected exponents of GeM above 0, got -3; "),
        (_set(WEIGHT, lambda x: x * 0), "expected different descriptors of different images, got the same; "),
        (
            _set(WEIGHT, lambda x: x.sign() * 3e38),
            "expected finite descriptors other than 0, got NaN or infinity",
        ),
    ],
)
def test_finite_weights_that_describe_nothing_are_refused(model, spoil, got):
    path = model / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in spoil(load_file(path)).items()}, path)
    told = _told(model)
    assert told.startswith(f"network {model}: {got}")


def test_a_std_that_is_next_to_nothing_is_refused(model):
    config = json.loads((model / "network.json").read_text())
    (model / "network.json").write_text(json.dumps(config | {"std": [1e-36, 1.0, 1.0]}))
    assert "expected finite descriptors other than 0, got" in _told(model)


@pytest.mark.parametrize(
    ("mean", "projection", "got"),
    [
        (np.zeros(512), EYE * 0, "expected a projection, got 262144 zeros"),
        (np.full(512, np.nan), EYE, "expected finite numbers, got NaN or infinity"),
        (np.zeros(512), np.full((3, 512), np.inf), "expected finite numbers, got NaN or infinity"),
        (np.zeros(512, np.int64), EYE, "expected real numbers as mean, got int64"),
        (np.zeros(512), EYE.astype(np.int8), "expected real numbers as projection, got int8"),
        (np.zeros(512), EYE.astype(np.complex64), "expected real numbers as projection, got complex64"),
        (np.zeros(512), EYE[:, :7].copy(), "expected a projection (k, 512), got (512, 7)"),
        (np.zeros((512, 1)), EYE, "expected a projection (k, 512), got (512, 512)"),
        (np.zeros(7), np.eye(7), "expected a whitening of 512-D descriptors, got one of 7-D ones"),
        (np.full(512, 1e300), EYE, "expected its whitening to give finite descriptors other than 0, got NaN"),
    ],
)
def test_a_whitening_that_is_damaged_is_told(model, mean, projection, got):
    save_arrays(
        {"mean": mean, "projection": projection}, model / "whitening.safetensors", {"kind": "pca", "note": ""}
    )
    told = _told(model)
    assert str(model) in told
    assert got in told


def test_a_whitening_of_an_unknown_kind_or_without_a_part_is_told(model):
    path = model / "whitening.safetensors"
    save_arrays({"mean": np.zeros(512), "projection": EYE}, path, {"kind": "zca", "note": ""})
    assert "expected the kind learned or pca, got 'zca'" in _told(model)
    save_arrays({"mean": np.zeros(512)}, path, {"kind": "pca"})
    assert f"{path}: expected mean and projection" in _told(model)


def test_weights_off_the_shelf_are_tried_too(network, tmp_path):
    path = tmp_path / "w.pth"
    torch.save({name: value * 0 for name, value in network.trunk.state_dict().items()}, path)
    with pytest.raises(ValueError, match="network") as error:
        load("squeezenet1_1", str(path))
    assert str(error.value) == (
        f"network squeezenet1_1, {path}: expected different descriptors of different images, got the same; "
        "give another network, or write this one again"
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda meta, state: {
            "meta": meta,
            "state_dict": {f"module.{k}": v for k, v in state.items()},
            "epoch": 3,
        },
        lambda meta, state: {"meta": meta, "model": {f"_orig_mod.module.{k}": v for k, v in state.items()}},
    ],
)
def test_checkpoints_of_the_toolbox_are_freed_of_wrappers_in_the_same_way(network, tmp_path, wrap):
    save_reference(network, tmp_path / "plain.pth")
    content = torch.load(tmp_path / "plain.pth", weights_only=True)
    torch.save(wrap(content["meta"], content["state_dict"]), tmp_path / "wrapped.pth")
    assert load(tmp_path / "wrapped.pth").fingerprint() == load(tmp_path / "plain.pth").fingerprint()
    spoilt = {name: value.char() for name, value in content["state_dict"].items()}
    torch.save(wrap(content["meta"], spoilt), tmp_path / "spoilt.pth")
    assert "expected real numbers of 16 to 64 bits as" in _told(tmp_path / "spoilt.pth")
