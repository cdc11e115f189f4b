"""The command `match`: numbers and picture of two photos, and wrong input in one line."""

import json

import numpy as np
import pytest
from PIL import Image

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.local.pyramid import PyramidConfig
from cnnimretrieval.networks.local_head import LocalConfig
from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.network import NetworkConfig, build
from experiments import cli
from experiments.report.shown import NetworkFinder


@pytest.fixture
def two_photos(tmp_path):
    """A drawn photo, and the same turned and shrunk."""
    generator = np.random.default_rng(6)
    blocks = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    first = Image.fromarray(blocks).resize((480, 360), Image.Resampling.BICUBIC)
    paths = tmp_path / "one.png", tmp_path / "two.png"
    first.save(paths[0])
    first.rotate(20, Image.Resampling.BICUBIC).resize((400, 300)).save(paths[1])
    return paths


def _run(capsys, *arguments):
    code = cli.main(["match", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_prints_inliers_and_draws_them(two_photos, tmp_path, capsys):
    one, two = two_photos
    out = tmp_path / "matches.png"
    code, text, _ = _run(capsys, one, two, "--out", out, "--json")
    assert code == 0
    facts = json.loads(text)
    assert facts["inliers"] > 100
    assert facts["matches"] >= facts["inliers"]
    # Where the centre of the first photo went, which the rotation leaves where it is.
    x, y, w = np.array(facts["matrix"]) @ (240, 180, 1)
    np.testing.assert_allclose((x / w, y / w), (200, 150), atol=2.0)
    with Image.open(out) as picture:
        assert picture.width == 1400
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    green = (colours[:, 1] > colours[:, 0] + 40) & (colours[:, 1] > colours[:, 2] + 25)
    assert green.sum() > 2000
    code, text, _ = _run(capsys, one, two, "--out", tmp_path / "small.jpg", "--geometry", "affine")
    assert f"{facts['matches']:,} matches" in text
    assert "inliers (affine)" in text
    assert text.endswith(f"{tmp_path / 'small.jpg'}\n")


def test_flat_photos_give_a_picture_without_inliers(two_photos, tmp_path, capsys):
    flat = tmp_path / "flat.png"
    Image.new("RGB", (120, 90), (90, 90, 90)).save(flat)
    code, text, _ = _run(capsys, two_photos[0], flat, "--out", tmp_path / "m.png", "--json")
    facts = json.loads(text)
    assert (code, facts["inliers"], facts["matches"], facts["matrix"]) == (0, 0, 0, None)
    assert facts["keypoints"][1] == 0
    assert (tmp_path / "m.png").is_file()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            ["--out", "m.gif"],
            2,
            "--out: expected a name that ends in .png or .jpg, got m.gif; choose another",
        ),
        (
            ["--out", "m.png", "--features", "surf"],
            2,
            "--features: expected the folder of a network, sift, aliked-lightglue, xfeat or "
            "path/to/file.py:function, got 'surf'; check the name, or install the package that brings it",
        ),
        (
            ["--out", "m.png", "--geometry", "afine"],
            2,
            "geometry: expected one of 'similarity', 'affine', 'homography', 'fundamental', got 'afine'; "
            "change it in --geometry afine",
        ),
    ],
)
def test_wrong_options(two_photos, capsys, options, code, message):
    found, _, errors = _run(capsys, *two_photos, *options)
    assert (found, errors) == (code, f"cnnimretrieval: {message}\n")


