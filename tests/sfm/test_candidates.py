from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from groundwork.executors import SerialExecutor
from groundwork.files import read_json
from sfm import candidates
from sfm.candidates import (
    CandidateConfig,
    all_pairs,
    propose_pairs,
    read_descriptors,
    read_pair_list,
    require_given,
)
from sfm.collection import Collection
from sfm.detection import FeatureConfig
from sfm.features import Features
from sfm.featurestore import FeatureStore


def _collection(*names: str) -> Collection:
    table = pd.DataFrame({"name": names, "status": "usable", "image_id": range(1, len(names) + 1)})
    return Collection(photos=Path("photos"), table=table, key="c")


def _features(*num_keypoints: int) -> Features:
    store = FeatureStore(folder=Path("features"), shard_size=4)
    return Features(
        store=store,
        num_keypoints=np.array(num_keypoints),
        failed={},
        key="f",
        photos=Path("photos"),
        sha256=np.zeros(len(num_keypoints), dtype="S64"),
        config=FeatureConfig(),
    )


def test_all_pairs() -> None:
    assert all_pairs(np.array([1, 4, 6])).tolist() == [[1, 4], [1, 6], [4, 6]]


def test_a_pair_list_is_read_by_name(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    collection = _collection("a", "b, c.jpg", "d e\nf", "NA")
    path.write_text('"b, c.jpg",a\n"d e\nf",NA\na,"b, c.jpg"\na,a\n')
    assert read_pair_list(path, collection).tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b,c\n", "expected two names a row, got 3 columns; quote names that hold commas"),
        ("a,z\ny,b\n", "expected names of usable photos, got 'y' and 1 more; write names as in"),
        ("", r"expected two names a row, got no table \(No columns to parse"),
        ("a,b\na,b,a\n", r"expected two names a row, got no table \(Error tokenizing"),
    ],
)
def test_a_wrong_pair_list_is_told(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_pair_list(path, _collection("a", "b"))


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_pair_list_is_read_as_programs_save_it(tmp_path: Path, mark: str, encoding: str) -> None:
    path, collection = tmp_path / "pairs.csv", _collection("a", "b", "c d")
    path.write_text(f"c d{mark}a\r\nb{mark}a\r\n", encoding=encoding, newline="")
    assert read_pair_list(path, collection).tolist() == [[0, 1], [0, 2]]


def test_a_missing_pair_list_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"pairs\.csv, which is missing"):
        read_pair_list(tmp_path / "pairs.csv", _collection("a"))


def _write_descriptors(folder: Path, names: list[str], vectors: np.ndarray) -> None:
    folder.mkdir()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(folder / "vectors.npy", unit.astype(np.float32))
    pd.DataFrame({"name": names}).to_parquet(folder / "images.parquet")


def test_given_descriptors_are_put_in_order(tmp_path: Path) -> None:
    _write_descriptors(tmp_path / "d", ["c", "x", "a"], np.array([[0, 3], [9, 9], [-1, 0]]))
    vectors, known = read_descriptors(tmp_path / "d", _collection("a", "b", "c"))
    np.testing.assert_array_equal(vectors, [[-1, 0], [0, 0], [0, 1]])
    assert known.tolist() == [True, False, True]


def test_wrong_descriptors_are_told(tmp_path: Path) -> None:
    _write_descriptors(tmp_path / "d", ["a"], np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"expected as many names as vectors, got 1 and 2; extract"):
        read_descriptors(tmp_path / "d", _collection("a"))
    with pytest.raises(FileNotFoundError, match=r"expected the file vectors\.npy, got none; extract the"):
        read_descriptors(tmp_path / "gone", _collection("a"))


def test_boxes_are_no_photos_and_of_two_rows_of_a_photo_the_first_counts(tmp_path: Path) -> None:
    rows = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
    _write_descriptors(tmp_path / "d", ["a", "b", "b", "b"], rows)
    images = pd.read_parquet(tmp_path / "d" / "images.parquet")
    box = {"x1": 2.0, "y1": 3.0, "x2": 9.0, "y2": 8.0}
    images = images.assign(**{side: [value, value, np.nan, np.nan] for side, value in box.items()})
    images.to_parquet(tmp_path / "d" / "images.parquet")
    vectors, known = read_descriptors(tmp_path / "d", _collection("a", "b"))
    np.testing.assert_array_equal(vectors, [[0, 0], [-1, 0]])
    assert known.tolist() == [False, True]


def test_other_descriptors_in_the_same_folder_are_other_pairs(tmp_path: Path) -> None:
    names, config = ["a", "b", "c", "d"], CandidateConfig(descriptors=tmp_path / "d", exhaustive_up_to=4)
    rows = np.array([[1, 0], [0, 1], [0.9, 0.1], [0.1, 1]])
    _write_descriptors(tmp_path / "d", names, rows)
    config = config.model_copy(update={"neighbours": 1})
    first = _propose(tmp_path / "out", config, _features(50, 50, 50, 50))
    # The same file of vectors: only the names have changed places.
    pd.DataFrame({"name": ["a", "c", "b", "dd"]}).to_parquet(tmp_path / "d" / "images.parquet")
    assert _propose(tmp_path / "out", config, _features(50, 50, 50, 50)) != first


