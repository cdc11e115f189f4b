import json
import pickle

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from cnnimretrieval.downloads.catalogue import find
from cnnimretrieval.networks.open import load
from experiments import reproduction
from pairs.published_pairs import photo_of

ROW = """
weights = "{weights}"

[published]
pairs = "retrieval-SfM-120k"
whitening = "retrieval-SfM-30k"
image_size = 48
scales = [1.0, 0.7]
benchmarks = ["oxford5k"]

[train.network]
backbone = "squeezenet1_1"

[train.loop]
image_size = 48
epochs = 1
tuples_per_epoch = 4
pool_size = 20

[train.loop.negatives]
num_negatives = 2

[train.whitening]
shrinkage = 0.5

[target]
title = "A small row"
source = "nowhere"
tolerance = {tolerance}
gpu_hours = 0.1

[target.scores]
oxford5k = 50.0
"""


def draw(path, place, view):
    """A photo of a place: its pattern, with a little noise of its own."""
    pattern = np.random.default_rng(place).integers(0, 256, (4, 6, 3)).repeat(10, axis=0).repeat(10, axis=1)
    noise = np.random.default_rng((place, view)).integers(-20, 21, pattern.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pattern + noise, 0, 255).astype(np.uint8)).save(path, "JPEG")


def pairs_of(places):
    """cids, clusters and pairs of three views of each place."""
    cids = [f"{place:04x}{view:04x}" for place in places for view in range(3)]
    rows = [(3 * n, 3 * n + view) for n in range(len(places)) for view in (1, 2)]
    return {
        "cids": cids,
        "cluster": [place for place in places for _ in range(3)],
        "qidxs": [query for query, _ in rows],
        "pidxs": [positive for _, positive in rows],
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The published files in small: 6 training and 3 held-out places, 30k for whitening, 3 of Oxford."""
    root = tmp_path_factory.mktemp("data")
    train, val = pairs_of(range(1, 7)), pairs_of(range(7, 10))
    folder = root / "train" / "retrieval-SfM-120k"
    for side in (train, val):
        for cid in side["cids"]:
            draw(folder / "ims" / photo_of(cid), int(cid[:4], 16), int(cid[4:], 16))
    (folder / "retrieval-SfM-120k.pkl").write_bytes(pickle.dumps({"train": train, "val": val}))
    whiten = {key: train[key] for key in ("cids", "qidxs", "pidxs")}
    (folder / "retrieval-SfM-120k-whiten.pkl").write_bytes(pickle.dumps(whiten))
    small = root / "train" / "retrieval-SfM-30k"
    small.mkdir()
    (small / "retrieval-SfM-30k-whiten.pkl").write_bytes(pickle.dumps(whiten))
    (small / "ims").symlink_to("../retrieval-SfM-120k/ims")
    oxford = root / "test" / "oxford5k"
    names = [f"p{place}_{view}" for place in (20, 21, 22) for view in range(3)]
    for name in names:
        draw(oxford / "jpg" / f"{name}.jpg", *map(int, name[1:].split("_")))
    truth = [{"bbx": [0.0, 0.0, 50.0, 30.0], "ok": [3 * n + 1, 3 * n + 2], "junk": [3 * n]} for n in range(3)]
    content = {"imlist": names, "qimlist": names[::3], "gnd": truth}
    (oxford / "gnd_oxford5k.pkl").write_bytes(pickle.dumps(content))
    return root


@pytest.fixture
def row(tmp_path, weights):
    def write(tolerance=60):
        path = tmp_path / "row.toml"
        path.write_text(ROW.format(weights=weights, tolerance=tolerance))
        return path

    return write


def test_a_row_from_pairs_to_scores(command, row, data, tmp_path):
    work = tmp_path / "work"
    words = ("run", "--out", work, "--protocol", row(), "--data", data, "--device", "cpu", "--workers", 1)
    code, out, err = command(*words)
    assert code == 0, err
    said = out.splitlines()
    assert said[0] == "A small row"
    assert said[1].split() == ["ours", "published", "difference"]
    written = json.loads((work / "reproduction.json").read_text())
    (score,) = written["scores"]
    assert score["key"] == "oxford5k"
    assert said[2].split() == ["oxford5k", f"{score['map']:.2f}", "50.0", f"{score['map'] - 50:+.2f}"]
    assert said[3] == "reached within 60 points of mAP; published: nowhere"
    assert 0 < score["map"] <= 100
    # What is there serves as MODEL, with a whitening of one scale and another of the tested ones.
    network = load(work / "network")
    several, one = network.multi_scale_whitening, network.whitening
    assert several.note.startswith("learned from 12 pairs and 18 descriptors")
    assert several.note == one.note
    assert np.abs(several.mean - one.mean).max() > 1e-4
    code, again, err = command(
        *("evaluate", work / "network", "oxford5k", "--data", data, "--json"),
        *("--scales", "1.0,0.7", "--image-size", 48, "--workers", 1, "--device", "cpu"),
    )
    assert code == 0, err
    assert f"{score['map'] / 100:.6f}"[:6] in again
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.parquet")}
    assert command(*words)[1] == out
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.parquet")} == before


def test_a_row_that_is_missed(command, row, data, tmp_path, weights):
    off_the_shelf = tmp_path / "shelf.toml"
    text = row(0.001).read_text().replace('pairs = "retrieval-SfM-120k"\n', "")
    off_the_shelf.write_text(text)
    work = tmp_path / "work"
    code, out, err = command(
        "run", "--out", work, "--protocol", off_the_shelf, "--data", data, "--workers", 1
    )
    assert code == 0, err
    assert "NOT reached within 0.001 points of mAP; published: nowhere" in out.splitlines()
    assert not (work / "model").exists()


def test_a_row_starts_from_a_published_layer(command, row, data, tmp_path):
    torch.manual_seed(8)
    torch.save(torchvision.models.densenet121(weights=None).state_dict(), tmp_path / "densenet121.pth")
    layer = {"weight": torch.randn(1024, 1024), "bias": torch.randn(1024)}
    name = "retrieval-SfM-120k-densenet121-gem-whiten"
    path = data / find(name).files[0].path
    path.parent.mkdir(parents=True)
    torch.save(layer, path)
    toml = tmp_path / "projection.toml"
    toml.write_text(
        f'weights = "{tmp_path}/densenet121.pth"\n'
        f'[published]\nprojection = "{name}"\nimage_size = 48\nscales = [1.0]\nbenchmarks = ["oxford5k"]\n'
        '[train.network]\nbackbone = "densenet121"\nprojection = 1024\n'
    )
    words = ("run", "--out", tmp_path / "work", "--data", data, "--workers", 1, "--device", "cpu")
    code, _, err = command(*words, "--protocol", toml)
    assert code == 0, err
    network = load(tmp_path / "work" / "network")
    assert torch.equal(network.projection.weight, layer["weight"])
    torch.save({**layer, "bias": torch.zeros(3)}, path)
    code, _, err = command(*words, "--protocol", toml)
    assert code != 0
    assert err == [
        f"cnnimretrieval: projection {path}: expected 'bias' of shape (1024,) for a layer of 1024 inputs and "
        "1024 outputs, got (3,); give a file with a layer (weight, bias) of that size, or a whitening"
    ]


def test_missing_data_is_told_with_the_command(command, row, tmp_path):
    code, out, err = command("run", "--out", tmp_path / "w", "--protocol", row(), "--data", tmp_path / "none")
    assert (code, out) == (2, "")
    assert err == [
        f"cnnimretrieval: --data {tmp_path}/none: expected retrieval-SfM-120k, retrieval-SfM-30k, oxford5k, "
        "got none; run `cnnimretrieval download retrieval-SfM-120k retrieval-SfM-30k oxford5k --data "
        f"{tmp_path}/none`"
    ]
    assert not (tmp_path / "w").exists()


def test_photos_are_needed_without_a_row(command, tmp_path):
    code, _, err = command("run", "--out", tmp_path / "w")
    assert code == 2
    assert err == [
        "cnnimretrieval: PHOTOS: expected a folder of photos for small.toml, got none; "
        "give one, or take a published row: `run --protocol list`"
    ]


def test_a_dry_run_of_a_row(command, row, data, tmp_path):
    work = tmp_path / "w"
    code, out, err = command("run", "--out", work, "--protocol", row(), "--data", data, "--dry-run")
    assert (code, err) == (0, [])
    assert out.splitlines() == [
        "row.toml: A small row",
        "  data   there       50 GB  retrieval-SfM-120k",
        "  data   there       50 GB  retrieval-SfM-30k",
        "  data   there     1.94 GB  oxford5k",
        "  hours  unknown: backbone: expected one of alexnet, vgg16, resnet18, resnet34, resnet50, "
        "resnet101, resnet152, timm:vit_base_patch14_dinov2.lvd142m, "
        "timm:vit_base_patch16_dinov3.lvd1689m to estimate hours, got 'squeezenet1_1'; its time is not known",
        "  target oxford5k           50.0 +- 60 mAP",
        f"written to {work}; h: hours of one P100, estimated",
    ]
    assert not work.exists()


def test_a_dry_run_of_photos(command, data, tmp_path):
    photos, work = data / "test" / "oxford5k" / "jpg", tmp_path / "w"
    code, out, err = command("run", photos, "--out", work, "--workers", 3, "--device", "cpu", "--dry-run")
    assert (code, err) == (0, [])
    first, second, third, *stages, last = out.splitlines()
    assert first.startswith(f"{photos}: 9 files, ")
    assert second.startswith(f"{work}: free ")
    assert third == "settings: small.toml; device: cpu; processes: 3"
    assert [line.split()[0] for line in stages] == ["reconstruct", "mine", "train"]
    assert all(line.endswith("to do") for line in stages)
    assert last == "h: hours, estimated"
    assert not work.exists()


def test_scores_are_compared():
    one = reproduction.Comparison(key="x", map=60.4, published=60.9)
    assert one.difference == pytest.approx(-0.5)
    assert reproduction.Comparison(key="x", map=60.4, published=None).difference is None
