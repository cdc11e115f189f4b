import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from PIL import Image

from groundwork.executors import LocalExecutor, SerialExecutor
from groundwork.files import read_table
from groundwork.orientation import upright_size
from groundwork.tasks import run_batches
from sfm.featurestore import FeatureStore, GivenCamera
from sfm.pair_table import GEOMETRY_KINDS
from sfm.reconstruct import ReconstructConfig, reconstruct
from tests.sfm.conftest import make_photos

# f, f, centre, distortion: none of them what would be guessed.
PARAMS = [1300.0, 1250.0, 500.0, 390.0, -0.1, 0.02, 0.001, -0.002]


@contextmanager
def changed(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as database, database:
        yield database


def make_database(path: Path, *, seed: int = 1) -> list[str]:
    """Nine images of one lens that see the same points, verified pair by pair; their names run backwards."""
    pycolmap.set_random_seed(seed)
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=1, num_cameras_per_rig=1, num_frames_per_rig=9, num_points3D=150
    )
    options.camera_model_id, options.camera_params = pycolmap.CameraModelId.OPENCV, PARAMS
    options.camera_has_prior_focal_length = True
    with pycolmap.Database.open(path) as database:
        pycolmap.synthesize_dataset(options, database)
    with changed(path) as database:
        database.execute("UPDATE images SET name = 'a b/' || (20 - image_id) || '.png'")
        return [name for (name,) in database.execute("SELECT name FROM images ORDER BY image_id")]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "of them.db"
    make_database(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of eight of the nine images, and one that the database does not know."""
    names = [f"a b/{number}.png" for number in range(12, 20)]
    return make_photos(tmp_path_factory.mktemp("photos"), [*names, "z.png"])


@pytest.fixture
def copy(database: Path, tmp_path: Path) -> Path:
    """Of the database, to be changed."""
    with closing(sqlite3.connect(database)) as whole:
        whole.execute("VACUUM INTO ?", (str(tmp_path / "copy.db"),))
    return tmp_path / "copy.db"


def _import(photos: Path, source: Path, out: Path, executor: Any = None) -> Any:
    return reconstruct(photos, out, ReconstructConfig(from_colmap=source), executor or SerialExecutor())


def test_a_database_goes_through_graph_and_mapping(
    photos: Path, database: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with LocalExecutor(2) as executor, caplog.at_level("WARNING"):
        result = _import(photos, database.parent, tmp_path, executor)  # the only one in its folder
    assert [model.num_images for model in result.models] == [8]
    rows = result.images.set_index("name")
    assert rows.loc["z.png", ["status", "reason", "place"]].tolist() == [
        "unregistered",
        "not in the database",
        -1,
    ]
    assert set(rows["status"].iloc[:-1]) == {"registered"}
    assert set(rows["width"]) == {1024}
    assert caplog.records[0].getMessage() == (
        f"database {database}: 1 images are no usable photos of {photos} and are left out: a b/11.png"
    )
    (camera,) = pycolmap.Reconstruction(result.model_folders[0]).cameras.values()
    assert camera.model_name == "OPENCV"
    np.testing.assert_allclose(camera.params, PARAMS, rtol=0.02, atol=0.005)
    (image,) = FeatureStore(folder=tmp_path / "features", shard_size=256).read([3])
    assert image.camera == GivenCamera(model=4, params=tuple(PARAMS), known=True)
    pairs = read_table(tmp_path / "matches" / "pairs.parquet")
    assert len(pairs) == 8 * 7 / 2
    assert (pairs["image_id1"] < pairs["image_id2"]).all()
    assert set(pairs["origin"]) == {"database"}
    facts = result.stats.stages["import"]
    assert (facts["images"], facts["missing photos"], facts["pairs"]) == (8, 1, 28)
    assert set(result.stats.stages) == {"scan", "import", "graph", "mapping", "pair lists"}
    assert (tmp_path / "pairs-verified.txt").is_file()


@pytest.mark.parametrize(("size", "orientation"), [((512, 384), 1), ((1024, 768), 6)])
def test_a_database_of_other_photos_comes_into_the_frame_of_ours(
    database: Path, tmp_path: Path, size: tuple[int, int], orientation: int
) -> None:
    photos, exif = tmp_path / "photos", Image.Exif()
    exif[0x0112] = orientation
    for number in range(12, 20):
        path = photos / f"a b/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", upright_size(*size, orientation), number).save(path, exif=exif)
    result = _import(photos, database, tmp_path / "out")
    (model,) = result.models
    assert set(map(tuple, model.sizes.tolist())) == {upright_size(*size, orientation)}
    (camera,) = pycolmap.Reconstruction(result.model_folders[0]).cameras.values()
    focal, centre = np.array(camera.params[:2]), np.array(camera.params[2:4])
    expected = np.array([PARAMS[:2], PARAMS[2:4]]) * size[0] / 1024
    if orientation == 6:
        expected = np.array([expected[0][::-1], [expected[1][1], 1024 - expected[1][0]]])
    np.testing.assert_allclose([focal, centre], expected, rtol=0.02)
    assert result.stats.stages["import"]["frames"].startswith("8 photos ")


def test_a_database_of_photos_of_another_shape_is_refused(database: Path, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", [f"a b/{number}.png" for number in range(12, 20)])
    Image.new("L", (700, 700)).save(photos / "a b" / "15.png")
    with pytest.raises(ValueError) as error:  # noqa: PT011 compared whole
        _import(photos, database, tmp_path / "out")
    assert str(error.value) == (
        f"database {database}: image 'a b/15.png': expected a camera of the shape of its photo, "
        "700 x 700 px, got one of 1024 x 768 px; give the photos that it was made of"
    )


def test_nothing_is_done_twice(
    photos: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _import(photos, copy, tmp_path / "out")
    mapped = [path.stat().st_mtime_ns for path in (tmp_path / "out" / "mapping").glob("component-*")]
    done: list[str] = []

    def counting(function: Any, batches: Any, folder: Path, executor: Any, *, label: str) -> Any:
        def noted(batch: Any) -> Any:
            done.append(batch.name)
            return function(batch)

        return run_batches(noted, batches, folder, executor, label=label)

    monkeypatch.setattr("sfm.colmap.import_matches.run_batches", counting)
    again = _import(photos, copy, tmp_path / "out")
    assert (done, again.images.equals(first.images)) == ([], True)
    copy.touch()  # opened by somebody: read again, and found the same
    _import(photos, copy, tmp_path / "out")
    assert done == ["shard-00000", "block-00000"]
    assert [path.stat().st_mtime_ns for path in (tmp_path / "out" / "mapping").glob("component-*")] == mapped
    with changed(copy) as database:
        database.execute("DELETE FROM two_view_geometries WHERE pair_id / 2147483647 = 4")
    _import(photos, copy, tmp_path / "out")
    assert len(read_table(tmp_path / "out" / "matches" / "pairs.parquet")) == 24


def test_kinds_of_geometry_that_are_not_known_are_not_trusted(
    photos: Path, copy: Path, tmp_path: Path
) -> None:
    with changed(copy) as database:
        # 256 more than what is trusted, which one byte does not hold.
        database.execute("UPDATE two_view_geometries SET config = 258 WHERE pair_id / 2147483647 = 4")
    _import(photos, copy, tmp_path / "out")
    pairs = read_table(tmp_path / "out" / "matches" / "pairs.parquet")
    assert set(pairs["geometry_kind"]) <= set(GEOMETRY_KINDS)
    assert (pairs["geometry_kind"] == 0).sum() == 28 - 24
    assert len(read_table(tmp_path / "out" / "graph.parquet")) == 24


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            "DROP TABLE keypoints",
            "a COLMAP database that can be read, got 'no such table: keypoints'; check the",
        ),
        (
            "UPDATE cameras SET model = 99",
            "cameras as this version of COLMAP knows them, got camera 1 of model 99 with 8 parameters;",
        ),
        (
            "UPDATE keypoints SET data = x'0011' WHERE image_id = 8",
            "3840 bytes of keypoints of image 8, got 2; check the file",
        ),
        (
            "UPDATE keypoints SET rows = 9, data = substr(data, 1, 9 * 24)",
            "inliers of pair 2147483649 among 9 and 9 keypoints, got rows up to 159;",
        ),
        ("DELETE FROM images", "images with cameras, got none; name one whose pairs are verified"),
        (
            "UPDATE images SET name = name || '.jpg'",
            "image names below PHOTOS, got 'a b/19.png.jpg' and 8 more that are not there; give as PHOTOS "
            "the folder that they are relative to",
        ),
    ],
)
def test_what_is_wrong_with_a_database_is_told(
    photos: Path, copy: Path, change: str, fault: str, tmp_path: Path
) -> None:
    with changed(copy) as database:
        database.execute(change)
    with pytest.raises(ValueError) as error:  # noqa: PT011 compared whole
        _import(photos, copy, tmp_path / "out")
    said = str(error.value).replace(str(photos), "PHOTOS")
    assert said.startswith(f"database {copy}: expected {fault}")


def test_a_cut_database_is_told(photos: Path, copy: Path, tmp_path: Path) -> None:
    whole = copy.read_bytes()
    copy.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError) as error:  # noqa: PT011 compared whole
        _import(photos, copy, tmp_path / "out")
    assert str(error.value) == (
        f"database {copy}: expected a COLMAP database that can be read, got 'database disk image is "
        "malformed'; check the file"
    )
