from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from cnnimretrieval.descriptors import images
from cnnimretrieval.descriptors.images import (
    ImageRequest,
    crop,
    full_size,
    open_request,
    read_levels,
    resize_longest,
)
from cnnimretrieval.descriptors.tensors import normalise, to_levels
from groundwork.photos import load_rgb


def _blocks(width: int, height: int, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC)


def _difference(a: Image.Image, b: Image.Image) -> float:
    assert a.size == b.size
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).mean())


@pytest.fixture
def jpeg(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    _blocks(1603, 1201).save(path, quality=95)
    return path


def test_a_detail_of_a_large_photo_is_decoded_no_larger_than_it_needs(tmp_path, monkeypatch):
    """Turned by EXIF; the picture hardly differs from that of the photo decoded in full."""
    rng = np.random.default_rng(0)
    path = tmp_path / "large.jpg"
    blocks = Image.fromarray(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    blocks.resize((1600, 1200), Image.Resampling.BICUBIC).save(path, quality=95, exif=exif)
    asked = []
    real = images.load_rgb

    def counted(path, longest_px, **options):
        picture = real(path, longest_px, **options)
        asked.append((picture.image.size, picture.full_size))
        return picture

    monkeypatch.setattr(images, "load_rgb", counted)
    # The shorter of the two boxes would lose detail at half the size.
    for box, decoded in (((300, 200, 1100, 1000), (600, 800)), ((500, 600, 900, 1000), (1200, 1600))):
        request = ImageRequest(path=path, box=box, rotation_deg=5.0, as_photo=True)
        found = np.asarray(open_request(request, 200), np.float64)
        assert asked.pop() == (decoded, (1200, 1600))
        full = np.asarray(resize_longest(crop(load_rgb(path).image, box, 5.0), 200), np.float64)
        assert found.shape == full.shape == (200, 200, 3)
        assert np.abs(found - full).mean() < 1.5


def test_drafting_a_jpeg_hardly_changes_the_scaled_picture(jpeg):
    full = load_rgb(jpeg).image
    drafted = load_rgb(jpeg, 320)
    assert full.size == drafted.full_size == (1603, 1201)
    assert 320 <= max(drafted.image.size) < 1603
    assert _difference(resize_longest(full, 160), open_request(ImageRequest(path=jpeg), 160)) < 1.0
    assert load_rgb(jpeg, 1800).image.size == (1603, 1201)


def test_a_box_of_a_drafted_jpeg_is_the_same_part(jpeg):
    box = (400.0, 300.0, 1200.0, 1100.0)
    expected = resize_longest(load_rgb(jpeg).image.crop((400, 300, 1200, 1100)), 79)
    found = open_request(ImageRequest(path=jpeg, box=box), 160)
    assert _difference(found, expected) < 1.5
    moved = resize_longest(load_rgb(jpeg).image.crop((450, 300, 1250, 1100)), 79)
    assert _difference(found, moved) > 4.0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
def test_boxes_count_in_upright_pixels_whatever_the_orientation(tmp_path, orientation, suffix):
    stored = _blocks(640, 400)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    stored.save(path, exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    assert upright.size == ((640, 400) if orientation < 5 else (400, 640))
    box = (40.0, 60.0, 360.0, 300.0)
    found = open_request(ImageRequest(path=path, box=box), 80)
    assert _difference(found, resize_longest(upright.crop((40, 60, 360, 300)), 40)) < 1.5
    assert open_request(ImageRequest(path=path), 80).size == ((80, 50) if orientation < 5 else (50, 80))


@pytest.mark.parametrize("as_photo", [False, True])
def test_as_stored_leaves_the_orientation_aside_in_picture_and_box(tmp_path, as_photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, plain = tmp_path / "turned.png", tmp_path / "plain.png"
    _blocks(640, 400).save(turned, exif=exif)
    _blocks(640, 400).save(plain)
    for box in (None, (40.0, 60.0, 620.0, 300.0)):
        options = {"box": box, "as_photo": as_photo}
        found = open_request(ImageRequest(path=turned, as_stored=True, **options), 80)
        assert np.array_equal(found, open_request(ImageRequest(path=plain, **options), 80))
    assert full_size(ImageRequest(path=turned, as_stored=True)) == (640, 400)
    assert full_size(ImageRequest(path=turned)) == (400, 640)


def test_a_box_is_scaled_by_the_factor_of_the_full_photo(tmp_path):
    path = tmp_path / "photo.png"
    _blocks(200, 100).save(path)
    # 100 * 61 / 200 = 30.5, and the published rule takes the floor.
    assert open_request(ImageRequest(path=path, box=(10.0, 20.0, 71.0, 40.0)), 100).size == (30, 10)
    # Never enlarged.
    assert open_request(ImageRequest(path=path, box=(10.0, 20.0, 71.0, 40.0)), 1000).size == (61, 20)
    assert open_request(ImageRequest(path=path), 1000).size == (200, 100)


def test_a_box_as_a_photo_is_scaled_as_one(tmp_path):
    path = tmp_path / "photo.png"
    _blocks(200, 100).save(path)
    box = (10.0, 20.0, 71.0, 40.0)
    assert open_request(ImageRequest(path=path, box=box, as_photo=True), 50).size == (50, 16)
    assert open_request(ImageRequest(path=path, box=box, as_photo=True), 100).size == (61, 20)


def test_corners_are_rounded_with_halves_to_even():
    image = _blocks(20, 10)
    assert crop(image, (2.5, 1.5, 8.5, 6.4)).tobytes() == image.crop((2, 2, 8, 6)).tobytes()


def test_rotation_turns_the_content_about_the_centre_of_the_box():
    levels = np.zeros((41, 61, 3), np.uint8)
    levels[10, 40] = 255  # 10 px right of the centre (30, 20) and 10 px above it
    turned = np.asarray(crop(Image.fromarray(levels), (10.0, 0.0, 51.0, 41.0), 90.0))
    # A quarter turn counter-clockwise takes right-above to left-above; the box starts at x = 10.
    assert turned[10, 10, 0] == 255
    assert turned.shape == (41, 41, 3)
    image = _blocks(90, 60)
    whole = image.rotate(7.0, resample=Image.Resampling.BICUBIC, fillcolor=(124, 116, 104))
    assert _difference(crop(image, (0.0, 0.0, 90.0, 60.0), 7.0), whole) < 0.01


def test_edit_is_called_on_the_picture_at_its_final_size(tmp_path):
    path = tmp_path / "photo.png"
    _blocks(200, 100).save(path)
    sizes = []

    def darken(picture: Image.Image) -> Image.Image:
        sizes.append(picture.size)
        return picture.point(lambda level: level // 2)

    plain = open_request(ImageRequest(path=path), 50)
    edited = open_request(ImageRequest(path=path, edit=darken), 50)
    assert sizes == [(50, 25)]
    np.testing.assert_array_equal(np.asarray(edited), np.asarray(plain) // 2)


def test_sixteen_bit_grey_keeps_its_tones(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.array([[0, 257, 25700, 65535]], np.uint16)).save(path)
    assert np.asarray(load_rgb(path).image)[0].tolist() == [[0] * 3, [1] * 3, [100] * 3, [255] * 3]


def test_transparency_is_seen_over_white(tmp_path):
    levels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)
    Image.fromarray(levels, "RGBA").save(tmp_path / "alpha.png")
    assert np.asarray(load_rgb(tmp_path / "alpha.png").image)[0].tolist() == [[10, 20, 30], [255, 255, 255]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 8, 7, 200, 100, 50])
    palette.putdata([0, 1])
    palette.save(tmp_path / "palette.gif", transparency=0)
    assert np.asarray(load_rgb(tmp_path / "palette.gif").image)[0].tolist() == [[255] * 3, [200, 100, 50]]


def test_cmyk_and_animations_become_rgb(tmp_path):
    _blocks(40, 30).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    assert _difference(load_rgb(tmp_path / "print.jpg").image, _blocks(40, 30)) < 4.0
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(load_rgb(tmp_path / "moving.gif").image)[0, 0].tolist() == [255, 0, 0]


def test_unusable_files_are_named(tmp_path, jpeg):
    with pytest.raises(
        FileNotFoundError, match=r"^photo: expected a file, got .*none\.jpg, which is none; check"
    ):
        open_request(ImageRequest(path=tmp_path / "none.jpg"), 100)
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "cut.jpg").write_bytes(jpeg.read_bytes()[:20000])
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("1", (15_000, 12_000)).save(tmp_path / "large.png")
    reasons = {"empty": "empty", "cut": "truncated", "text": "not an image", "large": "too large"}
    for path in sorted(set(tmp_path.iterdir()) - {jpeg}):
        with pytest.raises(OSError, match="expected an image") as caught:
            open_request(ImageRequest(path=path), 100)
        assert str(caught.value) == (
            f"photo {path}: expected an image, got '{reasons[path.stem]}'; replace or remove it"
        )


def test_boxes_without_a_pixel_of_the_photo_are_refused(jpeg):
    with pytest.raises(
        ValueError, match=r"expected x1 < x2 and y1 < y2, got \(5.0, 1.0, 5.0, 9.0\); give the upper"
    ):
        ImageRequest(path=jpeg, box=(5.0, 1.0, 5.0, 9.0))
    with pytest.raises(ValueError, match=r"expected at least a pixel of the 1603 x 1201 photo, got \(1700"):
        open_request(ImageRequest(path=jpeg, box=(1700.0, 0.0, 1800.0, 50.0)), 160)
    # What lies beyond the photo is left out of the box.
    request = ImageRequest(path=jpeg, box=(1500.0, -20.0, 1800.0, 50.0))
    assert open_request(request, 2000).size == (103, 50)


def test_tensors_are_normalised_channel_by_channel():
    image = Image.fromarray(np.array([[[0, 51, 255], [255, 102, 0]]], np.uint8))
    tensor = normalise(to_levels(image), (0.5, 0.25, 0.0), (0.5, 0.125, 2.0))
    expected = torch.tensor([[[-1.0, 1.0]], [[-0.4, 1.2]], [[0.5, 0.0]]])
    assert tensor.shape == (3, 1, 2)
    torch.testing.assert_close(tensor, expected)


def test_levels_are_those_of_the_picture(jpeg):
    request = ImageRequest(path=jpeg, box=(10.0, 20.0, 900.0, 700.0))
    levels = read_levels(request, 160)
    assert levels.dtype == np.uint8
    assert levels.flags.c_contiguous
    np.testing.assert_array_equal(levels, to_levels(open_request(request, 160)))
