"""Names, folders and order of the photos mean nothing: the same photos give the same models."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pycolmap
import pytest

from groundwork.executors import SerialExecutor
from sfm.candidates import CandidateConfig
from sfm.model import Model
from sfm.outcome import ReconstructResult
from sfm.reconstruct import ReconstructConfig, reconstruct

# Every photo is proposed by its looks, or every pair is.
NEAREST = ReconstructConfig(candidates=CandidateConfig(exhaustive_up_to=0, neighbours=4))
EVERY_PAIR = ReconstructConfig()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def photos(two_scenes: dict[str, Any]) -> list[Path]:
    """The files of two places, in order of name."""
    return sorted(two_scenes["one"].folder.parent.rglob("*.png"))


@pytest.fixture(scope="module", params=[EVERY_PAIR, NEAREST], ids=["every pair", "nearest"])
def reference(
    request: pytest.FixtureRequest, photos: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[ReconstructConfig, ReconstructResult]:
    """Settings, and what they give of the photos under their first names."""
    out = tmp_path_factory.mktemp("reference")
    return request.param, reconstruct(photos[0].parent.parent, out, request.param, SerialExecutor())


def _by_content(result: ReconstructResult) -> pd.DataFrame:
    """What became of each photo."""
    usable = result.images[result.images["status"].isin(("registered", "unregistered"))]
    return usable.drop(columns="name").sort_values("sha256", ignore_index=True)


def _contents(result: ReconstructResult, model: Model) -> list[str]:
    return result.images.set_index("name")["sha256"].loc[list(model.names)].tolist()


def _files_without_names(folder: Path) -> dict[str, bytes]:
    """COLMAP's files of a model whose images are named by their ids."""
    model = pycolmap.Reconstruction(folder)
    for image in model.images.values():
        image.name = str(image.image_id)
    out = folder.parent / f"{folder.name}-unnamed"
    out.mkdir()
    model.write(out)
    found = {path.name: path.read_bytes() for path in sorted(out.iterdir())}
    shutil.rmtree(out)
    return found


def _require_same(found: ReconstructResult, expected: ReconstructResult) -> None:
    pd.testing.assert_frame_equal(_by_content(found), _by_content(expected))
    assert len(found.model_folders) == len(expected.model_folders) > 0
    for one, two in zip(found.model_folders, expected.model_folders, strict=True):
        assert _files_without_names(one) == _files_without_names(two)
    for one, two in zip(found.models, expected.models, strict=True):
        assert _contents(found, one) == _contents(expected, two)
        for array in (
            "rotations",
            "translations",
            "focal_px",
            "points",
            "track_image",
            "track_point",
            "track_xy",
        ):
            np.testing.assert_array_equal(getattr(one, array), getattr(two, array))


def _reversed(number: int) -> str:
    return f"{99 - number}.png"


def _in_folders(number: int) -> str:
    return f"{'abc'[number * 7 % 3]}/deep {number * 5 % 4}/{hashlib.md5(bytes([number])).hexdigest()}"


@pytest.mark.parametrize("name_of", [_reversed, _in_folders])
def test_other_names_give_the_same_models(
    photos: list[Path],
    reference: tuple[ReconstructConfig, ReconstructResult],
    name_of: Callable[[int], str],
    tmp_path: Path,
) -> None:
    config, expected = reference
    for number, photo in enumerate(photos):
        target = tmp_path / "photos" / name_of(number)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, target)
    # Copies come before the photos, and after them.
    for number in range(0, len(photos), 3):
        shutil.copy(photos[number], tmp_path / "photos" / f"{'0z'[number % 2]}{number}.png")
    found = reconstruct(tmp_path / "photos", tmp_path / "out", config, SerialExecutor())
    assert (found.images["status"] == "duplicate").sum() == 4
    _require_same(found, expected)


def test_photos_that_came_in_one_by_one_give_the_same_models(photos: list[Path], tmp_path: Path) -> None:
    expected = reconstruct(photos[0].parent.parent, tmp_path / "at once", EVERY_PAIR, SerialExecutor())
    folder = tmp_path / "photos"
    folder.mkdir()
    # Those with the largest digests first: each new photo has the largest number and the smallest digest.
    rising = sorted(photos, key=_digest, reverse=True)
    for stop in (7, 9, len(rising)):
        for number, photo in enumerate(rising[:stop]):
            shutil.copy(photo, folder / f"{number}.png")
        found = reconstruct(folder, tmp_path / "grown", EVERY_PAIR, SerialExecutor())
    numbers = pd.read_parquet(tmp_path / "grown" / "collection.parquet").set_index("name")["image_id"]
    assert numbers[[f"{number}.png" for number in range(7, 10)]].tolist() == [9, 8, 10]
    _require_same(found, expected)
