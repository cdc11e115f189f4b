import json
import pickle

import numpy as np
import pytest
from PIL import Image

from pairs.adopt import adopt
from pairs.heldout import read_heldout
from pairs.published_pairs import photo_of

# Sorted by path, which the last six characters decide, the order is another one than here.
TRAIN = ["zz000009", "aa000001", "cc000005"]
VAL = ["bb000003", "dd000002", "ee000008", "ff000004"]


@pytest.fixture
def photos(tmp_path):
    for number, cid in enumerate((*TRAIN, *VAL)):
        path = tmp_path / "ims" / photo_of(cid)
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if cid == "dd000002":
            exif[0x0112] = 6
        Image.new("RGB", (20 + number, 10)).save(path, "JPEG", exif=exif)
    return tmp_path / "ims"


@pytest.fixture
def file(tmp_path):
    content = {
        "train": {"cids": TRAIN, "cluster": [1, 1, 4], "qidxs": [0, 1, 0], "pidxs": [1, 0, 1]},
        "val": {"cids": VAL, "cluster": [1, 1, 1, 1], "qidxs": [1, 1, 3], "pidxs": [0, 2, 0]},
    }
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(content))
    return path


def test_the_table_that_training_reads(file, photos, tmp_path):
    table = adopt(file, photos, tmp_path / "pairs")
    cids = [name.rpartition("/")[2] for name in table.names]
    assert cids == ["aa000001", "dd000002", "bb000003", "ff000004", "cc000005", "ee000008", "zz000009"]
    assert table.is_val.tolist() == [False, True, True, True, False, True, False]
    # Cluster 1 of train and cluster 1 of val are two.
    assert table.cluster.tolist() == [0, 2, 2, 2, 1, 2, 0]
    assert (table.place == table.cluster).all()
    assert table.sizes.tolist() == [[21, 10], [24, 10], [23, 10], [26, 10], [22, 10], [25, 10], [20, 10]]
    assert table.orientation.tolist() == [1, 6, 1, 1, 1, 1, 1]
    pairs = [
        (cids[q], cids[p], w)
        for q, p, w in zip(
            table.positives.query, table.positives.positive, table.positives.weight, strict=True
        )
    ]
    assert pairs == [
        ("aa000001", "zz000009", 1.0),
        ("dd000002", "bb000003", 1.0),
        ("dd000002", "ee000008", 1.0),
        ("ff000004", "bb000003", 1.0),
        ("zz000009", "aa000001", 2.0),
    ]


def test_what_is_held_out(file, photos, tmp_path):
    adopt(file, photos, tmp_path / "pairs")
    first, second = read_heldout(tmp_path / "pairs" / "heldout.parquet")
    path = {cid: photo_of(cid) for cid in VAL}
    assert (first.query, first.box, first.kind) == (path["dd000002"], (0, 0, 10, 24), "whole")
    assert set(first.positives) == {path["bb000003"], path["ee000008"]}
    assert (second.query, second.positives) == (path["ff000004"], (path["bb000003"],))


def test_done_once(file, photos, tmp_path):
    table = adopt(file, photos, tmp_path / "pairs")
    written = (tmp_path / "pairs" / "images.parquet").stat().st_mtime_ns
    again = adopt(file, photos, tmp_path / "pairs")
    assert (tmp_path / "pairs" / "images.parquet").stat().st_mtime_ns == written
    assert again.names == table.names
    assert (again.positives.weight == table.positives.weight).all()


def stats(folder):
    return json.loads((folder / "stats.json").read_text())


def test_photos_that_are_missing_or_broken_are_left_out_until_they_are_there(file, photos, tmp_path, caplog):
    whole = adopt(file, photos, tmp_path / "whole")
    assert stats(tmp_path / "whole")["dropped"] == {}
    gone, broken = photos / photo_of("ee000008"), photos / photo_of("cc000005")
    kept = gone.read_bytes(), broken.read_bytes()
    gone.unlink()
    broken.write_bytes(b"no photo")
    table = adopt(file, photos, tmp_path / "pairs")
    assert table.names == tuple(
        name for name in whole.names if name not in map(photo_of, ("ee000008", "cc000005"))
    )
    assert len(table.positives) == len(whole.positives) - 1
    dropped = {"image: not an image": 1, "image: missing": 1, "pair: of an image left out": 1}
    assert stats(tmp_path / "pairs")["dropped"] == dropped
    assert caplog.messages == [
        f"photos {photos}: 1 missing, '08/00/00/ee000008' the first",
        f"photos {photos}: 1 not an image, '05/00/00/cc000005' the first",
        f"pairs {file}: 1 x image: not an image; 1 x image: missing; 1 x pair: of an image left out",
    ]
    for path, content in zip((gone, broken), kept, strict=True):
        path.write_bytes(content)
    assert adopt(file, photos, tmp_path / "pairs").names == whole.names


def test_no_photo_at_all(file, photos, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        adopt(file, photos.parent, tmp_path / "pairs")
    assert str(caught.value) == (
        f"published pairs: expected photos like {photos.parent}/09/00/00/zz000009, got none of 7; "
        "give the folder ims of the download"
    )
    assert not (tmp_path / "pairs").exists()


def changed(file, side, **values):
    content = pickle.loads(file.read_bytes())
    content[side] |= values
    file.write_bytes(pickle.dumps(content))


def test_pairs_of_a_photo_with_itself_are_counted(file, photos, tmp_path):
    before = adopt(file, photos, tmp_path / "before")
    changed(file, "train", qidxs=[0, 1, 2, 0], pidxs=[1, 0, 2, 1])
    changed(file, "val", qidxs=[1, 2, 1, 3], pidxs=[0, 2, 2, 0])
    table = adopt(file, photos, tmp_path / "pairs")
    assert stats(tmp_path / "pairs")["dropped"] == {"pair: of a photo with itself": 2}
    for name in ("query", "positive", "weight"):
        assert (getattr(table.positives, name) == getattr(before.positives, name)).all()


def test_no_pair_to_train_on(file, photos, tmp_path):
    changed(file, "train", qidxs=[1], pidxs=[1])
    with pytest.raises(ValueError, match="to train on") as caught:
        adopt(file, photos, tmp_path / "pairs")
    assert str(caught.value) == (
        f"pairs {file}: expected a pair to train on, got none (1 x pair: of a photo with itself); "
        "give another file, or its photos"
    )


@pytest.mark.parametrize("val", [{}, {"cids": [], "cluster": []}])
def test_with_nothing_held_out_the_trained_queries_are_the_test(file, photos, tmp_path, caplog, val):
    changed(file, "val", qidxs=[], pidxs=[], **val)
    table = adopt(file, photos, tmp_path / "pairs")
    assert not table.is_val.any()
    queries = read_heldout(tmp_path / "pairs" / "heldout.parquet")
    assert [query.query for query in queries] == ["01/00/00/aa000001", "09/00/00/zz000009"]
    assert {query.purpose for query in queries} == {"report"}
    assert caplog.messages[0] == (f"pairs {file}: no pair is held out; scores will be of what is trained on")


def test_the_file_is_missing(photos, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pickle: expected a file, got .*none\.pkl"):
        adopt(tmp_path / "none.pkl", photos, tmp_path / "pairs")
    assert np.array_equal(list((tmp_path).glob("pairs")), [])


def test_repeats_count_once_when_they_are_dropped(file, photos, tmp_path):
    kept, dropped = (adopt(file, photos, tmp_path / str(drop), drop_repeats=drop) for drop in (False, True))
    assert sorted(kept.positives.weight) == [1, 1, 1, 1, 2]
    assert dropped.positives.weight.tolist() == [1] * 5
