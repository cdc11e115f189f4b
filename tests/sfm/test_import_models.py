import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from PIL import Image

from groundwork.executors import LocalExecutor, SerialExecutor
from groundwork.files import read_json, read_table
from sfm.colmap.calls import read_reconstruction
from sfm.colmap.import_models import only_images
from sfm.model import load_model
from sfm.reconstruct import ReconstructConfig, reconstruct


def synthesize(
    database: Path | None = None,
    *,
    seed: int = 1,
    prefix: str = "",
    camera: str = "OPENCV",
    cameras_per_rig: int = 1,
) -> pycolmap.Reconstruction:
    """Ten images of points that are not symmetric; with a database, its keypoints and verified pairs too."""
    pycolmap.set_random_seed(seed)
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig = 1, cameras_per_rig
    options.num_frames_per_rig = 10 // cameras_per_rig
    options.num_points3D, options.camera_model_id = 60, getattr(pycolmap.CameraModelId, camera)
    number = len(pycolmap.Camera.create_from_model_name(1, camera, 1280.0, 1024, 768).params)
    options.camera_params = {1: [1280.0], 2: [1280.0, 512.0, 384.0]}.get(
        number, [*pycolmap.Camera.create_from_model_name(1, camera, 1280.0, 1024, 768).params]
    )
    if database is None:
        model = pycolmap.synthesize_dataset(options)
    else:
        with pycolmap.Database.open(database) as opened:
            model = pycolmap.synthesize_dataset(options, opened)
    for image in model.images.values():
        image.name = prefix + image.name
    return model


