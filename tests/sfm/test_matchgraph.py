from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from groundwork.files import REMEDY, read_json, read_table, write_table
from sfm.featurestore import FeatureStore
from sfm.matchgraph import GraphConfig, MatchGraph, as_networkx, build_graph, number_places
from sfm.matching import Matches
from sfm.pair_table import pair_table


def test_places_are_numbered_by_size_then_first_image() -> None:
    #      0 1   2 3   4-7 chain    8 alone
    pairs = np.array([[2, 3], [6, 7], [0, 1], [4, 5], [5, 6]])
    assert number_places(pairs, 9).tolist() == [1, 1, 2, 2, 0, 0, 0, 0, -1]


@pytest.mark.parametrize("block", [1, 7, 60])
def test_places_connected_block_by_block_are_those_of_all_pairs(block: int, monkeypatch) -> None:
    pairs = np.random.default_rng(4).integers(0, 90, (50, 2))
    label = list(range(90))
    for one, two in pairs.tolist():
        label = [label[one] if each == label[two] else each for each in label]
    monkeypatch.setattr("sfm.matchgraph._BLOCK", block)
    place = number_places(pairs, 90)
    number = np.array(label)
    alone = np.bincount(number)[number] == 1
    assert (place == -1).tolist() == alone.tolist()
    same = (number[:, None] == number) & ~alone
    assert ((place[:, None] == place) & ~alone).tolist() == same.tolist()
    assert place.max() > 8
    assert (np.diff(np.bincount(place[~alone])) <= 0).all()


def test_without_pairs_there_is_no_place() -> None:
    assert number_places(np.empty((0, 2), dtype=np.int64), 3).tolist() == [-1, -1, -1]


def _graph(
    out: Path,
    *rows: tuple[int, int, int, int],
    filters: tuple[str, ...] = (),
    rank: Sequence[int] = range(7),
) -> MatchGraph:
    columns = np.array(rows)
    pairs = pair_table(
        columns[:, :2],
        origin="all",
        geometry_kind=columns[:, 2],
        inliers=columns[:, 3],
        block=0,
        row=range(len(rows)),
    )
    matches = Matches(pairs=pairs, folder=out / "matches", key="k")
    store = FeatureStore(folder=out, shard_size=4)
    config = GraphConfig(min_inliers=20, filters=filters)
    return build_graph(matches, store, np.full((7, 2), 90), np.array(rank), out, config)


def test_places_are_numbered_by_content(tmp_path: Path) -> None:
    pairs = [(1, 2, 2, 30), (4, 5, 2, 30), (6, 7, 2, 30)]
    graph = _graph(tmp_path, *pairs, rank=[5, 6, 0, 3, 4, 1, 2])
    assert graph.place_of_image.tolist() == [2, 2, -1, 1, 1, 0, 0]
    assert graph.pairs["place"].tolist() == [2, 1, 0]


def test_only_trusted_pairs_connect(tmp_path: Path) -> None:
    graph = _graph(
        tmp_path,
        (1, 2, 3, 20),
        (2, 3, 3, 19),  # too few
        (3, 4, 7, 500),  # a watermark
        (4, 5, 6, 90),
        (5, 6, 2, 30),
        (1, 7, 1, 0),
    )
    assert graph.place_of_image.tolist() == [1, 1, -1, 0, 0, 0, -1]
    assert graph.num_places == 2
    assert graph.pairs[["image_id1", "place", "row"]].to_numpy().tolist() == [[1, 1, 0], [4, 0, 3], [5, 0, 4]]


def test_a_graph_of_an_earlier_version_is_not_shown(tmp_path: Path) -> None:
    graph, path = _graph(tmp_path, (1, 2, 3, 20)), tmp_path / "graph.parquet"
    write_table(path, graph.pairs.rename(columns={"geometry_kind": "config"}))  # as it was called then
    with pytest.raises(ValueError, match="geometry_kind") as error:
        as_networkx(tmp_path)
    assert str(error.value) == f"{path}: expected the column 'geometry_kind', got none; {REMEDY}"


def _filter(folder: Path, keep: str) -> str:
    code = f"""
import numpy as np
from sfm.pair_filters.interface import Verdict

def odd(verified):
    keep = {keep}
    return Verdict(keep=keep, reasons=np.full((~keep).sum(), "odd"))
"""
    (folder / "mine.py").write_text(code)
    return f"{folder}/mine.py:odd"


def test_filters_part_places_and_are_listed(tmp_path: Path) -> None:
    rows = ((1, 2, 3, 50), (2, 3, 3, 33), (3, 4, 2, 40), (6, 7, 7, 60))
    whole = _graph(tmp_path, *rows)
    assert whole.num_places == 1
    name = _filter(tmp_path, "verified.pairs['inliers'].to_numpy() % 2 == 0")
    parted = _graph(tmp_path, *rows, filters=(name,))
    assert parted.place_of_image.tolist() == [0, 0, 1, 1, -1, -1, -1]
    assert parted.key != whole.key
    assert parted.matches_key == whole.matches_key
    dropped = read_table(tmp_path / "graph-dropped.parquet")
    assert dropped[["image_id1", "image_id2", "filter", "reason"]].to_numpy().tolist() == [
        [2, 3, "mine.py:odd", "odd"]
    ]
    facts = read_json(tmp_path / "done" / "graph.json")["facts"]
    assert facts == {
        "trusted pairs": 2,
        "places": 2,
        "parts of large places": 0,
        "yield": {"all": {"tried": 4, "trusted": 2, "share": 0.5}},
        "dropped pairs": {"mine.py:odd: odd": 1, "verification: watermark": 1},
    }


def test_a_filter_that_leaves_nothing_is_told(tmp_path: Path) -> None:
    name = _filter(tmp_path, "np.zeros(len(verified.pairs), bool)")
    with pytest.raises(ValueError, match="pair filters") as error:
        _graph(tmp_path, (1, 2, 3, 50), filters=(name,))
    assert str(error.value) == (
        "pair filters: expected to keep a pair, got all 1 dropped; change graph.filters"
    )


def test_no_trusted_pair_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="matches: expected") as error:
        _graph(tmp_path, (1, 2, 3, 17), (1, 3, 1, 0))
    assert str(error.value) == (
        "matches: expected a verified pair with 20 inliers, got at most 17 in 2 pairs; add photos that "
        "overlap, or lower graph.min_inliers"
    )
