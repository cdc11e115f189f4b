from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageFilter, ImageOps
from scipy.ndimage import gaussian_filter

import sfm.nearcopies
from groundwork.executors import LocalExecutor
from groundwork.photos import THUMBNAIL_PX, inspect_photo
from sfm.nearcopies import near_copies, near_in_detail, turned, turned_waves, waves_of
from sfm.reconstruct import ReconstructConfig, reconstruct


@cache
def _picture(seed: int, width: int = 419, height: int = 287) -> Image.Image:
    """Soft colours and sharp rectangles, brighter above, like most photos."""
    rng = np.random.default_rng(seed)
    pixels = 128 + 1500 * gaussian_filter(rng.standard_normal((height, width, 3)), (18, 18, 0))
    pixels += np.linspace(40, -40, height)[:, None, None]
    for _ in range(60):
        y, x = rng.integers(0, height), rng.integers(0, width)
        pixels[y : y + rng.integers(5, 50), x : x + rng.integers(5, 50)] += rng.uniform(-60, 60, 3)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _stored(image: Image.Image, kind: str, **options: Any) -> Image.Image:
    file = BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def _scaled(image: Image.Image, width: int, height: int, filtering: str = "LANCZOS") -> Image.Image:
    return image.resize((width, height), Image.Resampling[filtering])


def _with(image: Image.Image, colour: int, box: tuple[int, int, int, int]) -> Image.Image:
    changed = image.copy()
    changed.paste((colour, colour, colour), box)
    return changed


def _thumbnails(images: list[Image.Image], folder: Path) -> UInt8[np.ndarray, "n p"]:
    found = []
    for number, image in enumerate(images):
        path = folder / f"{number}.{'jpg' if image.format == 'JPEG' else 'png'}"
        image.save(path, quality=90)
        photo = inspect_photo(path, max_megapixels=10, min_side_px=20)
        found.append(np.frombuffer(photo.thumbnail, dtype=np.uint8))
    return np.stack(found)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half": lambda image: _stored(_scaled(image, 210, 144), "JPEG", quality=95),
    "by any factor": lambda image: _scaled(image, 155, 106, "BICUBIC"),
    "by the nearest pixel": lambda image: _scaled(image, 210, 144, "NEAREST"),
    "larger": lambda image: _scaled(image, 733, 502),
    "small": lambda image: _scaled(image, 100, 69),
    "squeezed to a square": lambda image: _scaled(image, 224, 224),
    "strongly compressed": lambda image: _stored(image, "JPEG", quality=15),
    "webp": lambda image: _stored(image, "WEBP", quality=50),
    "palette": lambda image: image.convert("P"),
    "gray": lambda image: image.convert("L"),
    "16 bit": lambda image: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257),
    "with transparency": lambda image: image.convert("RGBA"),
    "brighter shadows": lambda image: image.point(lambda value: 255 * (value / 255) ** 0.75),
    "less contrast": lambda image: image.point(lambda value: 0.7 * value + 40),
    "sharper": lambda image: image.filter(ImageFilter.UnsharpMask(2, 80, 3)),
    "mirrored": ImageOps.mirror,
    "turned": lambda image: image.rotate(90, expand=True),
    "turned, half": lambda image: _scaled(image.rotate(270, expand=True), 144, 210),
    "upside down": lambda image: image.rotate(180),
}

