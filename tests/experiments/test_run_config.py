import json
import tomllib

import pytest

from cnnimretrieval.training.settings.train_config import TrainConfig
from experiments.exit_codes import UsageFault
from experiments.settings import protocol
from experiments.settings.run_config import RunConfig
from pairs.mine import MineConfig
from sfm.reconstruct import ReconstructConfig


def as_toml(values, prefix=""):
    """A nested dict as TOML; None, which TOML cannot say, is left out."""
    plain = {key: value for key, value in values.items() if not isinstance(value, dict) and value is not None}
    lines = [f"[{prefix}]"] if prefix else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for key, value in values.items():
        if isinstance(value, dict):
            lines.append(as_toml(value, f"{prefix}.{key}" if prefix else key))
    return "\n".join(lines)


def test_sections_are_those_of_a_run():
    assert set(RunConfig.model_fields) == {*protocol.SECTIONS, "seed", "weights", "rounds"}


@pytest.mark.parametrize("name", protocol.names())
def test_packaged_protocols_resolve_and_come_back_from_a_file(name, tmp_path):
    config = protocol.read(name, ["train.loop.margin=0.625", "pairs.split.val_share=0.375"], seed=5).resolve(
        RunConfig
    )
    (tmp_path / "again.toml").write_text(as_toml(config.model_dump(mode="json")))
    again = protocol.read(str(tmp_path / "again.toml")).resolve(RunConfig)
    assert again == config
    assert (again.train.loop.margin, again.seed) == (0.625, 5)
    assert tomllib.loads((tmp_path / "again.toml").read_text())["train"]["loop"]["margin"] == 0.625


def test_nothing_said_is_the_stages_own_defaults(tmp_path):
    (tmp_path / "empty.toml").write_text("")
    assert protocol.read(str(tmp_path / "empty.toml")).resolve(RunConfig) == RunConfig()


def test_one_seed_for_all_that_give_no_other():
    config = protocol.read("small", ["pairs.seed=9"], seed=4).resolve(RunConfig)
    assert (config.seed, config.sfm.seed, config.pairs.seed, config.train.seed) == (4, 4, 9, 4)
    config = protocol.read("small", ["seed=6"]).resolve(RunConfig)
    assert (config.seed, config.sfm.seed, config.pairs.seed, config.train.seed) == (6, 6, 6, 6)


def test_the_seed_of_a_run_is_that_of_its_stages_from_python_too():
    config = RunConfig(seed=5)
    assert (config.sfm.seed, config.pairs.seed, config.train.seed) == (5, 5, 5)
    # A stage's own seed stays, also where it is the default.
    config = RunConfig(seed=5, pairs={"seed": 9}, train=TrainConfig(seed=0), sfm=ReconstructConfig())
    assert (config.sfm.seed, config.pairs.seed, config.train.seed) == (5, 9, 0)
    assert RunConfig.model_validate(config.model_dump()) == config
    assert RunConfig() == RunConfig(seed=0)


@pytest.mark.parametrize(
    ("section", "config"), [("sfm", ReconstructConfig), ("pairs", MineConfig), ("train", TrainConfig)]
)
def test_a_stage_alone_has_the_seed_of_the_whole_run(section, config):
    assert protocol.read("small", seed=7).resolve(config, section) == getattr(
        protocol.read("small", seed=7).resolve(RunConfig), section
    )
    assert protocol.read("small", [f"{section}.seed=3"], seed=7).resolve(config, section).seed == 3


def test_weights_of_the_command_line_go_first():
    assert protocol.read("demo").resolve(RunConfig).weights == "package:efficientnet_lite0"
    assert protocol.read("demo", weights="w.pth").resolve(RunConfig).weights == "w.pth"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "train.loop.epoch=3",
            "--set train.loop.epoch=3: unknown key 'train.loop.epoch'; did you mean 'train.loop.epochs'?",
        ),
        (
            "train.loop.epochs=x",
            "train.loop.epochs: expected an integer >= 0, got 'x'; change it in --set train.loop.epochs=x",
        ),
        (
            "train.network.backbone=resnet19",
            "train.network.backbone: expected timm:NAME or one that torchvision has of alexnet, vgg, resnet, "
            "resnext, wide_resnet, densenet, squeezenet, mobilenet, efficientnet, convnext, got 'resnet19'; "
            "did you mean 'resnet18'?; "
            "see --set train.network.backbone=resnet19",
        ),
        (
            "train.network.pooling=max",
            "train.network.pooling: expected one of 'mac', 'spoc', 'gem', 'gemmp', 'rmac', got 'max'; "
            "change it in --set train.network.pooling=max",
        ),
        (
            "sfm.features.max_side=800",
            "--set sfm.features.max_side=800: unknown key 'sfm.features.max_side'; "
            "did you mean 'sfm.features.max_side_px'?",
        ),
        ("seed=-1", "seed: expected an integer >= 0, got -1; change it in --set seed=-1"),
    ],
)
def test_what_is_wrong_with_a_real_setting(override, line):
    with pytest.raises(UsageFault) as caught:
        protocol.read("small", [override]).resolve(RunConfig)
    assert line in caught.value.lines
