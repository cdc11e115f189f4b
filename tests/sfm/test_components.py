from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from sfm.components import Component, components
from sfm.featurestore import FeatureStore
from sfm.matchgraph import GraphConfig, build_graph
from sfm.matching import Matches
from sfm.numbering import digests, rank_by_content
from sfm.pair_table import pair_table
from sfm.printed import PrintedKeypoints

_NO_PRINT = PrintedKeypoints()
PAIRS = [(1, 2, 3, 40), (2, 4, 2, 50), (5, 6, 3, 30)]


def _usable(count: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "name": [f"{number}.jpg" for number in range(count)],
            "sha256": [f"hash {number}" for number in range(count)],
            "width": 640,
            "height": [480] * (count - 1) + [500],
            "focal_px": [np.nan, 500.0, np.nan, 500.0, 500.0, 500.0][:count],
            "camera": ["", "M", "", "M", "M", "M"][:count],
            "image_id": range(1, count + 1),
        }
    )


def _components(
    out: Path,
    usable: pd.DataFrame,
    pairs: list[tuple[int, int, int, int]],
    min_size: int = 2,
    printed: PrintedKeypoints = _NO_PRINT,
) -> list[Component]:
    columns = np.array(pairs)
    table = pair_table(
        columns[:, :2],
        origin="all",
        geometry_kind=columns[:, 2],
        inliers=columns[:, 3],
        block=0,
        row=range(len(pairs)),
    )
    matches = Matches(pairs=table, folder=out, key="m")
    store = FeatureStore(folder=out, shard_size=4)
    sizes = usable[["width", "height"]].to_numpy()
    rank = rank_by_content(digests(usable["sha256"]))
    graph = build_graph(matches, store, sizes, rank, out / str(len(usable)), GraphConfig(filters=()))
    return list(components(usable, replace(graph, printed=printed), min_size))


def test_components_hold_their_images_cameras_and_pairs(tmp_path: Path) -> None:
    first, second = _components(tmp_path, _usable(6), PAIRS)
    assert (first.place, first.image_ids, first.camera_ids) == (0, (1, 2, 4), (1, 2, 2))
    # The last photo has another height, so another camera.
    assert (second.place, second.image_ids, second.camera_ids) == (1, (5, 6), (1, 2))
    assert first.pairs.tolist() == [[1, 2, 3, 40, 0, 0], [2, 4, 2, 50, 0, 1]]
    assert first.pair_table[["inliers", "row"]].to_numpy().tolist() == [[40, 0], [50, 1]]
    assert len(_components(tmp_path, _usable(6), PAIRS, min_size=3)) == 1


def test_the_key_is_made_of_the_content(tmp_path: Path) -> None:
    def key(usable: pd.DataFrame, pairs: list[tuple[int, int, int, int]], out: str) -> str:
        return _components(tmp_path / out, usable, pairs)[0].key

    usable = _usable(6)
    expected = key(usable, PAIRS, "same")
    # Neither other components nor the collection's numbers matter.
    assert key(usable, [*PAIRS[:2], (3, 5, 3, 99)], "others") == expected
    shifted = pd.concat([usable.iloc[[2]], usable.iloc[:2], usable.iloc[[3]]], ignore_index=True)
    shifted["image_id"] = range(1, 5)
    assert key(shifted, [(3, 4, 2, 50), (2, 3, 3, 40)], "shifted") == expected
    turned = usable.iloc[[3, 1, 0]].reset_index(drop=True)
    assert key(turned, [(1, 2, 2, 50), (2, 3, 3, 40)], "turned") == expected
    changes = [
        key(usable, [(1, 2, 3, 41), *PAIRS[1:]], "inliers"),
        key(usable, [(1, 2, 2, 40), *PAIRS[1:]], "geometry_kind"),
        key(usable, [*PAIRS, (1, 4, 3, 40)], "pair"),
        key(usable, [(1, 4, 3, 40), (2, 4, 2, 50)], "ends"),
        key(usable.replace({"sha256": {"hash 0": "another"}}), PAIRS, "bytes"),
        key(usable.replace({"name": {"0.jpg": "a.jpg"}}), PAIRS, "name"),
        key(usable.assign(camera=""), PAIRS, "camera"),
        key(usable.replace({"focal_px": {500.0: 510.0}}), PAIRS, "focal"),
        key(usable.replace({"width": {640: 650}}), PAIRS, "width"),
        key(usable.replace({"height": {480: 490}}), PAIRS, "height"),
    ]
    assert len({expected, *changes}) == len(changes) + 1


def test_print_belongs_to_the_content_of_its_component(tmp_path: Path) -> None:
    plain = _components(tmp_path, _usable(6), PAIRS)
    on_four, on_two = (
        _components(tmp_path, _usable(6), PAIRS, printed=PrintedKeypoints.of(np.array(ids), np.array([7, 8])))
        for ids in ([3, 4], [2, 2])
    )
    assert [part.printed.table().to_numpy().tolist() for part in on_four] == [[[4, 8]], []]
    assert len({parts[0].key for parts in (plain, on_four, on_two)}) == 3
    assert len({parts[1].key for parts in (plain, on_four, on_two)}) == 1
