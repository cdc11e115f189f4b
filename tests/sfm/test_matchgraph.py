from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sfm.matchgraph import GraphConfig, MatchGraph, build_graph, number_places
from sfm.matching import Matches


def test_places_are_numbered_by_size_then_first_image() -> None:
    #      0 1   2 3   4-7 chain    8 alone
    pairs = np.array([[2, 3], [6, 7], [0, 1], [4, 5], [5, 6]])
    assert number_places(pairs, 9).tolist() == [1, 1, 2, 2, 0, 0, 0, 0, -1]


def test_without_pairs_there_is_no_place() -> None:
    assert number_places(np.empty((0, 2), dtype=np.int64), 3).tolist() == [-1, -1, -1]


def _graph(out: Path, *rows: tuple[int, int, int, int]) -> MatchGraph:
    pairs = pd.DataFrame(rows, columns=["image_id1", "image_id2", "config", "inliers"])
    pairs = pairs.assign(origin="all", block=0, row=range(len(rows)))
    matches = Matches(pairs=pairs, folder=out / "matches", key="k")
    return build_graph(matches, 7, out, GraphConfig(min_inliers=20))


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


def test_no_trusted_pair_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="matches: expected") as error:
        _graph(tmp_path, (1, 2, 3, 17), (1, 3, 1, 0))
    assert str(error.value) == (
        "matches: expected a verified pair with 20 inliers, got at most 17 in 2 pairs; add photos that "
        "overlap, or lower graph.min_inliers"
    )
