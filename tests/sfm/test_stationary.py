from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sfm.pair_filters.interface import VerifiedPairs
from sfm.pair_filters.stationary import drop_stationary

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
        (_frame, _jitter, "unmoved in the border"),
        (_logo, _jitter, "unmoved in a small patch"),
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
    assert verdict.reasons.tolist() == ["unmoved in the border"]


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
