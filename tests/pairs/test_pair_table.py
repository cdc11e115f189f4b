import numpy as np
import pandas as pd
import pytest

from pairs.image_pairs import Candidates, Positives
from pairs.pair_table import (
    PairTable,
    read_candidates,
    read_pair_table,
    write_candidates,
    write_pair_table,
)
from pairs.shared_points import CELLS

NAMES = ("a b.jpg", "c.jpg", "d\n.jpg", "é/e.jpg", "é/f.jpg")


def positives(query=(0, 1, 3), positive=(1, 0, 4)) -> Positives:
    n = len(query)
    return Positives(
        query=np.array(query, dtype=int),
        positive=np.array(positive, dtype=int),
        shared_points=np.arange(20, 20 + n),
        overlap=np.linspace(0.3, 0.9, n),
        scale_change=np.linspace(1.0, 1.4, n),
        angle_deg=np.linspace(0, 33.5, n),
        strategy=np.full(n, "m3"),
        weight=np.linspace(1, 2, n),
    )


def table(**changes) -> PairTable:
    arrays = {
        "names": NAMES,
        "cluster": np.array([0, 0, -1, 3, 3]),
        "place": np.array([2, 2, -1, 5, 5]),
        "is_val": np.array([False, False, False, True, True]),
        "is_choosing": np.array([False, False, False, True, True]),
        "sizes": np.array([[640, 480], [480, 640], [3, 4], [5, 6], [7, 8]]),
        "orientation": np.array([1, 6, 1, 8, 1]),
        "positives": positives(),
    }
    return PairTable(**arrays | changes)


def test_files_bring_back_the_same_table(tmp_path):
    written = table()
    write_pair_table(written, tmp_path)
    read = read_pair_table(tmp_path)
    assert read.names == written.names
    for name in ("cluster", "place", "is_val", "is_choosing", "sizes", "orientation"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    for name in Positives.LAYOUT:
        np.testing.assert_array_equal(getattr(read.positives, name), getattr(written.positives, name))


def test_columns_that_others_read(tmp_path):
    write_pair_table(table(), tmp_path)
    images = pd.read_parquet(tmp_path / "images.parquet")
    columns = ["name", "cluster", "place", "split", "choosing", "width", "height", "orientation", "row"]
    assert list(images) == columns
    assert images["split"].tolist() == ["train", "train", "train", "val", "val"]
    pairs = pd.read_parquet(tmp_path / "positives.parquet")
    assert list(pairs) == [
        "query", "positive", "strategy", "shared_points", "overlap", "scale_change", "angle_deg", "weight",
    ]  # fmt: skip
    assert pairs["query"].tolist() == ["a b.jpg", "c.jpg", "é/e.jpg"]
    assert pairs["positive"].tolist() == ["c.jpg", "a b.jpg", "é/f.jpg"]


def test_images_are_listed_by_name_and_read_in_their_order(tmp_path):
    written = table(names=NAMES[::-1])
    write_pair_table(written, tmp_path)
    assert pd.read_parquet(tmp_path / "images.parquet")["name"].tolist() == list(NAMES)
    read = read_pair_table(tmp_path)
    assert read.names == NAMES[::-1]
    np.testing.assert_array_equal(read.place, written.place)
    np.testing.assert_array_equal(read.positives.query, written.positives.query)
    # A table without rows is taken as it lies.
    images = pd.read_parquet(tmp_path / "images.parquet").drop(columns="row")
    images.to_parquet(tmp_path / "images.parquet")
    assert read_pair_table(tmp_path).names == NAMES


def test_candidates_go_through_their_file(tmp_path):
    pairs = positives()
    shared = {name: getattr(pairs, name) for name in Candidates.LAYOUT if hasattr(pairs, name)}
    written = Candidates(
        **shared, baseline=np.array([0.1, np.inf, 0.3]), frustum_overlap=np.array([0.4, 0.0, 1.0])
    )
    write_candidates(written, NAMES, tmp_path)
    read = read_candidates(tmp_path, NAMES)
    for name in Candidates.LAYOUT:
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))