def _propose(out: Path, config: CandidateConfig, features: Features) -> list[list[object]]:
    collection = _collection("a", "b", "c", "d")
    table = propose_pairs(collection, features, out, config, 0, SerialExecutor())
    return [list(row) for row in table.itertuples(index=False)]


def test_sources_are_united_and_named(tmp_path: Path) -> None:
    _write_descriptors(tmp_path / "d", ["a", "b", "c", "d"], np.array([[1, 0], [0, 1], [0.9, 0.1], [0.1, 1]]))
    (tmp_path / "pairs.csv").write_text("d,a\nb,c\n")
    config = CandidateConfig(pair_list=tmp_path / "pairs.csv", descriptors=tmp_path / "d", neighbours=1)
    # Image c has too few keypoints: no source may name it.
    assert _propose(tmp_path / "out", config, _features(50, 50, 5, 50)) == [
        [1, 2, "all"],
        [1, 4, "all+descriptors+list"],
        [2, 4, "all+descriptors"],
    ]


@pytest.mark.parametrize(("neighbours", "expected"), [(1, "gps"), (0, "")])
def test_photos_taken_nearby_are_tried_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, neighbours: int, expected: str
) -> None:
    collection = _collection("a", "b", "c", "d")
    # a and d look alike, b and c too; a and b were taken 11 m apart, c far away, d nobody knows where.
    vectors = np.array([[1, 0], [0, 1], [0.1, 1], [1, 0.1]], dtype=np.float32)
    monkeypatch.setattr("sfm.candidates.describe_images", lambda *_: vectors)
    positions = {"latitude": [48.0, 48.0001, 49.0, np.nan], "longitude": [9.0, 9.0, 9.0, np.nan]}
    placed = replace(collection, table=collection.table.assign(**positions))
    config = CandidateConfig(exhaustive_up_to=2, neighbours=1, gps_neighbours=neighbours)
    table = propose_pairs(placed, _features(50, 50, 50, 50), tmp_path, config, 0, SerialExecutor())
    found = {(row.image_id1, row.image_id2): row.origin for row in table.itertuples()}
    assert found == {(1, 4): "vlad", (2, 3): "vlad"} | ({(1, 2): expected} if expected else {})
    facts = read_json(tmp_path / "done" / "candidates.json")["facts"]
    assert facts == {"pairs": len(found), "vlad": 2} | ({"gps": 1} if expected else {})


def test_spanning_trees_are_tried_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.array([[1, 0], [0, 1], [0.1, 1], [1, 0.1]], dtype=np.float32)
    monkeypatch.setattr("sfm.candidates.describe_images", lambda *_: vectors)
    config = CandidateConfig(exhaustive_up_to=2, neighbours=1, gps_neighbours=0, spanning_trees=1)
    found = _propose(tmp_path, config, _features(50, 50, 50, 50))
    assert found == [[1, 4, "vlad+trees"], [2, 3, "vlad+trees"], [3, 4, "trees"]]


def test_a_changed_pair_list_is_noticed(tmp_path: Path) -> None:
    config = CandidateConfig(pair_list=tmp_path / "pairs.csv", min_keypoints=10)
    (tmp_path / "pairs.csv").write_text("a,b\n")
    first = _propose(tmp_path, config, _features(20, 20, 20, 20))
    assert [row[2] for row in first] == ["all+list"] + ["all"] * 5
    (tmp_path / "pairs.csv").write_text("c,d\na,c\n")
    second = _propose(tmp_path, config, _features(20, 20, 20, 20))
    assert [row[2] for row in second] == ["all", "all+list", "all", "all", "all", "all+list"]


def test_what_is_given_is_read_before_any_work_and_not_where_its_pairs_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_descriptors(tmp_path / "d", ["a", "b", "c", "d"], np.eye(4))
    (tmp_path / "pairs.csv").write_text("a,b\n")
    config = CandidateConfig(pair_list=tmp_path / "pairs.csv", descriptors=tmp_path / "d", min_keypoints=10)
    collection, read = _collection("a", "b", "c", "d"), []

    def noting(name: str) -> None:
        reader = getattr(candidates, name)
        monkeypatch.setattr(candidates, name, lambda *given: (read.append(name), reader(*given))[1])

    noting("read_pair_list")
    noting("read_descriptor_folder")
    require_given(config, collection, tmp_path)
    assert read == ["read_descriptor_folder", "read_pair_list"]
    _propose(tmp_path, config, _features(20, 20, 20, 20))
    read.clear()
    require_given(config, collection, tmp_path)
    assert read == []
    (tmp_path / "pairs.csv").write_text("a,who\n")
    with pytest.raises(ValueError, match="expected names of usable photos, got 'who'"):
        require_given(config, collection, tmp_path)
    (tmp_path / "pairs.csv").write_text("a,c\n")
    with pytest.raises(ValueError, match="expected names of usable photos, got 'c'"):
        require_given(config, _collection("a", "b"), tmp_path)


def test_fewer_than_two_photos_to_match_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="candidates: expected") as error:
        _propose(tmp_path, CandidateConfig(), _features(50, 3, 0, 29))
    assert str(error.value) == (
        "candidates: expected at least two photos with 30 keypoints, got 1 of 4; add photos with more texture"
    )
