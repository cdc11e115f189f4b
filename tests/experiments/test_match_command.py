"""The command `match`: numbers and picture of two photos, and wrong input in one line."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments import cli


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
            "--features: expected sift, xfeat or path/to/file.py:function, got 'surf'; check the name, or "
            "install the package that brings it",
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
