import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cnnimretrieval.networks.backbones import build_trunk
from cnnimretrieval.networks.tensor_files import plain_names, read_state

NAMES = ("features.0.weight", "features.3.squeeze.bias")


def _renamed(change):
    return {change(name): torch.full((2,), float(row)) for row, name in enumerate(NAMES)}


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: f"model.{name}",
        lambda name: f"backbone.{name}",
        lambda name: f"module.model.backbone._orig_mod.{name}",
        lambda name: f"model.module.net.{name}",
        lambda name: f"state_dict.{name}",
        lambda name: name.replace("features.", "features.module."),
        lambda name: name.replace("features.", "features._orig_mod."),
    ],
)
def test_names_are_freed_of_what_training_wrapped_them_in(change):
    found = plain_names(_renamed(change), NAMES, what="weights w", remedy="r")
    assert list(found) == list(NAMES)
    assert [value[0].item() for value in found.values()] == [0.0, 1.0]


def test_what_averages_weights_counts_beside_them():
    state = {"n_averaged": torch.tensor(3), **_renamed(lambda name: f"module.{name}")}
    assert set(plain_names(state, NAMES, what="weights w", remedy="r")) == set(NAMES)


def test_names_of_the_network_itself_stay():
    own = ("model.blocks.0.module.weight", "model.head.weight")
    state = dict.fromkeys(own, torch.zeros(1))
    assert tuple(plain_names(state, own, what="weights w", remedy="r")) == own
    # A prefix that only some names have is part of them.
    mixed = {"model.weight": torch.zeros(1), "bias": torch.zeros(1)}
    assert plain_names(mixed, what="weights w", remedy="r").keys() == mixed.keys()
    assert plain_names({}, what="weights w", remedy="r") == {}


def test_two_tensors_of_one_name_are_told():
    state = {"module.weight": torch.zeros(1), "weight": torch.zeros(1)}
    with pytest.raises(ValueError, match="weights w") as error:
        plain_names(state, what="weights w", remedy="give another file")
    assert str(error.value) == (
        "weights w: expected one tensor 'weight', got 'module.weight' and 'weight'; give another file"
    )


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: {"model": state},
        lambda state: {
            "state_dict": state,
            "epoch": 3,
            "optimizer": {"state": {0: {"step": 1}}, "groups": []},
        },
        lambda state: {"model_state_dict": state, "loss": torch.tensor(0.5)},
        lambda state: {"net": state},
        lambda state: {"network": state},
        lambda state: {"state_dict_ema": state},
        lambda state: {"model": {"state_dict": state}, "rng": np.arange(3)},
        lambda state: {
            "state_dict": state,
            "state_dict_ema": {name: value + 1 for name, value in state.items()},
        },
        lambda state: {
            "model": state,
            "args": argparse.Namespace(lr=0.1, output=Path("runs/1"), betas=(0.9, 1)),
        },
    ],
)
def test_weights_are_found_below_the_keys_of_training_scripts(tmp_path, wrapped):
    state = _renamed(str)
    torch.save(wrapped(state), tmp_path / "w.pth")
    found = read_state(tmp_path / "w.pth")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_file_that_holds_itself_ends(tmp_path):
    content = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth: expected named tensors, got a dict as 'model'; "):
        read_state(tmp_path / "w.pth")


def test_arrays_stand_for_tensors_but_not_those_of_letters(tmp_path):
    torch.save({"weight": np.arange(3.0)}, tmp_path / "w.pth")
    assert torch.equal(read_state(tmp_path / "w.pth")["weight"], torch.arange(3.0).double())


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_wrapped_weights_of_a_backbone_load_from_both_kinds_of_file(tmp_path, suffix):
    expected = build_trunk("squeezenet1_1", "random", seed=9)
    state = {f"module._orig_mod.{name}": value for name, value in expected.state_dict().items()}
    state["module._orig_mod.classifier.1.bias"] = torch.full((1000,), torch.nan)
    path = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save({"epoch": 2, "model": state}, path)
    else:
        save_file(state, path)
    found = build_trunk("squeezenet1_1", str(path)).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.state_dict().items())
