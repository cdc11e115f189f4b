import numpy as np
import pytest
from jaxtyping import Float32

from sfm.correspondence import mutual_matches, unit_descriptors


def _unit(rng: np.random.Generator, rows: int, dim: int = 5) -> Float32[np.ndarray, "n d"]:
    values = rng.standard_normal((rows, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def _one_by_one(
    first: Float32[np.ndarray, "n d"], second: Float32[np.ndarray, "m d"], max_ratio: float
) -> list[list[int]]:
    """The definition, pair by pair."""
    distances = np.linalg.norm(first[:, None].astype(float) - second[None], axis=2)
    found = []
    for i, row in enumerate(distances):
        j, following = np.argsort(row)[:2]
        mutual = np.argmin(distances[:, j]) == i
        if mutual and row[j] <= max_ratio * row[following] and row[j] <= 0.7:
            found.append([i, int(j)])
    return found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("max_ratio", [0.6, 0.8, 1.0])
def test_matches_agree_with_the_definition(seed: int, max_ratio: float) -> None:
    rng = np.random.default_rng(seed)
    first, second = _unit(rng, 60), _unit(rng, 45)
    expected = _one_by_one(first, second, max_ratio)
    assert len(expected) > 3
    assert mutual_matches(first, second, max_ratio).tolist() == expected


def test_by_the_protractor() -> None:
    def at(*degrees: float) -> Float32[np.ndarray, "n 2"]:
        angles = np.radians(degrees)
        return np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)

    # 0 and 10 degrees: one nearest, 30 far behind. 90: nearest at 45 degrees, too far to mean anything.
    assert mutual_matches(at(0, 90), at(135, 30, 10), 0.8).tolist() == [[0, 2]]
    # 18 and 20 are alike: which one is meant stays open.
    assert mutual_matches(at(0), at(18, 20), 0.8).tolist() == []
    # Both like 10 best; it likes 9 best.
    assert mutual_matches(at(0, 9), at(10, 60), 0.8).tolist() == [[1, 0]]


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0), (5, 1)])
def test_too_few_to_tell(n: int, m: int) -> None:
    rng = np.random.default_rng(0)
    matches = mutual_matches(_unit(rng, n), _unit(rng, m), 0.8)
    assert matches.shape == (0, 2)
    assert matches.dtype == np.uint32


def test_unit_descriptors() -> None:
    stored = np.array([[3, 4], [0, 0], [255, 0]], dtype=np.uint8)
    np.testing.assert_allclose(unit_descriptors(stored), [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)
