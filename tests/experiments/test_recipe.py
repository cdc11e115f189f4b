from pathlib import Path

import pytest

from cnnimretrieval.downloads.catalogue import find
from experiments import effort
from experiments.exit_codes import UsageFault
from experiments.settings import protocol
from experiments.settings.run_config import RunConfig
from pairs.negatives import NegativesConfig

ROWS = [name for name in protocol.names() if protocol.read(name).target]
OWN = ["delf-r50", "delg-r101", "delg-r50", "demo", "how-r18", "how-r50", "small", "small-local"]

KEYS = ("oxford5k", "paris6k", "roxford5k.medium", "rparis6k.medium", "roxford5k.hard", "rparis6k.hard")

# The settings that the published rows differ by, as facts about the toolboxes and not about our files.
PYTORCH = {
    "drawn_by": "pair",
    "epochs": 100,
    "tuples_per_epoch": 2000,
    "pool_size": 22000,
    "minings_per_epoch": 1,
    "batch_tuples": 5,
    "optimizer": "adam",
    "learning_rate_decay": 0.01,
    "decay_before_first": True,
    "weight_decay": 1e-6,
    "gradient": "summed",
    "gem_rate_factor": None,  # 10, of one exponent
}
PROJECTION = {**PYTORCH, "pool_size": 20000, "loss": "triplet", "margin": 0.5}
PAPER = {
    "drawn_by": "pair",
    "epochs": 30,
    "tuples_per_epoch": 6000,
    "pool_size": 22000,
    "minings_per_epoch": 3,
    "learning_rate": 1e-6,
    "learning_rate_decay": 0.1,
    "decay_before_first": False,
    "weight_decay": 5e-4,
    "gradient": "per_pair",
    "pool_holds_pairs": True,
    "image_size": 362,
}


def loop(name):
    return protocol.read(name).resolve(RunConfig).train.loop.model_dump()


def lines(text, tmp_path):
    path = tmp_path / "row.toml"
    path.write_text(text)
    read = protocol.read(str(path))
    with pytest.raises(UsageFault) as caught:
        _ = read.recipe, read.target
    return list(caught.value.lines)


def test_what_there_is():
    assert sorted({*protocol.names()} - {*ROWS}) == OWN
    assert len(ROWS) == 30


@pytest.mark.parametrize("name", ROWS)
def test_every_row_resolves(name):
    read = protocol.read(name)
    config, recipe, target = read.resolve(RunConfig), read.recipe, read.target
    assert config.weights == "pretrained"
    assert {key.partition(".")[0] for key in target.scores} <= {*recipe.benchmarks}
    assert target.scores or target.note
    for needed in recipe.downloads:
        find(needed)


@pytest.mark.parametrize("name", ROWS)
def test_the_hours_follow_from_the_settings(name):
    read = protocol.read(name)
    hours = effort.published_effort(read.resolve(RunConfig), read.recipe).total
    assert read.target.gpu_hours == pytest.approx(hours, rel=0.06)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alexnet-gem", {**PYTORCH, "margin": 0.7, "learning_rate": 5e-7, "image_size": 362}),
        ("vgg16-mac", {**PYTORCH, "margin": 0.75, "learning_rate": 5e-7, "image_size": 362}),
        ("resnet101-gem", {**PYTORCH, "margin": 0.85, "learning_rate": 5e-7, "loss": "contrastive"}),
        ("resnet101-gem-paper", {**PAPER, "margin": 0.85}),
        ("vgg16-gem-paper", {**PAPER, "margin": 0.75}),
        ("alexnet-gem-paper", {**PAPER, "margin": 0.7}),
        (
            "resnet50-gem-projection",
            {**PROJECTION, "learning_rate": 1e-6, "image_size": 1024},
        ),
        (
            "resnet152-gem-projection",
            {**PROJECTION, "learning_rate": 5e-7, "image_size": 900},
        ),
    ],
)
def test_published_settings(name, expected):
    found = loop(name)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "negatives"),
    [("vgg16-gem", 5)] + [(f"resnet{n}-gem-projection", k) for n, k in ((50, 5), (101, 4), (152, 3))],
)
def test_published_negatives(name, negatives):
    found = loop(name)["negatives"]
    assert (found["num_negatives"], found["allow_unplaced"]) == (negatives, False)
    assert found == NegativesConfig(num_negatives=negatives).model_dump()


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("vgg16-gem", (87.3, 87.8, 60.9, 69.3, 32.9, 44.2)),
        ("published-vgg16-gem", (87.3, 87.8, 60.9, 69.3, 32.9, 44.2)),
        ("vgg16-gem-paper", (87.9, 87.7, 61.9, 69.3, 33.7, 44.3)),
        ("resnet101-gem", (88.2, 92.5, 65.4, 76.7, 40.1, 55.2)),
        ("resnet101-gem-paper", (87.8, 92.7, 64.7, 77.2, 38.5, 56.3)),
        ("published-resnet50-gem-w-gl18", (63.6, 78.0, 40.9, 57.5)),
        ("published-resnet101-gem-w-gl18", (67.3, 80.6, 44.3, 61.5)),
        ("published-resnet152-gem-w-gl18", (68.7, 79.7, 44.2, 60.3)),
        ("resnet50-gem-projection", (64.7, 76.3, 39.0, 54.9)),
        ("published-resnet101-gem-w-sfm120k", (67.8, 77.6, 41.7, 56.3)),
        ("resnet152-gem-projection", (68.8, 78.0, 41.3, 57.2)),
    ],
)
def test_published_scores(name, scores):
    found = protocol.read(name).target.scores
    easy = {"roxford5k.easy": 84.81, "rparis6k.easy": 92.12} if name == "resnet101-gem-paper" else {}
    assert found == {**dict(zip(KEYS[-len(scores) :], scores, strict=True)), **easy}


