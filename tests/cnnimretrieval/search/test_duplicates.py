"""Near-copies by descriptor and pixels, of drawn photos and files made from them."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance, ImageOps

from cnnimretrieval.search.duplicates import find_duplicates
from groundwork.descriptor_folder import DescriptorFolder

SIZE = (96, 72)
COPIES = {"a/whole.png", "mirrored.png", "toned.png", "turned.png"}
NAMES = ["a/whole.png", "small.jpg", "toned.png", "mirrored.png", "turned.png", "second.png"]
NAMES += ["second copy.jpg", "like the first.png", "other.png"]
# The first five are near each other with one look-alike, two more, one alone.
ANGLES = [0, 4, 8, 12, 16, 80, 84, 10, 150]


def _drawn(seed: int) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(SIZE, Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """Photo 0 with copies of all kinds, photo 1 with one, others; the last row is a box of photo 0."""
    first, second = _drawn(0), _drawn(1)
    files = {
        "a/whole.png": first,
        "small.jpg": first.resize((48, 36)),
        "toned.png": ImageEnhance.Brightness(first).enhance(0.8),
        "mirrored.png": ImageOps.mirror(first),
        "turned.png": first.transpose(Image.Transpose.ROTATE_90),
        "second.png": second,
        "second copy.jpg": second,
        "like the first.png": _drawn(2),
        "other.png": _drawn(3),
    }
    for name, image in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image.save(tmp_path / name, quality=70)
    assert list(files) == NAMES
    angles = np.deg2rad([*ANGLES, 2])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    box = np.where(np.arange(10) == 9, 3.0, np.nan)
    images = pd.DataFrame(
        {"name": [*files, "a/whole.png"], "x1": box, "y1": box, "x2": box + 9, "y2": box + 9}
    )
    return DescriptorFolder(vectors=vectors, images=images), tmp_path


def test_copies_are_grouped_with_the_largest_first(folder):
    found = find_duplicates(*folder)
    first, second = found.groups
    assert {copy.name for copy in first} == {*COPIES, "small.jpg"}
    assert [copy.name for copy in second] == ["second.png", "second copy.jpg"]
    # By pixels, then bytes.
    order = [(copy.width * copy.height, copy.size_bytes) for copy in first]
    assert order == sorted(order, reverse=True)
    small = first[-1]
    original = first[0]
    assert (small.width, small.height) == (48, 36)
    angle = np.deg2rad(ANGLES[NAMES.index(original.name)] - ANGLES[NAMES.index("small.jpg")])
    assert small.score == pytest.approx(np.cos(angle), abs=1e-6)
    assert small.size_bytes == (folder[1] / "small.jpg").stat().st_size
    assert found.photos == 9
    assert found.unreadable == ()


def test_only_photos_with_like_descriptors_are_compared(folder):
    found = find_duplicates(*folder, min_score=0.999)
    # Four degrees apart is 0.998.
    assert [len(group) for group in found.groups] == []
    angles = np.deg2rad(ANGLES)
    alike = np.cos(angles[:, None] - angles) >= 0.95
    assert find_duplicates(*folder, min_score=0.95).pairs_compared == np.triu(alike, 1).sum() == 15 + 1
    assert find_duplicates(*folder, min_score=0.999).pairs_compared == 2


def test_a_photo_that_is_gone_is_told_and_costs_itself_only(folder):
    (folder[1] / "second copy.jpg").unlink()
    (folder[1] / "small.jpg").write_bytes(b"no photo")
    found = find_duplicates(*folder)
    assert [{copy.name for copy in group} for group in found.groups] == [COPIES]
    assert [name for name, _ in found.unreadable] == ["small.jpg", "second copy.jpg"]
    assert found.unreadable[0][1] == "not an image"


def test_a_folder_of_one_photo_has_none(folder):
    one = DescriptorFolder(vectors=folder[0].vectors[:1], images=folder[0].images[:1])
    assert find_duplicates(one, folder[1]).groups == ()
