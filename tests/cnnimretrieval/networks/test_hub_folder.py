"""Networks as folders for model hubs."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import cnnimretrieval as cr
from cnnimretrieval.networks.hub_folder import read_hub_folder, save_hub_folder
from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.whitening.apply import Whitening


@pytest.fixture
def whitened(network):
    rng = np.random.default_rng(2)
    network.whitening, network.multi_scale_whitening = (
        Whitening(
            mean=rng.normal(size=network.dim) * 0.02,
            projection=rng.normal(size=(kept, network.dim)),
            kind=kind,
            note=f"drawn, {kept}",
        )
        for kept, kind in ((20, "learned"), (10, "pca"))
    )
    return network


def test_one_call_loads_the_folder_again(whitened, photos, tmp_path):
    save_hub_folder(whitened, tmp_path / "hub", "# A card\n")
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    again = cr.load(tmp_path / "hub")
    assert again.network.fingerprint() == whitened.fingerprint()
    for scales in ((1.0,), (1.0, 0.5)):
        expected = cr.Describer(whitened).describe(photos[:2], scales=scales)
        np.testing.assert_array_equal(again.describe(photos[:2], scales=scales), expected)
    assert again.network.whitening.note == "drawn, 20"
    assert again.network.multi_scale_whitening.kind == "pca"
    assert (tmp_path / "hub" / "README.md").read_text() == "# A card\n"


def test_a_network_without_whitening_and_what_hubs_ask_for(network, tmp_path):
    save_hub_folder(network, tmp_path, "")
    assert read_hub_folder(tmp_path).whitening is None
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "cnnimretrieval"
    assert config["descriptor_size"] == 512
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_folder_of_training_is_kept(network, tmp_path):
    save(network, tmp_path)
    with pytest.raises(ValueError, match="expected a folder of its own, got one that training wrote"):
        save_hub_folder(network, tmp_path, "")
    assert not (tmp_path / "config.json").exists()


def test_a_folder_of_another_kind_of_model_is_told(network, tmp_path):
    save_hub_folder(network, tmp_path, "")
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(
        ValueError, match=r"expected model_type 'cnnimretrieval', got 'resnet'; give a folder"
    ):
        cr.load(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(ValueError, match=r"config\.json: expected JSON"):
        cr.load(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_tensors_that_do_not_fit_are_told(whitened, tmp_path, damage):
    save_hub_folder(whitened, tmp_path, "")
    tensors = load_file(tmp_path / "model.safetensors")
    if damage == "missing":
        del tensors["whitening.mean"]
    else:
        tensors["whitening.mean"] = torch.zeros(3, dtype=torch.float64)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"expected whitening\.mean \(512,\) and whitening\.projection, got"):
        cr.load(tmp_path)


def test_a_folder_left_half_written_does_not_load(network, tmp_path):
    save_hub_folder(network, tmp_path, "")
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected a folder with network\.json"):
        cr.load(tmp_path)
