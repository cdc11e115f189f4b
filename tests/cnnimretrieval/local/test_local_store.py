import re

import numpy as np
import pytest

from cnnimretrieval.local import store
from cnnimretrieval.local.features import LocalFeatures, by_score, no_features
from cnnimretrieval.local.store import LocalMeta, read_local, write_local

META = LocalMeta(maker="a" * 64, method="drawn", dim=5, settings={"number": 3})


def drawn(count: int, seed: int = 0, dim: int = 5) -> LocalFeatures:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(count, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return by_score(
        random.uniform(-3, 900, (count, 2)).astype(np.float32),
        random.uniform(1, 99, count).astype(np.float32),
        random.uniform(0, 9, count).astype(np.float32),
        vectors,
    )


def fields(features: LocalFeatures) -> dict[str, np.ndarray]:
    return {name: getattr(features, name) for name in ("keypoints", "scales", "scores", "descriptors")}


def test_features_are_sorted_by_falling_score_and_cut_from_the_end():
    features = drawn(7)
    assert (np.diff(features.scores) < 0).all()
    assert len(features) == 7
    assert len(features.best(3)) == 3
    assert np.array_equal(features.best(3).keypoints, features.keypoints[:3])
    assert len(features.best(30)) == 7
    assert no_features(4).dim == 4


def test_equal_scores_keep_their_order():
    ones = np.ones(3, np.float32)
    keypoints = np.array([[5, 1], [3, 2], [4, 3]], np.float32)
    assert np.array_equal(by_score(keypoints, ones, ones, np.eye(3, dtype=np.float32)).keypoints, keypoints)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("scores", [1, 2], "expected falling scores, got 1 before 2 in row 0; sort the features by score"),
        ("scores", [np.nan, 2], "expected no NaN in 'scores', got one; leave out what could not be computed"),
        ("scales", [np.inf, 2], "expected finite numbers in 'scales', got infinity"),
        ("descriptors", [[1, 0], [0, 2]], "expected descriptors of length 1, got 2 in row 1; normalise them"),
        ("keypoints", [[1, 0, 3], [0, 2, 3]], "expected 'keypoints' of shape (2, 2), got (2, 3)"),
        ("scales", [1, 2, 3], "expected 'scales' of shape (2,), got (3,)"),
    ],
)
def test_what_does_not_fit_is_told(field, value, message):
    arrays = {**fields(drawn(2, dim=2)), field: np.array(value, np.float32)}
    with pytest.raises(ValueError, match=re.escape(f"local features: {message}")):
        LocalFeatures(**arrays)


def test_a_store_gives_back_what_was_written_photo_by_photo(tmp_path):
    written = {"a/b.jpg": drawn(4, 1), "none.jpg": no_features(5), "c.jpg": drawn(9, 2), "d.jpg": drawn(1, 3)}
    write_local(tmp_path, written.items(), META, shard_size=2)
    found = read_local(tmp_path)
    assert found.dim == 5
    assert found.names == tuple(written)
    for name, expected in written.items():
        features = found.features(name)
        for field in ("keypoints", "scales", "scores"):
            assert np.array_equal(getattr(features, field), getattr(expected, field))
        assert np.allclose(features.descriptors, expected.descriptors, atol=1e-3)
    assert sorted(path.name for path in (tmp_path / "local").iterdir() if path.is_dir()) == [
        "done",
        "shard-00000",
        "shard-00001",
        "shard-00002",
    ]


def test_an_empty_store_is_valid(tmp_path):
    assert write_local(tmp_path, [], META).names == ()


def test_a_store_is_opened_without_reading_features(tmp_path, monkeypatch):
    write_local(tmp_path, [("a.jpg", drawn(4))], META)
    monkeypatch.setattr(store, "_rows", None)
    assert read_local(tmp_path).names == ("a.jpg",)


def test_of_several_rows_for_one_photo_the_first_counts(tmp_path):
    found = write_local(tmp_path, [("a.jpg", drawn(4, 1)), ("a.jpg", drawn(6, 2))], META)
    assert len(found.features("a.jpg")) == 4
    assert len(found.at(1)) == 6


def test_what_is_no_store_is_told(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        read_local(tmp_path)
    assert str(raised.value) == (
        f"local features: expected a folder that was extracted with --local, got {tmp_path}; "
        "extract the photos again with --local"
    )


@pytest.mark.parametrize(
    "name", ["shard-00000/descriptors.npy", "shard-00000/keypoints.npy", "images.parquet"]
)
@pytest.mark.parametrize("damage", ["missing", "damaged, or changed since"])
def test_damage_is_told_when_a_store_is_opened(tmp_path, name, damage):
    write_local(tmp_path, [("a.jpg", drawn(4))], META)
    path = tmp_path / "local" / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:-3])
    with pytest.raises(ValueError, match=r"; extract the photos again with --local$") as raised:
        read_local(tmp_path)
    assert str(path) in str(raised.value)
    assert f"got it {damage}" in str(raised.value)


def test_damage_after_opening_is_told_with_the_photo_or_the_file(tmp_path):
    found = write_local(tmp_path, [("a.jpg", drawn(4))], META)
    path = tmp_path / "local" / "shard-00000" / "keypoints.npy"
    rows = np.load(path)
    np.save(path, rows[::-1])
    with pytest.raises(ValueError, match=r"shard-00000, photo 'a\.jpg': local features: expected falling"):
        found.features("a.jpg")
    np.save(path, rows[:2])
    with pytest.raises(ValueError, match=r"keypoints\.npy: expected at least 4 rows of 4, got \(2, 4\)"):
        found.features("a.jpg")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"keypoints\.npy: expected an .npy file of numbers, got none"):
        found.features("a.jpg")


def test_unknown_photos_and_foreign_makers_are_told(tmp_path):
    found = write_local(tmp_path, [("a.jpg", drawn(4))], META)
    with pytest.raises(ValueError, match=r"expected one of its 1 photos, got 'b\.jpg'"):
        found.features("b.jpg")
    found.require_maker("a" * 64)
    with pytest.raises(ValueError, match=r"expected those of the network in use \(b{12}\), got those"):
        found.require_maker("b" * 64)
