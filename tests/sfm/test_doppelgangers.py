from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from sfm.pair_filters.doppelgangers import drop_doppelgangers
from sfm.pair_filters.interface import VerifiedPairs

# Two groups of photos that see their own 40 details each; keypoint k of a photo is detail k of its group.
ONE, TWO = (1, 2, 3, 4), (5, 6, 7)
POINTS = ((100, 90), np.arange(80.0).reshape(40, 2))


def _matches(details: range) -> np.ndarray:
    return np.column_stack([details, details]).astype(np.uint32)


def _groups() -> dict[tuple[int, int], np.ndarray]:
    return {pair: _matches(range(40)) for group in (ONE, TWO) for pair in combinations(group, 2)}


def _dropped(verified: VerifiedPairs) -> list[tuple[int, int]]:
    verdict = drop_doppelgangers(verified)
    assert set(verdict.reasons) <= {"third photos contradict it"}
    assert len(verdict.reasons) == (~verdict.keep).sum()
    gone = verified.pairs[~verdict.keep]
    return list(zip(gone["image_id1"].tolist(), gone["image_id2"].tolist(), strict=True))


@pytest.fixture
def make(verified_pairs: Callable[..., VerifiedPairs], tmp_path: Path) -> Callable[..., VerifiedPairs]:
    def build(matched: dict, failed: list[tuple[int, int]]) -> VerifiedPairs:
        return verified_pairs(tmp_path, [POINTS] * 7, matched, failed)

    return build


BRIDGE = {(2, 6): _matches(range(25))}
FAILED = [(1, 6), (3, 6), (2, 5), (2, 7), (4, 5)]


def test_a_bridge_that_the_others_contradict_goes(make: Callable[..., VerifiedPairs]) -> None:
    assert _dropped(make(_groups() | BRIDGE, FAILED)) == [(2, 6)]


def test_a_bridge_that_nobody_else_tried_stays(make: Callable[..., VerifiedPairs]) -> None:
    assert _dropped(make(_groups() | BRIDGE, [])) == []


@pytest.mark.parametrize("untried", FAILED[:4])
def test_one_witness_on_a_side_is_not_enough(
    make: Callable[..., VerifiedPairs], untried: tuple[int, int]
) -> None:
    assert _dropped(make(_groups() | BRIDGE, [pair for pair in FAILED if pair != untried])) == []


def test_a_bridge_with_a_witness_in_favour_stays(make: Callable[..., VerifiedPairs]) -> None:
    assert _dropped(make(_groups() | BRIDGE | {(4, 6): _matches(range(15))}, FAILED)) == []


@pytest.mark.parametrize(("first", "dropped"), [(15, [(2, 6)]), (16, [])])
def test_who_sees_other_details_is_no_witness(
    make: Callable[..., VerifiedPairs], first: int, dropped: list[tuple[int, int]]
) -> None:
    groups = _groups() | {pair: _matches(range(first, 40)) for pair in [(2, 3), (1, 2)]}
    assert _dropped(make(groups | BRIDGE, FAILED)) == dropped  # ten of the bridge's 25 make a witness


def test_witnesses_are_told_by_the_keypoints_of_the_near_photo(make: Callable[..., VerifiedPairs]) -> None:
    here, there = np.arange(20, dtype=np.uint32), np.arange(39, 19, -1, dtype=np.uint32)
    turned = {(2, 3): np.column_stack([here, there]), (1, 2): np.column_stack([there, here])}
    assert _dropped(make(_groups() | BRIDGE | turned, FAILED)) == [(2, 6)]


def test_groups_that_match_as_wholes_stay(make: Callable[..., VerifiedPairs]) -> None:
    bridges = {(one, two): _matches(range(25)) for one in ONE for two in TWO}
    assert _dropped(make(_groups() | bridges, [])) == []


def test_a_pair_that_kills_its_worker_is_no_failure(make: Callable[..., VerifiedPairs]) -> None:
    verified = make(_groups() | BRIDGE, FAILED)
    killed = verified.tried["inliers"] == 0
    tried = verified.tried.assign(row=verified.tried["row"].where(~killed, -1))
    assert _dropped(replace(verified, tried=tried)) == []


def test_without_pairs_nothing_goes(make: Callable[..., VerifiedPairs]) -> None:
    assert _dropped(make({(1, 2): _matches(range(20))}, [])) == []
