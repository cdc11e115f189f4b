from typing import Literal

import pytest
from pydantic import Field, field_validator

from experiments.exit_codes import UsageFault
from experiments.settings import protocol
from groundwork.settings import Settings


class Features(Settings):
    max_side_px: int = Field(default=1600, gt=0)
    peak: float = Field(default=0.5, ge=0, lt=1)
    kind: Literal["sift", "none"] = "sift"
    scales: tuple[float, ...] = (1.0,)
    upright: bool = False
    weights: str = "pretrained"
    limit: int | None = None

    @field_validator("weights")
    @classmethod
    def _no_blank(cls, value: str) -> str:
        if " " in value:
            raise ValueError(f"weights: expected a name without blanks, got '{value}'; rename the file")
        return value


class Reconstruct(Settings):
    features: Features = Features()
    seed: int = Field(default=0, ge=0)


class Train(Settings):
    epochs: int = Field(default=3, ge=0)
    rate: float = 1e-6


class Everything(Settings):
    sfm: Reconstruct = Reconstruct()
    train: Train = Train()


def read(tmp_path, text="", *overrides):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return protocol.read(str(path), overrides)


def faults(tmp_path, text="", *overrides):
    with pytest.raises(UsageFault) as caught:
        read(tmp_path, text, *overrides).resolve(Everything)
    return list(caught.value.lines)


def test_file_then_overrides_then_defaults(tmp_path):
    text = "[sfm]\nseed = 7\n[sfm.features]\nmax_side_px = 800\npeak = 0.25\n"
    config = read(tmp_path, text, "sfm.features.peak=0.125", "train.rate=3e-6").resolve(Everything)
    assert config == Everything(
        sfm=Reconstruct(seed=7, features=Features(max_side_px=800, peak=0.125)), train=Train(rate=3e-6)
    )


def test_a_file_builds_on_another(tmp_path):
    (tmp_path / "base.toml").write_text(
        "seed = 3\n[sfm.features]\npeak = 0.25\nscales = [1, 2]\n[train]\nepochs = 9\n"
    )
    (tmp_path / "between.toml").write_text('extends = "base.toml"\n[sfm.features]\nscales = [3]\n')
    found = read(tmp_path, 'extends = "between.toml"\n[train]\nrate = 1e-3\n', "train.epochs=4")
    assert found.source == "mine.toml"
    assert found.values == {
        "seed": 3,
        "sfm": {"features": {"peak": 0.25, "scales": [3]}},
        "train": {"epochs": 4, "rate": 1e-3},
    }
    small = read(tmp_path, 'extends = "small"\n[train.loop]\nepochs = 77\n').values
    expected = protocol.read("small", ["train.loop.epochs=77"]).values
    assert small == expected


def test_files_that_cannot_be_built_on(tmp_path):
    assert faults(tmp_path, "extends = 3\n") == [
        "mine.toml: extends: expected the name of a protocol, got 3; write one name"
    ]
    (line,) = faults(tmp_path, 'extends = "smal"\n')
    assert line.startswith("--protocol: expected one that")
    (line,) = faults(tmp_path, 'extends = "mine.toml"\n')
    assert "expected protocols that do not extend each other in a circle" in line


def test_one_section_alone(tmp_path):
    read_protocol = read(tmp_path, "[train]\nepochs = 'wrong, and none of its business'\n[sfm]\nseed = 7\n")
    assert read_protocol.resolve(Reconstruct, "sfm") == Reconstruct(seed=7)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("features.scales=[1, 0.5]", ("scales", (1.0, 0.5))),
        ("features.kind=none", ("kind", "none")),
        ("features.kind='none'", ("kind", "none")),
        ("features.upright=true", ("upright", True)),
        ("features.weights=a=b", ("weights", "a=b")),
        ("features.weights=/tmp/w.pth", ("weights", "/tmp/w.pth")),
        (" features.peak = 0.125 ", ("peak", 0.125)),
        ("features.peak=0", ("peak", 0.0)),
    ],
)
def test_values_of_set(tmp_path, text, value):
    features = read(tmp_path, "", f"sfm.{text.strip()}").resolve(Reconstruct, "sfm").features
    assert getattr(features, value[0]) == value[1]


def test_set_gives_one_value_only(tmp_path):
    line = "sfm.seed: expected an integer >= 0, got '1\\nother = 2'; change it in --set sfm.seed=1\nother = 2"
    assert faults(tmp_path, "", "sfm.seed=1\nother = 2") == [line]


