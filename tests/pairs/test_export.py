import numpy as np
import pytest
from PIL import Image

from groundwork.files import write_json
from groundwork.records import mark_done
from pairs.adopt import adopt
from pairs.export import cid_of, export, published_side, write_hloc_pairs
from pairs.image_pairs import Positives
from pairs.pair_table import PairTable, write_pair_table
from pairs.published_pairs import photo_of
from pairs.retrieval_sfm_files import read_training_pairs, read_whitening_pairs

NAMES = ("a.jpg", "b/a.jpg", "b/b.jpg", "loose.jpg", "x.jpg", "y.jpg")


def mined(names=NAMES) -> PairTable:
    """Two models of place 0 in train, a loose photo, one model of place 1 in val."""
    ones = np.ones(5)
    return PairTable(
        names=names,
        cluster=np.array([0, 0, 1, -1, 2, 2]),
        place=np.array([0, 0, 0, -1, 1, 1]),
        is_val=np.array([False] * 4 + [True] * 2),
        is_choosing=np.zeros(6, np.bool_),
        sizes=np.tile([40, 30], (6, 1)),
        orientation=np.ones(6, np.int64),
        positives=Positives(
            query=np.array([0, 1, 1, 4, 5]),
            positive=np.array([1, 0, 2, 5, 4]),
            shared_points=np.full(5, 9),
            overlap=ones / 2,
            scale_change=ones,
            angle_deg=ones,
            strategy=np.full(5, "m3"),
            weight=ones,
        ),
    )


@pytest.fixture
def pairs_dir(tmp_path):
    photos, folder = tmp_path / "photos", tmp_path / "pairs"
    for number, name in enumerate(NAMES):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (9 * number, 50, 90)).save(photos / name)
    write_pair_table(mined(), folder)
    write_json(folder / "photos.json", {"version": 1, "photos": str(photos)})
    mark_done(folder, "mine", "key")
    return folder


def test_a_side_is_numbered_by_place_and_leaves_out_loose_images():
    train, val = (published_side(mined(), side) for side in ("train", "val"))
    # Two models of one place must not be each other's negatives: they are one cluster there.
    assert train.cluster.tolist() == [1, 1, 1]
    assert val.cluster.tolist() == [2, 2]
    assert train.cids == tuple(map(cid_of, ("a.jpg", "b/a.jpg", "b/b.jpg")))
    assert list(zip(train.query, train.positive, strict=True)) == [(0, 1), (1, 0), (1, 2)]
    assert list(zip(val.query, val.positive, strict=True)) == [(0, 1), (1, 0)]


def test_what_is_exported_can_be_adopted_again(pairs_dir, tmp_path):
    pickle = export(pairs_dir, tmp_path / "out", "again")
    assert pickle == tmp_path / "out" / "again.pkl"
    train, val = read_training_pairs(pickle)
    assert (len(train.query), len(val.query)) == (3, 2)
    assert len(read_whitening_pairs(tmp_path / "out" / "again-whiten.pkl").query) == 3
    again = adopt(pickle, tmp_path / "out" / "ims", tmp_path / "pairs again")
    name_of = {photo_of(cid_of(name)): name for name in NAMES}
    names = [name_of[name] for name in again.names]
    found = {
        (names[q], names[p]) for q, p in zip(again.positives.query, again.positives.positive, strict=True)
    }
    before = mined()
    assert found == {
        (NAMES[q], NAMES[p]) for q, p in zip(before.positives.query, before.positives.positive, strict=True)
    }
    link = tmp_path / "out" / "ims" / photo_of(cid_of("b/a.jpg"))
    assert link.resolve() == (tmp_path / "photos" / "b" / "a.jpg").resolve()
    # A second export replaces the first.
    assert export(pairs_dir, tmp_path / "out", "again") == pickle


def test_pair_lists_name_each_pair_once(tmp_path, caplog):
    path = tmp_path / "pairs.txt"
    write_hloc_pairs(mined(), path)
    assert path.read_text() == "a.jpg b/a.jpg\nb/a.jpg b/b.jpg\nx.jpg y.jpg\n"
    assert not caplog.messages
    write_hloc_pairs(mined(("a b.jpg", *NAMES[1:])), path)
    assert path.read_text() == "b/a.jpg b/b.jpg\nx.jpg y.jpg\n"
    assert caplog.messages == [f"{path}: 1 pairs left out: a name with a blank cannot be written"]


def test_names_that_the_pair_list_cannot_hold_do_not_keep_the_pickles_back(tmp_path, caplog):
    folder, names = tmp_path / "pairs", tuple(sorted(f"trip 1/{number}.jpg" for number in range(6)))
    write_pair_table(mined(names), folder)
    write_json(folder / "photos.json", {"version": 1, "photos": str(tmp_path)})
    mark_done(folder, "mine", "key")
    train, _ = read_training_pairs(export(folder, tmp_path / "out", "x"))
    assert train.cids == tuple(map(cid_of, names[:3]))
    assert (tmp_path / "out" / "hloc-pairs.txt").read_text() == ""
    assert caplog.messages == [
        f"{tmp_path}/out/hloc-pairs.txt: 3 pairs left out: a name with a blank cannot be written"
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "/tmp/x", "a/b", "a\\b", "C:x", "x\n", "\x1b[2Jx", "x\0"),
        *("nul", "COM1.pkl", "x ", "x.", "a*", "é" * 101),
    ],
)
def test_names_that_are_none_of_a_file(pairs_dir, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="export") as caught:
        export(pairs_dir, tmp_path / "out", name)
    assert str(caught.value) == (f"export: expected a name for files, got {name!r}; take letters and digits")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["mined", "retrieval-SfM-120k", "my set", "été.v2", "console"])
def test_names_of_files(pairs_dir, tmp_path, name):
    assert export(pairs_dir, tmp_path / "out", name).is_file()


def test_pairs_that_were_not_mined_to_the_end_are_not_exported(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        export(tmp_path, tmp_path / "out", "x")
    assert str(error.value) == (
        f"export: expected a folder that mining finished, got {tmp_path}; run mine first"
    )