def test_a_file_that_is_no_photo(two_photos, tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo at all")
    code, _, errors = _run(capsys, two_photos[0], broken, "--out", tmp_path / "m.png")
    assert code == 1
    assert errors == (
        f"cnnimretrieval: photo {broken}: expected an image, got 'not an image'; replace or remove it\n"
    )
    assert not (tmp_path / "m.png").exists()


@pytest.fixture
def model(tmp_path):
    """A network that knows nothing, whose head attends to what activates it."""
    head = LocalConfig(reduction="whitening", attention="norm", dim=16)
    save(build(NetworkConfig(backbone="squeezenet1_1", local=head), "random", seed=3), tmp_path / "model")
    return tmp_path / "model"


def test_a_network_matches_and_its_attention_lies_below(two_photos, model, tmp_path, capsys):
    one, _ = two_photos
    options = ("--geometry", "affine", "--out", tmp_path / "m.png")
    code, text, _ = _run(capsys, one, one, "--features", model, *options, "--json")
    facts = json.loads(text)
    assert (code, facts["features"]) == (0, str(model))
    # A photo matches itself: each feature is its own nearest, and stays where it is.
    assert facts["inliers"] == facts["keypoints"][0] == 1000
    np.testing.assert_allclose(facts["matrix"], np.eye(3), atol=1e-3)
    assert facts["attention"][0]["largest"] >= facts["attention"][0]["mean"] > 0
    _, text, _ = _run(capsys, one, one, "--features", model, *options)
    assert "1,000 and 1,000 keypoints (model), 1,000 matches, 1,000 inliers (affine)\nattention, from" in text
    with Image.open(tmp_path / "m.png") as picture:
        levels = np.asarray(picture.convert("RGB")).astype(int)
    # Two rows of photos, each 1400 px wide for 480 + 12 + 480, and the caption.
    half = round(1400 * 360 / 972)
    assert len(levels) == pytest.approx(2 * half + 58, abs=2)
    # The second row is darker but for what is attended to, up to the edges of both photos.
    above, below = levels[:half].mean(axis=2), levels[half : 2 * half].mean(axis=2)
    for columns in (slice(2, 20), slice(670, 688), slice(712, 730), slice(1380, 1398)):
        assert (np.abs(above[:, columns] - below[:, columns]) > 8).mean() > 0.8


def test_attention_is_the_head_s_scores_and_fills_the_picture(two_photos, model, tmp_path):
    import torch

    from cnnimretrieval.descriptors.images import read_levels
    from cnnimretrieval.descriptors.tensors import normalise
    from cnnimretrieval.networks.model_folder import read_folder

    network = read_folder(model).eval()
    request = ImageRequest(path=two_photos[1])
    finder = NetworkFinder(network, PyramidConfig())
    shown = finder.attend(finder.find([request])[0])
    levels = torch.from_numpy(read_levels(request, 1024))[None]
    with torch.inference_mode():
        scores = network.local_maps(normalise(levels, network.trunk.mean, network.trunk.std)).scores[0]
    np.testing.assert_array_equal(shown.attention.scores, scores.numpy())
    # squeezenet's places: centres at 15.5 + 16 k, as docs/local_features.md says, each 16 px wide.
    height, width = scores.shape
    assert shown.attention.box == (7.5, 7.5, 7.5 + 16 * width, 7.5 + 16 * height)
    small = tmp_path / "small.png"
    Image.new("RGB", (9, 7), (3, 200, 90)).save(small)
    nothing = finder.attend(finder.find([ImageRequest(path=small)])[0])
    assert nothing.attention is None
    assert len(nothing.features) == 0


def test_photos_too_small_for_a_network_give_an_empty_picture(two_photos, model, tmp_path, capsys):
    small = tmp_path / "small.png"
    Image.new("RGB", (9, 7), (3, 200, 90)).save(small)
    options = ("--features", model, "--out", tmp_path / "m.png", "--json")
    code, text, _ = _run(capsys, two_photos[0], small, *options)
    facts = json.loads(text)
    assert (code, facts["inliers"], facts["keypoints"][1], facts["attention"][1]) == (0, 0, 0, None)
    assert (tmp_path / "m.png").is_file()


def test_networks_that_have_no_local_features(two_photos, tmp_path, capsys):
    plain = tmp_path / "plain"
    save(build(NetworkConfig(backbone="squeezenet1_1"), "random"), plain)
    out = ("--out", tmp_path / "m.png")
    code, _, errors = _run(capsys, *two_photos, *out, "--features", plain)
    assert (code, errors) == (
        2,
        f"cnnimretrieval: {plain}: network: expected one with a local head, got squeezenet1_1:gem without; "
        "train one with train.network.local.reduction set\n",
    )
    code, _, errors = _run(capsys, *two_photos, *out, "--features", tmp_path)
    assert code == 2
    assert errors.startswith(f"cnnimretrieval: network {tmp_path}: expected a folder with network.json, got")
    assert errors.count("\n") == 1
    assert not (tmp_path / "m.png").exists()