def test_later_set_wins(tmp_path):
    assert read(tmp_path, "", "train.epochs=5", "train.epochs=6").resolve(Train, "train").epochs == 6


@pytest.mark.parametrize(
    ("text", "overrides", "line"),
    [
        (
            "[sfm.features]\nmax_side = 3\n",
            (),
            "mine.toml: unknown key 'sfm.features.max_side'; did you mean 'sfm.features.max_side_px'?",
        ),
        (
            "",
            ("sfm.epochs=1",),
            "--set sfm.epochs=1: unknown key 'sfm.epochs'; did you mean 'train.epochs'?",
        ),
        ("", ("train.zzz=1",), "--set train.zzz=1: unknown key 'train.zzz'; expected one of epochs, rate"),
        ("[trian]\n", (), "mine.toml: unknown key 'trian'; did you mean 'train'?"),
        (
            "",
            ("trian.epochs=3",),
            "--set trian.epochs=3: unknown key 'trian'; did you mean 'train'?",
        ),
        (
            "",
            ("train.epochs=x",),
            "train.epochs: expected an integer >= 0, got 'x'; change it in --set train.epochs=x",
        ),
        (
            "[train]\nepochs = '3'\n",
            (),
            "train.epochs: expected an integer >= 0, got '3'; change it in mine.toml",
        ),
        (
            "[train]\nepochs = -1\n",
            (),
            "train.epochs: expected an integer >= 0, got -1; change it in mine.toml",
        ),
        (
            "[train]\nepochs = true\n",
            (),
            "train.epochs: expected an integer >= 0, got True; change it in mine.toml",
        ),
        (
            "[train]\nrate = nan\n",
            (),
            "train.rate: expected a number, got nan; change it in mine.toml",
        ),
        (
            "[sfm.features]\npeak = 1\n",
            (),
            "sfm.features.peak: expected a number >= 0 and < 1, got 1; change it in mine.toml",
        ),
        (
            "[sfm.features]\nkind = 'surf'\n",
            (),
            "sfm.features.kind: expected one of 'sift', 'none', got 'surf'; change it in mine.toml",
        ),
        (
            "[sfm.features]\nscales = [1, 'half']\n",
            (),
            "sfm.features.scales: expected a list, each a number, got 'half'; change it in mine.toml",
        ),
        (
            "[sfm.features]\nlimit = 'x'\n",
            (),
            "sfm.features.limit: expected an integer or nothing, got 'x'; change it in mine.toml",
        ),
        (
            "[sfm]\nfeatures = 3\n",
            (),
            "sfm.features: expected a table of settings, got 3; change it in mine.toml",
        ),
        (
            "[sfm.features]\nweights = 'a b'\n",
            (),
            "sfm.features.weights: expected a name without blanks, got 'a b'; rename the file; see mine.toml",
        ),
        (
            "",
            ("train.epochs",),
            "--set: expected key=value, got 'train.epochs'; write it like --set pairs.seed=3",
        ),
        ("", ("=3",), "--set: expected key=value, got '=3'; write it like --set pairs.seed=3"),
        (
            "",
            ("train..a=3",),
            "--set: expected key=value, got 'train..a=3'; write it like --set pairs.seed=3",
        ),
    ],
)
def test_what_is_wrong_in_one_line(tmp_path, text, overrides, line):
    assert faults(tmp_path, text, *overrides) == [line]


def test_every_wrong_value_has_its_line(tmp_path):
    assert faults(tmp_path, "[train]\nepochs = -1\nrate = 'fast'\n") == [
        "train.epochs: expected an integer >= 0, got -1; change it in mine.toml",
        "train.rate: expected a number, got 'fast'; change it in mine.toml",
    ]


def test_no_toml(tmp_path):
    assert faults(tmp_path, "epochs: 3\n") == [
        "mine.toml: expected a TOML file, got one that cannot be read: "
        "Expected '=' after a key in a key/value pair (at line 1, column 7)"
    ]


def test_no_utf8(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(UsageFault, match=r"^latin\.toml: expected text in UTF-8, got other bytes; save"):
        protocol.read(str(tmp_path / "latin.toml"))


def test_unknown_names():
    with pytest.raises(UsageFault) as caught:
        protocol.read("smal")
    assert caught.value.lines == (
        "--protocol: expected one that `run --protocol list` shows or a FILE.toml, got 'smal'; "
        "did you mean 'small'?",
    )
    with pytest.raises(UsageFault) as caught:
        protocol.read("nowhere.toml")
    assert caught.value.lines == (
        "--protocol: expected a TOML file, got 'nowhere.toml', which does not exist; check its path",
    )