@pytest.mark.parametrize("name", ROWS)
def test_the_rows_of_the_paper_drop_repeats_and_merge_batch_normalisation(name):
    read, is_paper = protocol.read(name), name.endswith("-paper")
    merged = read.resolve(RunConfig).train.network.merged_batch_norm
    assert (read.recipe.drop_repeats, merged) == (is_paper, name == "resnet101-gem-paper")


def test_what_a_row_needs():
    assert protocol.read("resnet101-gem-projection").recipe.downloads == (
        "imagenet-caffe-resnet101-features",
        "retrieval-SfM-120k-resnet101-gem-whiten",
        "retrieval-SfM-120k",
        "roxford5k",
        "rparis6k",
    )
    assert protocol.read("published-vgg16-gem").recipe.downloads == (
        *("retrievalSfM120k-vgg16-gem", "oxford5k", "paris6k", "roxford5k", "rparis6k"),
    )


@pytest.mark.parametrize("name", ROWS)
def test_the_document_says_the_same(name):
    target = protocol.read(name).target
    document = (Path(__file__).resolve().parents[2] / "docs" / "reproduce.md").read_text()
    scores = " / ".join(f"{target.scores[key]:.1f}" if key in target.scores else "-" for key in KEYS)
    shown = scores if target.scores else "none at hand"
    assert f"| `{name}` | {shown} | {target.tolerance:g} | {target.gpu_hours:g} |\n" in document


def test_a_row_does_not_change_what_the_stages_do():
    read = protocol.read("vgg16-gem")
    bare = {key: value for key, value in read.values.items() if key not in ("published", "target")}
    assert read.resolve(RunConfig) == RunConfig.model_validate(bare)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            '[published]\nnetwork = "vgg"',
            "published.network: expected one of retrievalSfM120k-vgg16-gem, ",
        ),
        ('[published]\nnetwrok = "x"', "row.toml: unknown key 'published.netwrok'; did you mean"),
        (
            '[published]\nnetwork = "retrievalSfM120k-vgg16-gem"\npairs = "retrieval-SfM-120k"',
            "published: network: expected no pairs, whitening, trunk or layer beside it, got "
            "'retrievalSfM120k-vgg16-gem' with one; choose between testing a network and making one; "
            "see row.toml",
        ),
        (
            '[target]\ntitle = "x"\nsource = "y"\ntolerance = 1\ngpu_hours = 1\n'
            '[target.scores]\n"oxford5k.hard" = 3',
            "target.scores: expected keys among oxford5k, paris6k, roxford5k.easy, roxford5k.medium, "
            "roxford5k.hard, rparis6k.easy, rparis6k.medium, rparis6k.hard, got 'oxford5k.hard'; correct it; "
            "see row.toml",
        ),
        (
            '[target]\ntitle = "x"\nsource = "y"\ntolerance = 1\ngpu_hours = 1\n'
            "[target.scores]\noxford5k = 0.8e3",
            "target.scores: expected a mAP in % of oxford5k, in (0, 100], got 800; correct it; see row.toml",
        ),
        (
            '[target]\ntitle = "x"\nsource = "y"\ntolerance = 1',
            "row.toml: expected key 'target.gpu_hours', got none; "
            "add it, or use --set target.gpu_hours=VALUE",
        ),
    ],
)
def test_wrong_rows(tmp_path, text, line):
    (said,) = lines(text, tmp_path)
    assert said.startswith(line)


def test_estimates_add_up_by_hand():
    read = protocol.read("resnet101-gem")
    parts = effort.published_effort(read.resolve(RunConfig), read.recipe).hours
    pass_s = 0.127 * 362**2 * 0.75 / 1e6
    training_s = (100 * (24_000 + 3 * 14_000) + 11 * 99_736) * pass_s
    assert parts["training"] == pytest.approx(training_s / 3600)
    photo_s = 0.127 * 1024**2 * 0.75 / 1e6 * 1.75
    assert photo_s == pytest.approx(0.175, rel=0.01)
    # Both whitenings: of three scales and of one.
    assert parts["whitening"] == pytest.approx(120_000 * photo_s * (1 + 1 / 1.75) / 3600, rel=1e-6)
    assert parts["testing"] == pytest.approx(23_020 * photo_s / 3600, rel=1e-6)


def test_no_estimate_for_an_unknown_backbone():
    read = protocol.read("resnet101-gem", ["train.network.backbone=squeezenet1_1"])
    with pytest.raises(
        ValueError, match=r"backbone: expected one of alexnet, vgg16, .*, got 'squeezenet1_1'"
    ):
        effort.published_effort(read.resolve(RunConfig), read.recipe)