OTHERS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "a step aside": lambda image: image.crop((5, 0, image.width, image.height)),
    "somebody walked by": lambda image: _with(image, 0, (100, 200, 108, 212)),
    "a tenth cut off": lambda image: image.crop((0, 0, image.width, image.height * 9 // 10)),
    "another photo": lambda image: _picture(999),
    "inside out": ImageOps.invert,
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found(kind: str, tmp_path: Path) -> None:
    images = [_picture(seed) for seed in range(8)]
    copies = [COPIES[kind](image) for image in images[:4]]
    thumbnails = _thumbnails(images + copies, tmp_path)
    assert near_copies(thumbnails, np.arange(12)).tolist() == [*range(8), *range(4)]


@pytest.mark.parametrize("kind", OTHERS)
def test_other_photos_are_kept(kind: str, tmp_path: Path) -> None:
    images = [_picture(seed) for seed in range(6)]
    thumbnails = _thumbnails(images + [OTHERS[kind](image) for image in images[:1]], tmp_path)
    assert near_copies(thumbnails, np.arange(7)).tolist() == list(range(7))


def test_pictures_that_show_next_to_nothing_are_kept(tmp_path: Path) -> None:
    down = np.linspace(0, 1, 300)[:, None].repeat(400, axis=1)
    skies = [255 * down, 200 * down**1.05 + 20, np.full((300, 400), 90), np.full((300, 400), 200)]
    noise = np.random.default_rng(0).standard_normal((2, 300, 400)) + 100
    images = [Image.fromarray(pixels.astype(np.uint8)) for pixels in (*skies, *noise)]
    thumbnails = _thumbnails(images, tmp_path)
    assert near_copies(thumbnails, np.arange(6)).tolist() == list(range(6))
    assert near_copies(np.zeros((3, THUMBNAIL_PX**2), np.uint8), np.arange(3)).tolist() == [0, 1, 2]
    assert near_copies(np.zeros((3, THUMBNAIL_PX**2), np.uint8), np.arange(0)).tolist() == []


def test_the_first_is_the_original_and_known_ones_stay(tmp_path: Path) -> None:
    image, other = _picture(1), _picture(2)
    thumbnails = _thumbnails([image, other, _scaled(image, 210, 144), _scaled(image, 155, 106)], tmp_path)
    assert near_copies(thumbnails, np.array([3, 1, 0, 2])).tolist() == [0, 1, 0, 0]
    assert near_copies(thumbnails, np.array([1, 2, 0])).tolist() == [0, 1, 1]
    assert near_copies(thumbnails, np.array([3, 1, 0, 2]), num_kept=3).tolist() == [0, 1, 2, 0]


def test_as_many_copies_as_there_are(tmp_path: Path) -> None:
    image = _picture(1)
    copies = [
        _scaled(image, width, round(width * image.height / image.width)) for width in range(130, 420, 7)
    ]
    thumbnails = _thumbnails([image, *copies], tmp_path)
    assert near_copies(thumbnails, np.arange(len(thumbnails))).tolist() == [0] * len(thumbnails)


def _series(length: int) -> UInt8[np.ndarray, "n p"]:
    """One picture that slowly becomes another one."""
    one, two = (np.asarray(_scaled(_picture(seed).convert("L"), 24, 24), dtype=float) for seed in (1, 2))
    shares = np.linspace(0, 1, length)[:, None, None]
    return ((1 - shares) * one + shares * two).round().astype(np.uint8).reshape(length, -1)


def test_small_differences_do_not_add_up() -> None:
    series = _series(100)
    original = near_copies(series, np.arange(100))
    assert 3 < len(np.unique(original)) < 60
    pixels = series.reshape(-1, THUMBNAIL_PX, THUMBNAIL_PX).astype(np.float32)
    assert near_in_detail(pixels[original], pixels).all()


def _plain_originals(thumbnails: UInt8[np.ndarray, "n p"]) -> Int[np.ndarray, " n"]:
    """Every pair in every turn, one after the other; for groups all of whose members are copies."""
    original = np.arange(len(thumbnails))
    pixels, waves = thumbnails.reshape(-1, 1, 24, 24).astype(np.float32), waves_of(thumbnails)
    for two in range(len(thumbnails)):
        for one in reversed(range(two)):
            for turn in range(8):
                apart = turned_waves(waves[one][None], turn)[0] - waves[two]
                if (
                    np.linalg.norm(apart) <= 0.06
                    and near_in_detail(turned(pixels[one], turn), pixels[two])[0]
                ):
                    original[two] = one
    return original


def _between_two_turns(seed: int) -> Float[np.ndarray, "24 24"]:
    """A picture as bright to the left as to the right, but not its own mirror image."""
    gray = np.asarray(_scaled(_picture(seed).convert("L"), 24, 24), dtype=float)
    falling = np.cos(np.pi * (np.arange(24) + 0.5) / 24)
    low, high = -90.0, 90.0
    for _ in range(30):
        middle = (low + high) / 2
        tilted = np.clip(gray + middle * falling, 0, 255)
        if waves_of(tilted.astype(np.uint8).reshape(1, -1))[0, 0, 1] > 0:
            high = middle
        else:
            low = middle
    return tilted


def test_search_agrees_with_trying_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sfm.nearcopies, "_BLOCK", 7)
    rng = np.random.default_rng(5)
    thumbnails = []
    for seed in range(14):
        gray = np.asarray(_scaled(_picture(seed).convert("L"), 24, 24), dtype=float)
        for _ in range(rng.integers(1, 4)):
            noisy = turned(gray[None], int(rng.integers(8)))[0] + rng.normal(0, 0.5, (24, 24))
            thumbnails.append(np.clip(noisy, 0, 255).astype(np.uint8).ravel())
    for seed in range(14, 20):
        gray = _between_two_turns(seed)
        for _ in range(4):
            noisy = turned(gray[None], int(rng.integers(8)))[0] + rng.normal(0, 0.5, (24, 24))
            thumbnails.append(np.clip(noisy, 0, 255).astype(np.uint8).ravel())
    shuffled = rng.permutation(np.stack(thumbnails))
    expected = _plain_originals(shuffled)
    assert len(np.unique(expected)) == 20 < len(shuffled)
    assert near_copies(shuffled, np.arange(len(shuffled))).tolist() == expected.tolist()


def test_waves_turn_with_their_picture() -> None:
    thumbnails = np.random.default_rng(0).integers(0, 256, (3, THUMBNAIL_PX**2), dtype=np.uint8)
    pixels = thumbnails.reshape(-1, THUMBNAIL_PX, THUMBNAIL_PX)
    for turn in range(8):
        after = waves_of(turned(pixels, turn).reshape(3, -1))
        np.testing.assert_allclose(turned_waves(waves_of(thumbnails), turn), after, atol=1e-6)


def test_copies_change_no_model(two_scenes: dict[str, Any], tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for scene in two_scenes.values():
        for path in scene.folder.iterdir():
            (photos / scene.folder.name).mkdir(parents=True, exist_ok=True)
            (photos / "copies" / scene.folder.name).mkdir(parents=True, exist_ok=True)
            image = Image.open(path)
            image.save(photos / scene.folder.name / path.name, exif=image.getexif())
            half = _scaled(image, 240, 180)
            half.save(photos / "copies" / scene.folder.name / f"{path.stem}.jpg", quality=90)
    with LocalExecutor(1) as executor:
        result = reconstruct(photos, tmp_path / "sfm", ReconstructConfig(), executor)
    images = result.images.set_index("name")
    assert images.loc[images["status"] == "registered"].index.tolist() == [
        *(f"one/{number}.png" for number in range(6)),
        *(f"two/{number}.png" for number in range(4)),
    ]
    copies = images[images.index.str.startswith("copies/")]
    expected = "near-copy of " + copies.index.str.removeprefix("copies/").str.replace(".jpg", ".png")
    assert (copies["status"] == "duplicate").all()
    assert copies["reason"].tolist() == expected.tolist()
    assert result.stats.duplicates == 10
    assert result.stats.stages["scan"]["near-copies"] == 10
