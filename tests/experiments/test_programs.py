"""Stages called from Python start from the protocol that the command line starts from."""

import pytest

import cnnimretrieval as cr
from cnnimretrieval import stages
from experiments.settings import protocol
from experiments.settings.run_config import RunConfig


@pytest.fixture
def called(monkeypatch):
    """What each stage is called with, in place of its work."""
    seen = {}
    for name in ("reconstruct", "mine", "fine_tune"):
        monkeypatch.setattr(
            stages, name, lambda *given, name=name, **options: seen.update({name: (*given, options)})
        )
    return seen


def test_settings_are_those_of_the_command_line(called):
    small = protocol.read("small").resolve(RunConfig)
    cr.reconstruct("photos", "sfm", workers=2)
    cr.mine("sfm", "pairs")
    cr.fine_tune("pairs", "model")
    assert called["reconstruct"] == ("photos", "sfm", small.sfm, {"workers": 2})
    assert called["mine"] == ("sfm", "pairs", small.pairs, {})
    machine = {"weights": small.weights, "device": "cpu", "workers": None}
    assert called["fine_tune"] == ("pairs", "model", small.train, machine)
    assert small.train != cr.TrainConfig()


def test_another_protocol_is_named_and_single_settings_are_changed(called):
    settings = ["seed=4", "train.loop.epochs=9", "pairs.heldout.tries=7", "sfm.graph.min_inliers=44"]
    demo = protocol.read("demo", settings).resolve(RunConfig)
    cr.reconstruct("photos", "sfm", protocol="demo", settings=settings)
    cr.mine("sfm", "pairs", protocol="demo", settings=settings)
    cr.fine_tune("pairs", "model", protocol="demo", settings=settings, weights="random")
    assert called["reconstruct"][2] == demo.sfm
    assert called["mine"][2] == demo.pairs
    assert called["fine_tune"][2] == demo.train
    assert called["fine_tune"][3]["weights"] == "random"
    assert (called["fine_tune"][2].seed, called["fine_tune"][2].loop.epochs) == (4, 9)


def test_a_config_is_complete(called):
    config = cr.TrainConfig(seed=8)
    cr.fine_tune("pairs", "model", config)
    assert called["fine_tune"][2] is config
    assert called["fine_tune"][3]["weights"] == "pretrained"
    with pytest.raises(ValueError, match="config") as error:
        cr.mine("sfm", "pairs", cr.MineConfig(), protocol="small", settings=["seed=3"])
    assert str(error.value) == (
        "config: expected it without protocol and settings, got protocol 'small', seed=3 as well; "
        "leave one out"
    )
    assert "mine" not in called


def test_unknown_protocols_and_settings_are_told():
    with pytest.raises(ValueError, match="expected one that"):
        cr.mine("sfm", "pairs", protocol="smal")
    with pytest.raises(ValueError, match="unknown key"):
        cr.mine("sfm", "pairs", settings=["pairs.no_such=1"])
