import struct
from pathlib import Path

import pycolmap
import pytest

from sfm.colmap.files import NUM_CAMERA_PARAMS, database_alone, database_beside, model_folders, require_whole


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for part in ("cameras", "images", "points3D"):
        (folder / f"{part}.bin").touch()
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rigs of three cameras, one without a pose in its rig; three frames each."""
    pycolmap.set_random_seed(3)
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=2, num_cameras_per_rig=3, num_frames_per_rig=3, num_points3D=20
    )
    folder = tmp_path_factory.mktemp("model")
    pycolmap.synthesize_dataset(options).write(folder)
    return folder


def test_where_models_are_looked_for(tmp_path: Path) -> None:
    numbered = [make_model(tmp_path / "models" / name) for name in ("2", "10", "x")]
    assert model_folders(tmp_path) == model_folders(tmp_path / "models") == numbered
    sparse = make_model(tmp_path / "sparse")
    assert model_folders(tmp_path) == model_folders(sparse) == [sparse]
    assert model_folders(tmp_path / "none") == []


def test_where_databases_are_looked_for(tmp_path: Path) -> None:
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    assert database_alone(tmp_path) is None
    one.touch()
    assert database_alone(tmp_path) == database_alone(one) == one
    assert database_beside(tmp_path / "sparse") == one
    two.touch()
    assert database_beside(tmp_path / "sparse") is None
    with pytest.raises(ValueError) as error:  # noqa: PT011 compared whole
        database_alone(tmp_path)
    assert str(error.value) == (
        f"database {tmp_path}: expected one in this folder, got one.db, two.db; name one of them"
    )
    make_model(tmp_path / "sparse" / "0")
    assert database_alone(tmp_path) is None


@pytest.mark.parametrize("name", ["cameras", "images", "points3D", "rigs", "frames"])
def test_a_cut_a_longer_and_a_miscounted_file_are_named(model: Path, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.bin"
    whole = (model / path.name).read_bytes()
    path.write_bytes(whole)
    require_whole(tmp_path)
    (count,) = struct.unpack_from("<Q", whole)
    for lost in (1, 30, len(whole) - 8):
        path.write_bytes(whole[:-lost])
        with pytest.raises(ValueError, match="expected") as error:
            require_whole(tmp_path)
        assert str(error.value).startswith(
            f"{path}: expected {count} entries, got {len(whole) - lost} bytes, which end within entry "
        )
    path.write_bytes(whole + b"ab")
    with pytest.raises(ValueError) as error:  # noqa: PT011 compared whole
        require_whole(tmp_path)
    assert str(error.value) == (
        f"{path}: expected {count} entries in {len(whole)} bytes, got {len(whole) + 2} bytes; copy it again"
    )
    path.write_bytes(struct.pack("<Q", 2**62) + whole[8:])
    with pytest.raises(ValueError) as error:  # noqa: PT011 compared whole
        require_whole(tmp_path)
    assert str(error.value) == (
        f"{path}: expected {2**62} entries, got {len(whole)} bytes, which end within entry {count + 1}; "
        "copy it again"
    )
    path.write_bytes(b"\1\0")
    with pytest.raises(ValueError, match=r"expected the number of its entries, got 2 bytes; copy it again"):
        require_whole(tmp_path)


def test_parameters_of_every_camera_model() -> None:
    known = {int(kind): name for name, kind in pycolmap.CameraModelId.__members__.items() if int(kind) >= 0}
    cameras = [pycolmap.Camera.create_from_model_name(1, known[kind], 9.0, 8, 6) for kind in sorted(known)]
    assert sorted(known) == list(range(len(NUM_CAMERA_PARAMS)))
    assert list(NUM_CAMERA_PARAMS) == [len(camera.params) for camera in cameras]
