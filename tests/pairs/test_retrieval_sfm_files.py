import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from pairs.published_pairs import PublishedPairs, photo_of
from pairs.retrieval_sfm_files import (
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
    assert photo_of("abc") == "bc/a/abc"
    assert photo_of("trip/0123456789") == "89/67/45/trip/0123456789"


def test_a_whitening_file(path):
    pairs = read_whitening_pairs(dump({key: SIDE[key] for key in ("cids", "qidxs", "pidxs")}, path))
    assert (pairs.cluster == -1).all()
    assert pairs.query.tolist() == [0, 3, 0]


def test_written_and_read_again_beyond_16_bits(path):
    count = 70_000
    train, val = (
        PublishedPairs(
            cids=tuple(f"{letter}{n:08x}" for n in range(count)),
            cluster=np.arange(count) // 1000,
            query=np.array([69_999, 5]),
            positive=np.array([69_001, 900]),
        )
        for letter in "tv"
    )
    write_training_pairs(train, val, path)
    for side, again in zip((train, val), read_training_pairs(path), strict=True):
        assert side.cids == again.cids
        assert not again.told
        for name in ("cluster", "query", "positive"):
            assert (getattr(side, name) == getattr(again, name)).all()
    write_whitening_pairs(train, path)
    assert set(pickle.loads(path.read_bytes())) == {"cids", "qidxs", "pidxs"}
    assert read_whitening_pairs(path).query.tolist() == [69_999, 5]


def pairs_of(side):
    return [(side.cids[q], side.cids[p]) for q, p in zip(side.query, side.positive, strict=True)]


def test_a_pair_of_a_photo_with_itself_is_left_out(path, caplog):
    side = SIDE | {"qidxs": [0, 2, 3, 0, 1], "pidxs": [1, 2, 0, 1, 1]}
    train, val = read_training_pairs(dump({"train": side, "val": VAL}, path))
    assert list(zip(train.query, train.positive, strict=True)) == [(0, 1), (3, 0), (0, 1)]
    assert (train.told, val.told) == ({"pair: of a photo with itself": 2}, {})
    pairs = read_whitening_pairs(dump(side, path))
    assert pairs.query.tolist() == [0, 3, 0]
    assert caplog.messages == [f"pairs {path}: 2 x pair: of a photo with itself"]


def test_clusters_that_a_pair_connects_are_one(path):
    side = SIDE | {"cluster": [7, 8, -1, 20], "qidxs": [3, 1, 0], "pidxs": [1, 3, 1]}
    train, _ = read_training_pairs(dump({"train": side, "val": VAL}, path))
    # What pairs connect must not be drawn as a negative: 20 and 8, and 8 and 7.
    assert train.cluster.tolist() == [7, 7, -1, 7]
    assert pairs_of(train) == [(CIDS[3], CIDS[1]), (CIDS[1], CIDS[3]), (CIDS[0], CIDS[1])]
    assert train.told == {"pair: across clusters, which count as one": 3}


def test_a_photo_that_is_named_twice_is_one(path):
    cids = [*CIDS, CIDS[1], CIDS[2]]
    side = {"cids": cids, "cluster": [7, 7, 9, 7, 7, 3], "qidxs": [4, 1, 0, 3], "pidxs": [0, 4, 1, 4]}
    train, _ = read_training_pairs(dump({"train": side, "val": VAL}, path))
    assert train.cids == tuple(CIDS)
    # The last photo is in clusters 9 and 3: they share it.
    assert train.cluster.tolist() == [7, 7, 3, 7]
    assert pairs_of(train) == [(CIDS[1], CIDS[0]), (CIDS[0], CIDS[1]), (CIDS[3], CIDS[1])]
    assert train.told == {"image: named before": 2, "pair: of a photo with itself": 1}


def test_a_photo_on_both_sides_is_not_held_out(path):
    val = {
        "cids": ["e000005.jpg", CIDS[1], "f000006.jpg"],
        "cluster": [2] * 3,
        "qidxs": [0, 1],
        "pidxs": [2, 2],
    }
    train, held_out = read_training_pairs(dump({"train": SIDE, "val": val}, path))
    assert train.cids == tuple(CIDS)
    assert pairs_of(held_out) == [("e000005.jpg", "f000006.jpg")]
    assert held_out.told == {"image: of val, in train too": 1, "pair: of an image left out": 1}


@pytest.mark.parametrize("val", [None, {"cids": [], "cluster": [], "qidxs": [], "pidxs": []}])
def test_nothing_held_out(path, val):
    _, held_out = read_training_pairs(dump({"train": SIDE, "val": val}, path))
    assert (held_out.cids, len(held_out.query)) == ((), 0)
    dump({"train": SIDE}, path)
    assert read_training_pairs(path)[1].cids == ()


def test_numbers_and_names_in_other_dress(path):
    kinds = {
        "cids": np.array(CIDS),
        "cluster": np.array([7, 7, 9, 7], np.uint8),
        "qidxs": [np.int32(0), 3.0, np.float64(0)],
        "pidxs": (1, np.uint16(0), 1),
        "bbxs": None,
        "ims": ["left from another version"],
    }
    for values in (kinds, kinds | {"cids": np.array(CIDS, object)}, kinds | {"cids": np.array(CIDS, "S")}):
        for protocol in (0, 2, 4):
            path.write_bytes(pickle.dumps({"train": values, "val": VAL}, protocol))
            train, _ = read_training_pairs(path)
            assert train.cids == tuple(CIDS)
            assert train.cluster.tolist() == [7, 7, 9, 7]
            assert list(zip(train.query, train.positive, strict=True)) == [(0, 1), (3, 0), (0, 1)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cids": CIDS[:3]}, "a cluster for each image, got 4 for 3"),
        ({"cids": ["../../x0001.jpg", *CIDS[1:]]}, "names of photos in 'cids', got '../../x0001.jpg'"),
        ({"cids": ["/etc/password", *CIDS[1:]]}, "names of photos in 'cids', got '/etc/password'"),
        ({"cids": ["......", *CIDS[1:]]}, "names of photos in 'cids', got '......'"),
        ({"cids": ["", *CIDS[1:]]}, "names of photos in 'cids', got ''"),
        ({"cids": [7, *CIDS[1:]]}, "names of photos in 'cids', got 7"),
        ({"cids": "a000001.jpg"}, "a list in 'cids', got 'a000001.jpg'"),
        ({"qidxs": [0, 3]}, "as many qidxs as pidxs, got 2 and 3"),
        ({"qidxs": [0, 3, 4]}, "rows 0..3, got 0..4"),
        ({"qidxs": [0, 3, -1]}, "rows 0..3, got -1..3"),
        ({"qidxs": [0, 3, 2**80]}, f"whole numbers in 'qidxs', got {2**80}"),
        ({"qidxs": [0, 3, 0.5]}, "whole numbers in 'qidxs', got 0.5"),
        ({"qidxs": [0, 3, float("nan")]}, "whole numbers in 'qidxs', got nan"),
        ({"qidxs": [0, 3, True]}, "whole numbers in 'qidxs', got True"),
        ({"pidxs": [[1], [0], [1]]}, "whole numbers in 'pidxs', got [1]"),
        ({"cluster": None}, "a list in 'cluster', got None"),
    ],
)
def test_wrong_files(path, change, said):
    dump({"train": SIDE | change, "val": VAL}, path)
    with pytest.raises(ValueError, match=r"^pairs ") as caught:
        read_training_pairs(path)
    assert str(caught.value) == f"pairs {path}: expected {said}; download it again, or give another file"


def test_a_whitening_file_is_no_training_file(path):
    with pytest.raises(ValueError, match="expected 'train' in it, got 'cids', 'cluster', 'qidxs', 'pidxs'; "):
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
