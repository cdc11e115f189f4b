import sqlite3
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from sfm.colmap.database import read_pairs


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Images 2 (b), 5 (a) and 9 (c d), and two pairs of them, one without inliers."""
    path = tmp_path / "its #1.db"
    with pycolmap.Database.open(path) as opened:
        camera = pycolmap.Camera.create_from_model_name(1, "PINHOLE", 500.0, 640, 480)
        opened.write_camera(camera, use_camera_id=True)
        for image_id, name in ((2, "b"), (5, "a"), (9, "c d")):
            row = pycolmap.Image(name=name, camera_id=1, image_id=image_id)
            opened.write_image(row, use_image_id=True)
        inliers = np.array([[0, 3], [1, 7], [2, 2]], dtype=np.uint32)
        opened.write_two_view_geometry(5, 9, pycolmap.TwoViewGeometry(config=3, inlier_matches=inliers))
        opened.write_two_view_geometry(2, 5, pycolmap.TwoViewGeometry(config=1))
    return path


def test_verified_pairs_by_name(database: Path) -> None:
    before = database.read_bytes()
    table = read_pairs(database)
    assert table[["name1", "name2", "geometry_kind", "inliers"]].to_numpy().tolist() == [["a", "c d", 3, 3]]
    assert database.read_bytes() == before


def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("no database at all, but a text")
    with pytest.raises(ValueError) as error:  # noqa: PT011 compared whole
        read_pairs(tmp_path / "a.db")
    assert str(error.value) == (
        f"database {tmp_path / 'a.db'}: expected a COLMAP database that can be read, got 'file is not a "
        "database'; check the file"
    )
    with pytest.raises(ValueError, match="expected a COLMAP database, got no such file; check the path"):
        read_pairs(tmp_path / "b.db")


def test_a_database_in_use_is_told(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr("sqlite3.connect", lambda *args, **kwargs: connect(*args, timeout=0.1, **kwargs))
    with connect(database) as other:
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ValueError, match="got 'database is locked'; wait until COLMAP has closed it"):
            read_pairs(database)
    other.close()
