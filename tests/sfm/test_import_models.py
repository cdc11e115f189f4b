import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from PIL import Image

from groundwork.executors import LocalExecutor, SerialExecutor
from groundwork.files import read_json, read_table
from groundwork.orientation import upright_size, upright_xy
from sfm.colmap.calls import read_reconstruction
from sfm.geometry import centres_in_world
from sfm.model import load_model, only_images
from sfm.reconstruct import ReconstructConfig, reconstruct
from tests.sfm.conftest import make_photos


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


def stored_photos(folder: Path, names: list[str], size: tuple[int, int], orientation: int = 1) -> Path:
    """Photos whose upright size is `size`, stored turned as their EXIF says."""
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for number, name in enumerate(names):
        stored = upright_size(*size, orientation)
        Image.new("L", stored, number).save(folder / name, format="PNG", exif=exif)
    return folder


def reprojection_error(model: pycolmap.Reconstruction) -> float:
    model.update_point_3d_errors()
    return float(model.compute_mean_reprojection_error())


@pytest.mark.parametrize(
    ("size", "orientation"), [((512, 384), 1), ((2048, 1536), 6), ((1024, 768), 8), ((512, 384), 3)]
)
def test_models_of_other_photos_come_into_the_frame_of_ours(
    size: tuple[int, int], orientation: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = synthesize(camera="OPENCV", cameras_per_rig=2)
    for camera in model.cameras.values():
        camera.params = [1280.0, 1270.0, 500.0, 390.0, -0.05, 0.01, 0.002, -0.003]
    names = _names(model)
    photos = stored_photos(tmp_path / "photos", names[1:], size, orientation)
    if orientation == 3:  # what a half turn's sizes do not tell, a quarter turn's do
        stored_photos(tmp_path / "quarter", names[:1], size, 8)
        shutil.copy(tmp_path / "quarter" / names[0], photos)
    with caplog.at_level("WARNING"):
        result = _import(photos, _write(model, tmp_path / "colmap"), tmp_path / "out")
    (found,) = result.models
    given = only_images(read_reconstruction(tmp_path / "colmap"), [name in found.names for name in names])
    rows = result.images.set_index("name")
    np.testing.assert_array_equal(found.sizes, rows.loc[list(found.names), ["width", "height"]])
    np.testing.assert_allclose(found.points, given.points)
    for row, name in enumerate(found.names):
        ours, theirs = found.track_xy[found.track_image == row], given.track_xy[given.track_image == row]
        upright = upright_xy(ours, *found.sizes[row].tolist(), int(rows.loc[name, "orientation"]))
        np.testing.assert_allclose(upright, theirs * size[0] / 1024, atol=1e-6)
    np.testing.assert_allclose(
        centres_in_world(found.rotations, found.translations),
        centres_in_world(given.rotations, given.translations),
    )
    stored = pycolmap.Reconstruction(result.model_folders[0])
    assert stored.num_reg_images() == len(found.names)
    expected = reprojection_error(pycolmap.Reconstruction(tmp_path / "colmap")) * size[0] / 1024
    assert reprojection_error(stored) == pytest.approx(expected, rel=0.3)
    told = "\n".join(caplog.messages)
    assert "model-00000 is brought to the stored photos: " in told
    assert "taken for stored" not in told


def test_mirrored_photos_of_a_source_that_turns_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = synthesize()
    names = _names(model)
    photos = stored_photos(tmp_path / "photos", names[1:], (1024, 768), 6)
    stored_photos(tmp_path / "mirrored", names[:1], (1024, 768), 7)
    shutil.copy(tmp_path / "mirrored" / names[0], photos)
    source = _write(model, tmp_path / "colmap")
    with caplog.at_level("WARNING"):
        result = _import(photos, source, tmp_path / "out")
    assert result.models[0].names == tuple(names[1:])
    assert (
        f"models {source}: model-00000: 1 photos that EXIF mirrors are left out, '{names[0]}' the first"
    ) in caplog.messages


def test_one_camera_of_another_shape_is_refused(tmp_path: Path) -> None:
    model = synthesize(cameras_per_rig=2)
    photos = make_photos(tmp_path / "photos", _names(model))
    name = _names(model)[7]
    Image.new("L", (1000, 768)).save(photos / name)
    source = _write(model, tmp_path / "colmap")
    with pytest.raises(ValueError) as error:  # noqa: PT011 compared whole
        _import(photos, source, tmp_path / "out")
    assert str(error.value) == (
        f"models {source}: model-00000: image '{name}': expected a camera of the shape of its photo, "
        "1000 x 768 px, got one of 1024 x 768 px; give the photos that it was made of"
    )


@pytest.mark.parametrize("pointless", ["no points", "points of one photo each"])
def test_models_without_shared_points_are_told(tmp_path: Path, pointless: str) -> None:
    model = synthesize()
    photos = make_photos(tmp_path / "photos", _names(model))
    for point_id in list(model.points3D):
        model.delete_point3D(point_id)
    if pointless != "no points":
        image = next(iter(model.images.values()))
        track = pycolmap.Track([pycolmap.TrackElement(image.image_id, 0)])
        model.add_point3D(np.ones(3), track)
    source = _write(model, tmp_path / "colmap")
    seen = "none" if pointless == "no points" else "1 that no two of its photos see"
    with pytest.raises(ValueError) as error:  # noqa: PT011 compared whole
        _import(photos, source, tmp_path / "out")
    assert str(error.value) == (
        f"models {source}: expected 3D points that its photos share, got {seen} in any model; poses are not "
        "enough, triangulate points, as COLMAP's point_triangulator does"
    )


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
