from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from groundwork.executors import SerialExecutor
from sfm.reconstruct import ReconstructConfig, reconstruct

BAR = 48


def _lines(photo: Image.Image, rng: np.random.Generator, width: int) -> Image.Image:
    """A bar below the photo: camera, clock, date, and what is told of the weather, in two centred lines."""
    out = Image.new("L", (photo.width, photo.height + BAR))
    out.paste(photo)
    hour, minute, day, month, degrees = (int(rng.integers(10, limit)) for limit in (24, 60, 29, 13, 40))
    for row, text in enumerate(
        (
            f"WOODCAM-2 RIVERSIDE {hour}:{minute} {day}.{month}.2021 {'#' * width}",
            f"{degrees} C  BATTERY {100 - degrees}%  MOON {'FULL' if width else 'NEW'}  PIR",
        )
    ):
        draw = ImageDraw.Draw(out)
        font = ImageFont.load_default(18)
        left = (out.width - draw.textlength(text, font=font)) / 2
        draw.text((left, photo.height + 2 + 22 * row), text, font=font, fill=255)
    return out


def _frame(photo: Image.Image, rng: np.random.Generator, width: int) -> Image.Image:
    """An ornament all around, the whole made smaller."""
    out = Image.new("L", (photo.width + 2 * BAR, photo.height + 2 * BAR), 230)
    draw, same = ImageDraw.Draw(out), np.random.default_rng(7)
    for _ in range(260):
        x, y = same.integers(0, out.size)
        radius, grey = same.integers(4, 13), int(same.integers(0, 256))
        shape = draw.ellipse if same.random() < 0.5 else draw.rectangle
        shape([x - radius, y - radius, x + radius, y + radius], fill=grey)
    out.paste(photo, (BAR, BAR))
    share = 1 - 0.05 * width
    return out.resize((round(share * out.width), round(share * out.height)), Image.Resampling.LANCZOS)


def _inside_bar(xy: np.ndarray, size: np.ndarray) -> np.ndarray:
    return xy[:, 1] > size[1] - BAR


def _inside_frame(xy: np.ndarray, size: np.ndarray) -> np.ndarray:
    border = BAR / (360 + 2 * BAR) * size[1] - 2
    return ((xy < border) | (xy > size - border)).any(axis=1)


@pytest.mark.slow
@pytest.mark.parametrize(("add", "inside"), [(_lines, _inside_bar), (_frame, _inside_frame)])
def test_print_joins_no_places_and_becomes_no_points(
    two_scenes: dict[str, Any], tmp_path: Path, add: Callable, inside: Callable
) -> None:
    rng = np.random.default_rng(2)
    for name, scene in two_scenes.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number, file in enumerate(sorted(scene.folder.iterdir())):
            with Image.open(file) as photo:
                add(photo, rng, number % 3).save(tmp_path / "photos" / name / file.name, exif=photo.getexif())
    result = reconstruct(tmp_path / "photos", tmp_path / "sfm", ReconstructConfig(), SerialExecutor())
    images = result.images.assign(scene=result.images["name"].str.split("/").str[0])
    assert images["status"].tolist() == ["registered"] * 10
    assert images.groupby("place")["scene"].unique().map(list).tolist() == [["one"], ["two"]]
    for model in result.models:
        for image, size in enumerate(model.sizes):
            # A stray match on print that nothing else matches is one among hundreds.
            assert inside(model.track_xy[model.track_image == image], size).mean() < 0.01