def test_a_table_without_positives_goes_through_its_files(tmp_path):
    write_pair_table(table(positives=positives((), ())), tmp_path)
    assert len(read_pair_table(tmp_path).positives) == 0


def test_positives_by_side_of_the_split():
    assert table().positives_of("val").query.tolist() == [3]
    assert table().positives_of("train").query.tolist() == [0, 1]


def test_a_name_that_is_no_image_stops_the_reading(tmp_path):
    write_pair_table(table(), tmp_path)
    frame = pd.read_parquet(tmp_path / "positives.parquet").replace({"positive": {"é/f.jpg": "gone.jpg"}})
    frame.to_parquet(tmp_path / "positives.parquet")
    with pytest.raises(ValueError, match="image pairs") as error:
        read_pair_table(tmp_path)
    assert str(error.value) == ("image pairs: expected names of images.parquet, got 'gone.jpg'; mine again")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"names": (*NAMES[:-1], NAMES[0])}, "expected every name once"),
        ({"cluster": np.array([0, 0, 1, 3, 3])}, "a place for every image of a cluster"),
        ({"cluster": np.array([0, 0, -1, 0, 0])}, "one place for every cluster"),
        ({"is_val": np.array([False, True, False, True, True])}, "every place on one side of the split"),
        ({"is_choosing": np.array([True, True, False, False, False])}, "images to choose by to be held out"),
        (
            {"is_choosing": np.array([False, False, False, True, False])},
            "places to choose by apart from others",
        ),
        ({"orientation": np.array([1, 6, 0, 8, 1])}, "orientations in 1..8"),
        ({"sizes": np.array([[640, 480], [480, 640], [3, 0], [5, 6], [7, 8]])}, "sizes > 0"),
        ({"positives": positives((0,), (3,))}, "the two images of a pair in one place"),
        ({"positives": positives((0,), (5,))}, r"pairs of rows 0..4, got 0..5"),
    ],
)
def test_contradictions_are_refused(changes, expected):
    with pytest.raises(ValueError, match=expected):
        table(**changes)


def test_a_table_without_the_choosing_places_is_of_another_version(tmp_path):
    write_pair_table(table(), tmp_path)
    images = pd.read_parquet(tmp_path / "images.parquet").drop(columns="choosing")
    images.to_parquet(tmp_path / "images.parquet")
    with pytest.raises(ValueError, match="pairs") as error:
        read_pair_table(tmp_path)
    assert str(error.value) == (
        f"pairs {tmp_path}: expected an images.parquet of this version, got one without the column choosing; "
        "mine again"
    )


def test_a_table_keeps_the_counts_of_each_pair(tmp_path):
    pairs = positives()
    counts = np.random.default_rng(0).integers(0, 9, (len(pairs), CELLS, CELLS), dtype=np.uint8)
    write_pair_table(table(shared_points=counts), tmp_path)
    again = read_pair_table(tmp_path)
    for row, (query, positive) in enumerate(zip(pairs.query.tolist(), pairs.positive.tolist(), strict=True)):
        np.testing.assert_array_equal(again.points_shared(query, positive), counts[row])
    known = set(zip(pairs.query.tolist(), pairs.positive.tolist(), strict=True))
    others = [
        (one, other)
        for one in range(again.num_images)
        for other in range(again.num_images)
        if (one, other) not in known
    ]
    assert all(again.points_shared(*pair) is None for pair in others)
    write_pair_table(table(), tmp_path)
    assert read_pair_table(tmp_path).shared_points is None


def test_counts_of_other_pairs_are_refused(tmp_path):
    counts = np.zeros((len(positives()) + 1, CELLS, CELLS), np.uint8)
    with pytest.raises(ValueError, match=r"^pairs shared_points.npy: expected 8 x 8 counts .* mine again$"):
        table(shared_points=counts)
    write_pair_table(table(), tmp_path)
    (tmp_path / "shared_points.npy").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"shared_points.npy: expected an .npy file .*; mine again$"):
        read_pair_table(tmp_path)
