"""Crops among drawn photos: what is a part of another is found with its box, other photos of it are not."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from cnnimretrieval.search.crops import find_crops
from cnnimretrieval.search.duplicates import alike_pairs
from experiments import cli
from groundwork.descriptor_folder import DescriptorFolder

pytest.importorskip("cv2")

SIZE = (400, 300)
BOX = (60, 40, 300, 220)


def _drawn(seed: int) -> Image.Image:
    """A photo with things of several sizes in it."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(SIZE)
    fine = Image.fromarray(rng.integers(0, 256, (75, 100, 3), dtype=np.uint8)).resize(SIZE)
    return Image.blend(coarse, fine, 0.5).filter(ImageFilter.GaussianBlur(1))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    first, second = _drawn(0), _drawn(1)
    part = first.crop(BOX)
    changed = np.asarray(part).copy()
    changed[30:90, 60:130] = 255 - changed[30:90, 60:130]
    files = {
        "0 whole.png": first,
        "1 part.png": part,
        "2 small, brighter.jpg": ImageEnhance.Brightness(part.resize((168, 126))).enhance(1.15),
        "3 other.png": second,
        "4 mirrored.png": ImageOps.mirror(part),
        "5 turned.png": part.rotate(12, Image.Resampling.BICUBIC).crop((30, 30, 210, 150)),
        "6 something before it.png": Image.fromarray(changed),
        "7 whole, narrower.png": first.crop((2, 2, 398, 298)),
    }
    for name, image in files.items():
        image.save(folder / name, quality=85)
    return folder, list(files)


def test_parts_are_found_with_their_boxes(photos, tmp_path):
    folder, names = photos
    pairs = np.array([(0, other) for other in range(1, 8)] + [(3, 1)])
    found = list(find_crops(names, pairs, folder, cache=tmp_path))
    assert [(one.name, one.of) for one in found] == [(names[1], names[0]), (names[2], names[0])]
    for one in found:
        np.testing.assert_allclose(one.box, BOX, atol=3)
        assert one.inliers >= 12
    # The order in a pair decides nothing.
    turned = list(find_crops(names, pairs[:2, ::-1], folder, cache=tmp_path))
    assert [(one.name, one.of) for one in turned] == [(names[1], names[0]), (names[2], names[0])]


def test_a_photo_that_is_gone_is_no_crop(photos, tmp_path):
    folder, names = photos
    assert list(find_crops([*names, "gone.png"], np.array([(0, 8)]), folder, cache=tmp_path)) == []


def test_only_photos_with_like_descriptors_are_looked_at():
    angles = np.deg2rad([0, 20, 100, 10])
    images = pd.DataFrame({"name": [*"abca"]}).assign(x1=[np.nan] * 3 + [1.0], y1=1.0, x2=2.0, y2=2.0)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    names, pairs = alike_pairs(DescriptorFolder(vectors=vectors, images=images))
    assert (names, pairs.tolist()) == (["a", "b", "c"], [[0, 1]])


def test_the_command_lists_them_when_it_is_asked(photos, tmp_path, capsys):
    folder, names = photos
    vectors = np.tile(np.eye(1, 8, dtype=np.float32), (4, 1))
    np.save(tmp_path / "vectors.npy", vectors)
    pd.DataFrame({"name": names[:4]}).to_parquet(tmp_path / "images.parquet")
    (tmp_path / "meta.json").write_text(json.dumps({"version": 1, "photos": str(folder)}))
    words = ["duplicates", str(tmp_path), "--workers", "1"]
    assert cli.main([*words, "--crops"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" is ")[0] for line in lines if " is " in line] == names[1:3]
    assert lines[-1].endswith(" of 0 whole.png")
    assert cli.main([*words, "--json"]) == 0
    assert "crops" not in json.loads(capsys.readouterr().out)
    assert cli.main([*words, "--json", "--crops"]) == 0
    told = json.loads(capsys.readouterr().out)["crops"]
    assert [one["name"] for one in told] == names[1:3]
