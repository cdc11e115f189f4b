from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from groundwork.plugins import Plugin
from sfm.pair_filters.interface import VerifiedPairs, apply_filters
from sfm.pair_filters.stationary import drop_stationary
from sfm.pair_table import WATERMARK

SIZE = (1000, 700)
MATCHES = np.column_stack([np.arange(40), np.arange(40)]).astype(np.uint32)


def _frame(rng: np.random.Generator) -> np.ndarray:
    """Points of a frame around the photo."""
    points = rng.uniform((0, 0), SIZE, (40, 2))
    points[:20, 0] = rng.choice([40, 960], 20)
    points[20:, 1] = rng.choice([30, 670], 20)
    return points


def _logo(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform((400, 300), (560, 380), (40, 2))


def _spread(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform((0, 0), SIZE, (40, 2))


def _jitter(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return points + rng.uniform(-1, 1, points.shape)


def _moved(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return points + rng.uniform(5, 40, points.shape)


def _half_moved(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.where(np.arange(40)[:, None] % 3 > 0, points, _moved(points, rng))


@pytest.mark.parametrize(
    ("where", "how", "reason"),
    [
        (_frame, _jitter, "print in the border"),
        (_logo, _jitter, "print in a small patch"),
        (_spread, _jitter, ""),  # a tripod: the same place
        (_frame, _moved, ""),
        (_logo, _moved, ""),
        (_logo, _half_moved, ""),
    ],
)
def test_what_stands_still_in_a_corner_proves_nothing(
    verified_pairs: Callable[..., VerifiedPairs], tmp_path: Path, where: Callable, how: Callable, reason: str
) -> None:
    rng = np.random.default_rng(0)
    points = where(rng)
    photos = [(SIZE, _moved(points, rng)), (SIZE, points), (SIZE, how(points, rng))]
    verdict = drop_stationary(verified_pairs(tmp_path, photos, {(1, 2): MATCHES, (2, 3): MATCHES}))
    assert verdict.keep.tolist() == [True, reason == ""]
    assert verdict.reasons.tolist() == ([reason] if reason else [])


def test_a_mark_keeps_its_distance_from_one_corner(
    verified_pairs: Callable[..., VerifiedPairs], tmp_path: Path
) -> None:
    points = np.random.default_rng(1).uniform((780, 620), (990, 690), (40, 2))
    photos = [(SIZE, points), ((640, 1200), points + np.array([640 - 1000, 1200 - 700]))]
    verdict = drop_stationary(verified_pairs(tmp_path, photos, {(1, 2): MATCHES}))
    assert verdict.reasons.tolist() == ["print in the border"]


def test_each_pair_of_a_block_is_judged_by_itself(
    verified_pairs: Callable[..., VerifiedPairs], tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    logo, frame = _logo(rng), _frame(rng)
    sizes = [SIZE, (640, 1200), SIZE, (900, 900), SIZE]
    points = [
        logo,
        logo + np.array([-360, 0]),
        _jitter(logo, rng),
        _moved(frame, rng),
        _half_moved(logo, rng),
    ]
    photos = list(zip(sizes, points, strict=True))
    pairs = {
        (one, two): np.tile(rng.permutation(40)[: 15 + 3 * one + two, None], 2).astype(np.uint32)
        for one in range(1, 6)
        for two in range(one + 1, 6)
    }
    together = drop_stationary(verified_pairs(tmp_path / "together", photos, pairs))
    found = np.full(len(pairs), "", dtype=object)
    found[~together.keep] = together.reasons
    alone = [
        drop_stationary(verified_pairs(tmp_path / str(pair), photos, {pair: matches})).reasons.tolist()
        for pair, matches in pairs.items()
    ]
    assert [[reason] if reason else [] for reason in found] == alone
    assert 2 <= (~together.keep).sum() < len(pairs)


def _with_bar(scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Keypoints of a photo: 0 to 39 in its scene, 40 to 79 letters of a bar, anywhere along it."""
    return np.concatenate([scene, np.column_stack([rng.uniform(0, 1000, 40), rng.uniform(672, 675, 40)])])


@pytest.fixture
def barred(verified_pairs: Callable[..., VerifiedPairs], tmp_path: Path) -> VerifiedPairs:
    """Photos 1 and 2 of one place, whose bars match too, and 3 of another one, which matches by its bar."""
    rng = np.random.default_rng(3)
    scene = _spread(rng) * (1.0, 0.9)
    photos = [(SIZE, _with_bar(points, rng)) for points in (scene, 0.8 * scene + 70, _spread(rng))]
    both = np.column_stack([np.arange(70)] * 2).astype(np.uint32)
    return verified_pairs(tmp_path, photos, {(1, 2): both, (2, 3): both[40:], (1, 3): both[25:]})


def _apply(verified: VerifiedPairs) -> tuple[VerifiedPairs, list[list]]:
    named = Plugin(name="stationary", key="", call=drop_stationary)
    kept, dropped = apply_filters([named], verified)
    return kept, dropped[["image_id1", "image_id2", "inliers", "reason"]].to_numpy().tolist()


def test_a_pair_keeps_what_it_matches_beside_print(barred: VerifiedPairs) -> None:
    kept, dropped = _apply(barred)
    assert dropped == [[2, 3, 30, "print in the border"], [1, 3, 45, "print in the border"]]
    assert kept.pairs[["image_id1", "image_id2", "inliers"]].to_numpy().tolist() == [[1, 2, 40]]
    ((_, (inliers,)),) = kept.read_inliers(np.array([0]))
    assert inliers[:, 0].tolist() == list(range(40))
    table = kept.printed.table()
    assert table["image_id"].unique().tolist() == [1, 2, 3]
    assert table.loc[table["image_id"] == 2, "keypoint"].tolist() == list(range(40, 70))


def test_verification_tells_print_as_well(barred: VerifiedPairs) -> None:
    marked = barred.tried.assign(geometry_kind=np.where(barred.tried["image_id2"] == 3, WATERMARK, 2))
    trusted = barred.pairs[barred.pairs["image_id2"] == 2].reset_index(drop=True)
    kept, dropped = _apply(replace(barred, pairs=trusted, tried=marked))
    assert dropped == []
    assert kept.pairs["inliers"].tolist() == [40]


def test_a_pair_with_too_little_beside_print_goes(barred: VerifiedPairs) -> None:
    _, dropped = _apply(replace(barred, min_inliers=41))
    assert dropped[-1] == [1, 2, 70, "too few matches beside print"]


def _connected_by_text(
    verified_pairs: Callable[..., VerifiedPairs], folder: Path, places: list[tuple[int, ...]]
) -> VerifiedPairs:
    """Photos that match in their scenes within each place, and in a text of theirs with all others."""
    rng = np.random.default_rng(4)
    scene, text = _spread(rng), rng.uniform((0, 0), (500, 20), (40, 2))
    photos = [
        (SIZE, np.concatenate([_moved(scene, rng), text + np.array([10 * number, 90 + 50 * number])]))
        for number in range(sum(map(len, places)))
    ]
    own = [pair for place in places for pair in combinations(place, 2)]
    others = [pair for pair in combinations(range(1, len(photos) + 1), 2) if pair not in own]
    pairs = dict.fromkeys(own, MATCHES) | dict.fromkeys(others, MATCHES + np.uint32(40))
    return verified_pairs(folder, photos, pairs)


@pytest.mark.parametrize(
    ("places", "connected"),
    [
        ([(1, 2), (3, 4), (5, 6)], 0),
        ([(1, 2), (3, 4), (5,)], 0),
        ([(1, 2), (3, 4, 5)], 6),  # what both see far away
        ([(1, 2), (3,), (4,)], 5),
    ],
)
def test_text_that_connects_places_goes(
    verified_pairs: Callable[..., VerifiedPairs],
    tmp_path: Path,
    places: list[tuple[int, ...]],
    connected: int,
) -> None:
    kept, dropped = _apply(_connected_by_text(verified_pairs, tmp_path, places))
    within = sum(len(list(combinations(place, 2))) for place in places)
    assert len(kept.pairs) == within + connected
    assert {reason for *_, reason in dropped} == ({"print that recurs"} if not connected else set())
