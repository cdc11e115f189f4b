from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from groundwork.plugins import Plugin
from sfm.pair_filters.interface import Verdict, VerifiedPairs, apply_filters, load_filters

CODE = """
import numpy as np
from sfm.pair_filters.interface import Verdict

def drop_first(verified):
    keep = np.arange(len(verified.pairs)) > 0
    return Verdict(keep=keep, reasons=np.array(["it is the first"]))
"""


@pytest.fixture
def verified(verified_pairs: Callable[..., VerifiedPairs], tmp_path: Path) -> VerifiedPairs:
    points = np.arange(80.0).reshape(40, 2)
    matches = np.column_stack([np.arange(30), np.arange(30)]).astype(np.uint32)
    pairs = {(1, 2): matches, (1, 3): matches[:25], (2, 3): matches[5:]}
    return verified_pairs(tmp_path, [((100, 90), points)] * 3, pairs)


def test_filters_come_one_after_the_other(verified: VerifiedPairs, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    name = f"{tmp_path}/mine.py:drop_first"
    kept, dropped = apply_filters(load_filters([name, name]), verified)
    assert kept.pairs[["image_id1", "image_id2", "row"]].to_numpy().tolist() == [[2, 3, 2]]
    columns = ["image_id1", "image_id2", "row", "filter", "reason"]
    assert dropped[columns].to_numpy().tolist() == [
        [1, 2, 0, "mine.py:drop_first", "it is the first"],
        [1, 3, 1, "mine.py:drop_first", "it is the first"],
    ]


def test_without_filters_all_stay(verified: VerifiedPairs) -> None:
    kept, dropped = apply_filters([], verified)
    pd.testing.assert_frame_equal(kept.pairs, verified.pairs)
    assert list(dropped) == [*verified.pairs, "filter", "reason"]
    assert len(dropped) == 0


def test_the_key_follows_the_code(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    keys = []
    for code in (CODE, CODE, CODE.replace("> 0", ">= 0")):
        path.write_text(code)
        keys.append(load_filters([f"{path}:drop_first"])[0].key)
    assert keys[0] == keys[1] != keys[2]


def test_the_built_in_ones_are_there() -> None:
    assert [each.name for each in load_filters(["stationary", "doppelgangers"])] == [
        "stationary",
        "doppelgangers",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nonsense",
            "graph.filters: expected stationary, doppelgangers or path/to/file.py:function, got 'nonsense'; "
            "check the name, or install the package that brings it",
        ),
        ("gone.py:f", "graph.filters: expected a file of Python code, got 'gone.py'; check the path"),
        ("{}/a.txt:f", "graph.filters: expected a file of Python code, got '{}/a.txt'; name it .py"),
        ("{}/a.py:g", "graph.filters: expected a function in {}/a.py, got no 'g'; check the name"),
    ],
)
def test_a_filter_that_is_not_there_is_told(tmp_path: Path, name: str, message: str) -> None:
    for file in ("a.py", "a.txt"):
        (tmp_path / file).write_text("f = len")
    with pytest.raises(ValueError, match=r"graph\.filters") as error:
        load_filters([name.replace("{}", str(tmp_path))])
    assert str(error.value) == message.replace("{}", str(tmp_path))


def test_a_verdict_that_does_not_fit_is_told(verified: VerifiedPairs) -> None:
    def judge(_: Any) -> Verdict:
        return Verdict(keep=np.array([True, False]), reasons=np.array(["a"]))

    with pytest.raises(ValueError, match="pair filter bad") as error:
        apply_filters([Plugin(name="bad", key="", call=judge)], verified)
    assert str(error.value) == (
        "pair filter bad: expected a truth value for each of 3 pairs and a reason for each that goes, got "
        "bool (2,) and 1 reasons; mend the filter"
    )


def test_inliers_and_keypoints_are_read_by_row(verified: VerifiedPairs) -> None:
    ((rows, inliers),) = verified.read_inliers(np.array([2, 1]))
    assert rows.tolist() == [2, 1]
    assert [part[0].tolist() for part in inliers] == [[5, 5], [0, 0]]
    assert [len(part) for part in inliers] == [25, 25]
    assert list(verified.read_inliers(np.array([], dtype=np.int64))) == []
    assert verified.keypoints([3, 2])[2][:2].tolist() == [[0, 1], [2, 3]]