def make_photos(folder: Path, names: list[str]) -> Path:
    """A photo of its own for every name."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (70, 90), dtype=np.uint8)
        Image.fromarray(pixels).save(path, format="PNG")
    return folder


def _names(model: pycolmap.Reconstruction) -> list[str]:
    return sorted(image.name for image in model.images.values())


def _import(photos: Path, source: Path, out: Path) -> Any:
    return reconstruct(photos, out, ReconstructConfig(from_colmap=source), SerialExecutor())


def _write(model: pycolmap.Reconstruction, folder: Path, *, text: bool = False) -> Path:
    folder.mkdir(parents=True)
    model.write_text(folder) if text else model.write(folder)
    return folder


@pytest.mark.parametrize(
    ("camera", "cameras_per_rig", "text"),
    [("OPENCV", 1, False), ("PINHOLE", 1, True), ("OPENCV_FISHEYE", 1, False), ("FULL_OPENCV", 2, False)],
)
def test_models_of_any_camera_come_in(camera: str, cameras_per_rig: int, text: bool, tmp_path: Path) -> None:
    model = synthesize(camera=camera, cameras_per_rig=cameras_per_rig)
    photos = make_photos(tmp_path / "photos", _names(model))
    source = _write(model, tmp_path / "colmap", text=text)
    result = _import(photos, source, tmp_path / "out")
    (found,) = result.models
    expected = read_reconstruction(source)
    assert found.names == expected.names == tuple(model.images[number].name for number in range(1, 11))
    np.testing.assert_array_equal(found.points, expected.points)
    np.testing.assert_allclose(found.focal_px, 1280.0)
    assert result.images["status"].tolist() == ["registered"] * 10
    assert set(result.images["place"]) == {0}
    stored = pycolmap.Reconstruction(result.model_folders[0])
    assert stored.num_reg_images() == 10
    facts = read_table(tmp_path / "out" / "models.parquet").iloc[0]
    assert facts[["way", "images", "points"]].tolist() == ["imported", 10, found.num_points]
    assert facts["track_length"] == pytest.approx(model.compute_mean_track_length(), rel=1e-6)


def test_a_folder_of_models_and_what_is_missing_in_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = synthesize(seed=1, prefix="a b/"), synthesize(seed=2, prefix="c/")
    names = [*_names(one)[:8], *_names(two)]
    photos = make_photos(tmp_path / "photos", [*names, "z.png"])
    shutil.copy(photos / names[0], photos / names[1])  # the model's second image is a duplicate
    _write(one, tmp_path / "project" / "sparse" / "0")
    _write(two, tmp_path / "project" / "sparse" / "1")
    broken = tmp_path / "project" / "sparse" / "2"
    shutil.copytree(tmp_path / "project" / "sparse" / "0", broken)
    (broken / "cameras.bin").write_bytes(b"")
    with caplog.at_level("WARNING"):
        result = _import(photos, tmp_path / "project", tmp_path / "out")
    assert [model.names for model in result.models] == [tuple(_names(two)), (names[0], *names[2:8])]
    assert result.stats.models == result.stats.places == 2
    rows = result.images.set_index("name")
    assert rows.loc[names[1], ["status", "model"]].tolist() == ["duplicate", -1]
    assert rows.loc["z.png", ["status", "reason", "place"]].tolist() == [
        "unregistered",
        "in no imported model",
        -1,
    ]
    project = tmp_path / "project"
    missing = [names[1], *_names(one)[8:]]
    told = "\n".join(record.getMessage() for record in caplog.records)
    assert f"models {project}: 3 images are no usable photos of {photos} and are left out: " in told
    assert all(name in told for name in missing)
    assert (
        f"models {project}: model-00002 cannot be read and is left out: {broken / 'cameras.bin'}: expected "
        "the number of its entries, got 0 bytes; copy it again"
    ) in told
    assert "no database lies beside them" in told
    assert read_json(tmp_path / "out" / "stats.json")["stages"]["import"]["missing photos"] == 3


def test_places_are_joined_by_photos_and_by_a_database(tmp_path: Path) -> None:
    one = synthesize(tmp_path / "database.db", seed=1)
    photos = make_photos(tmp_path / "photos", _names(one))
    halves = []
    for number, half in enumerate((_names(one)[:5], _names(one)[5:])):
        model = pycolmap.Reconstruction(one)
        for image in list(model.images.values()):
            if image.name not in half:
                model.deregister_frame(image.frame_id)
        halves.append(_write(model, tmp_path / "sparse" / str(number)))
    together = _import(photos, tmp_path / "sparse", tmp_path / "together")
    assert (together.stats.models, together.stats.places) == (2, 1)
    (tmp_path / "database.db").unlink()
    apart = _import(photos, tmp_path / "sparse", tmp_path / "apart")
    assert (apart.stats.models, apart.stats.places) == (2, 2)
    _write(one, tmp_path / "sparse" / "2")
    bridged = _import(photos, tmp_path / "sparse", tmp_path / "apart")
    assert (bridged.stats.models, bridged.stats.places) == (3, 1)


def test_our_own_models_come_back_as_they_were(two_scenes: dict[str, Any], tmp_path: Path) -> None:
    photos = two_scenes["one"].folder.parent
    with LocalExecutor(2) as executor:
        ours = reconstruct(photos, tmp_path / "ours", ReconstructConfig(), executor)
        config = ReconstructConfig(from_colmap=tmp_path / "ours" / "models")
        theirs = reconstruct(photos, tmp_path / "theirs", config, executor)
    assert theirs.images.equals(ours.images)
    for one, two in zip(ours.model_folders, theirs.model_folders, strict=True):
        assert (one / "arrays.npz").read_bytes() == (two / "arrays.npz").read_bytes()


def test_nothing_to_import_is_told(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", ["a.png", "b.png"])
    with pytest.raises(ValueError, match="expected a folder with COLMAP's cameras, images and points3D"):
        _import(photos, tmp_path / "photos", tmp_path / "out")
    source = _write(synthesize(), tmp_path / "colmap")
    first = read_reconstruction(source).names[0]
    with pytest.raises(ValueError) as error:  # noqa: PT011 compared whole
        _import(photos, source, tmp_path / "out")
    assert str(error.value) == (
        f"models {source}: expected image names below {photos}, got '{first}' and 9 more that are not there; "
        "give as PHOTOS the folder that they are relative to"
    )


def test_some_images_of_a_model(tmp_path: Path) -> None:
    model = read_reconstruction(_write(synthesize(), tmp_path / "colmap"))
    kept = [row in (1, 4, 7) for row in range(model.num_images)]
    part = only_images(model, kept)
    assert part.names == tuple(model.names[row] for row in (1, 4, 7))
    np.testing.assert_array_equal(part.translations, model.translations[[1, 4, 7]])
    seen_by: dict[int, set[int]] = {}
    for image, point in zip(model.track_image.tolist(), model.track_point.tolist(), strict=True):
        if image in (1, 4, 7):
            seen_by.setdefault(point, set()).add(image)
    shared = [point for point in sorted(seen_by) if len(seen_by[point]) >= 2]
    np.testing.assert_array_equal(part.points, model.points[shared])
    expected = {
        (model.names[image], *model.points[point], *xy)
        for image, point, xy in zip(
            model.track_image.tolist(), model.track_point.tolist(), model.track_xy.tolist(), strict=True
        )
        if point in shared and image in (1, 4, 7)
    }
    found = {
        (part.names[image], *part.points[point], *xy)
        for image, point, xy in zip(
            part.track_image.tolist(), part.track_point.tolist(), part.track_xy.tolist(), strict=True
        )
    }
    assert found == expected


def test_imported_models_are_read_again_only_when_changed(tmp_path: Path) -> None:
    model = synthesize()
    photos = make_photos(tmp_path / "photos", _names(model))
    source = _write(model, tmp_path / "colmap")
    first = _import(photos, source, tmp_path / "out")
    stamp = (first.model_folders[0] / "arrays.npz").stat().st_mtime_ns
    _import(photos, source, tmp_path / "out")
    assert (first.model_folders[0] / "arrays.npz").stat().st_mtime_ns == stamp
    (image,) = [image for image in model.images.values() if image.name == _names(model)[3]]
    model.deregister_frame(image.frame_id)
    shutil.rmtree(source)
    _write(model, source)
    again = _import(photos, source, tmp_path / "out")
    assert load_model(again.model_folders[0] / "arrays.npz").num_images == 9
