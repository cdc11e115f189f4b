import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from pairs.retrieval_sfm_files import (
    PublishedPairs,
    photo_of,
    read_training_pairs,
    read_whitening_pairs,
    write_training_pairs,
    write_whitening_pairs,
)

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "pairs"
CIDS = ["a000001.jpg", "b000002.jpg", "c000003.jpg", "d000004.jpg"]
SIDE = {"cids": CIDS, "cluster": [7, 7, 9, 7], "qidxs": [0, 3, 0], "pidxs": [1, 0, 1]}
VAL = {"cids": ["e000005.jpg", "f000006.jpg"], "cluster": [2, 2], "qidxs": [1], "pidxs": [0]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.pkl"


def dump(content, path):
    path.write_bytes(pickle.dumps(content))
    return path


def test_a_training_file(path):
    train, val = read_training_pairs(dump({"train": SIDE, "val": VAL}, path))
    assert train.cids == tuple(CIDS)
    assert train.cluster.tolist() == [7, 7, 9, 7]
    assert list(zip(train.query.tolist(), train.positive.tolist(), strict=True)) == [(0, 1), (3, 0), (0, 1)]
    assert val.names == ("pg/.j/05/e000005.jpg", "pg/.j/06/f000006.jpg")


def test_where_photos_lie():
    assert photo_of("0123456789abcdef") == "ef/cd/ab/0123456789abcdef"


def test_a_whitening_file(path):
    pairs = read_whitening_pairs(dump({key: SIDE[key] for key in ("cids", "qidxs", "pidxs")}, path))
    assert (pairs.cluster == -1).all()
    assert pairs.query.tolist() == [0, 3, 0]


def test_written_and_read_again_beyond_16_bits(path):
    count = 70_000
    many = PublishedPairs(
        cids=tuple(f"{n:08x}" for n in range(count)),
        cluster=np.arange(count) // 1000,
        query=np.array([69_999, 5]),
        positive=np.array([69_001, 900]),
    )
    write_training_pairs(many, many, path)
    train, val = read_training_pairs(path)
    for side in (train, val):
        assert side.cids == many.cids
        for name in ("cluster", "query", "positive"):
            assert (getattr(side, name) == getattr(many, name)).all()
    write_whitening_pairs(many, path)
    assert set(pickle.loads(path.read_bytes())) == {"cids", "qidxs", "pidxs"}
    assert read_whitening_pairs(path).query.tolist() == [69_999, 5]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cids": CIDS[:3]}, "a cluster for each image, got 4 for 3"),
        (
            {"cids": ["../../x.jpg", *CIDS[1:]]},
            "names of at least 6 characters without folders, got '../../x.jpg'",
        ),
        ({"cids": ["x.jpg", *CIDS[1:]]}, "names of at least 6 characters without folders, got 'x.jpg'"),
        ({"qidxs": [0, 3]}, "as many qidxs as pidxs, got 2 and 3"),
        ({"qidxs": [0, 3, 4]}, "rows 0..3, got 0..4"),
        ({"qidxs": [0, 3, -1]}, "rows 0..3, got -1..3"),
        ({"qidxs": [0, 3, 1]}, "pairs of two images, got row 1 with itself"),
        ({"qidxs": [0, 3, 2]}, "the two images of a pair in one cluster, got 1 pairs in two clusters"),
        ({"qidxs": [0, 3, 0.5]}, "integers in 'qidxs', got 0.5"),
        ({"cluster": None}, "'cluster' in it, got none or something else"),
    ],
)
def test_wrong_files(path, change, said):
    dump({"train": SIDE | change, "val": VAL}, path)
    with pytest.raises(ValueError, match=r"^pairs ") as caught:
        read_training_pairs(path)
    assert str(caught.value) == f"pairs {path}: expected {said}; download it again, or give another file"


def test_a_whitening_file_is_no_training_file(path):
    with pytest.raises(ValueError, match="expected 'train' in it, got none or something else"):
        read_training_pairs(dump(SIDE, path))


def test_the_files_that_the_reference_reads():
    folder = GOLDEN / "train" / "retrieval-SfM-tiny"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    expected = json.loads((GOLDEN / "expected.json").read_text())
    train, _ = read_training_pairs(folder / "retrieval-SfM-tiny.pkl")
    drawn = expected["train"]["drawn_rows"]
    assert train.query[drawn].tolist() == expected["train"]["qidxs"]
    assert train.positive[drawn].tolist() == expected["train"]["pidxs"]
    whitening = read_whitening_pairs(folder / "retrieval-SfM-tiny-whiten.pkl")
    for pairs in (train, whitening):
        assert all((folder / "ims" / name).is_file() for name in pairs.names)
