import io

import numpy as np
import pytest

from sfm.model import Model, load_model, save_model


def arrays() -> dict:
    c, s = np.cos(0.4), np.sin(0.4)
    return {
        "names": ("a/1 2.jpg", "b\n.jpg", "é.jpg"),
        "rotations": np.stack(
            [np.eye(3), [[c, -s, 0], [s, c, 0], [0, 0, 1]], [[1, 0, 0], [0, c, -s], [0, s, c]]]
        ),
        "translations": np.arange(9.0).reshape(3, 3),
        "focal_px": np.array([800.0, 812.5, 640.25]),
        "sizes": np.array([[640, 480], [480, 640], [1024, 768]]),
        "points": np.array([[0.1, 0.2, 5.0], [1.0, -1.0, 7.5]]),
        "track_image": np.array([0, 1, 2, 0, 2, 2]),
        "track_point": np.array([0, 0, 0, 1, 1, 1]),
        "track_xy": np.arange(12.0).reshape(6, 2) + 0.5,
        "place": 4,
    }


def test_the_file_brings_back_the_same_model(tmp_path):
    model = Model(**arrays())
    save_model(model, tmp_path / "0" / "arrays.npz")
    loaded = load_model(tmp_path / "0" / "arrays.npz")
    assert (loaded.names, loaded.place) == (model.names, 4)
    for field, value in arrays().items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(loaded, field), value)
    assert [p.name for p in (tmp_path / "0").iterdir()] == ["arrays.npz"]


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for name in ("one.npz", "two.npz"):
        save_model(Model(**arrays()), tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_counts():
    model = Model(**arrays())
    assert (model.num_images, model.num_points, model.num_observations) == (3, 2, 6)


def test_the_model_is_frozen_and_the_given_arrays_are_not():
    given = arrays()
    model = Model(**given)
    with pytest.raises(ValueError, match="read-only"):
        model.points[0, 0] = 9
    given["points"][0, 0] = 9


def test_a_model_without_points_is_one():
    empty = {
        "points": np.empty((0, 3)),
        "track_image": np.empty(0, int),
        "track_point": np.empty(0, int),
        "track_xy": np.empty((0, 2)),
    }
    assert Model(**arrays() | empty).num_observations == 0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("names", ("a", "b", "a"), "all different, got"),
        ("names", ("a", "b"), r"'rotations' of shape \(2, 3, 3\), got \(3, 3, 3\)"),
        ("rotations", 2 * np.stack([np.eye(3)] * 3), "rotation matrices, got another matrix for 'a/1 2.jpg'"),
        ("rotations", np.stack([np.eye(3), np.eye(3), np.diag([1, 1, -1])]), "another matrix for 'é.jpg'"),
        ("translations", np.full((3, 3), np.nan), "no NaN in 'translations'"),
        ("points", np.full((2, 3), np.inf), "finite 'points', got infinity"),
        ("focal_px", np.array([1.0, 0.0, 1.0]), "focal_px > 0"),
        ("sizes", np.array([[1, 1], [1, 0], [1, 1]]), "sizes > 0"),
        ("track_image", np.array([0, 1, 3, 0, 1, 2]), r"'track_image' in 0..2, got 0..3"),
        ("track_point", np.array([0, 0, 0, 1, -1, 1]), r"'track_point' in 0..1, got -1..1"),
        ("place", -2, "a place >= 0, or -1 for none, got -2"),
    ],
)
def test_bad_values_are_named(field, value, message):
    with pytest.raises(ValueError, match="^model: expected .*" + message):
        Model(**arrays() | {field: value})


def test_files_that_are_no_model_are_named(tmp_path):
    path = tmp_path / "arrays.npz"
    with pytest.raises(FileNotFoundError):
        load_model(path)

    save_model(Model(**arrays()), path)
    whole = path.read_bytes()
    for content in (b"", b"not a zip", whole[:-200]):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"arrays.npz: expected an .npz archive, got .*; reconstruct again"
        ):
            load_model(path)

    stored = dict(np.load(io.BytesIO(whole)))
    np.savez(path, **{key: value for key, value in stored.items() if key != "focal_px"})
    with pytest.raises(ValueError, match="expected the array 'focal_px', got none"):
        load_model(path)
    np.savez(path, **stored | {"version": np.int64(2)})
    with pytest.raises(ValueError, match="expected format version 1, got 2"):
        load_model(path)


def test_observations_of_each_image_in_their_order():
    model = Model(**arrays())
    found = model.observations_by_image()
    assert [rows.tolist() for rows in found] == [
        [row for row, image in enumerate(model.track_image.tolist()) if image == number]
        for number in range(model.num_images)
    ]
    assert sum(map(len, found)) == model.num_observations > 0
