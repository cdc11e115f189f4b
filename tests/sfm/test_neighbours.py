import numpy as np
import pytest

from sfm.neighbours import neighbour_pairs, union


@pytest.mark.parametrize("block", [1, 3, 7, 1000])
@pytest.mark.parametrize("wanted", [1, 3, 17, 40])
@pytest.mark.parametrize("values", ["all different", "many equal"])
def test_neighbours_agree_with_the_definition(
    block: int, wanted: int, values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfm.neighbours._BLOCK", block)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20, 4)).astype(np.float32)
    if values == "many equal":
        vectors = rng.integers(-1, 2, (20, 2)).astype(np.float32)
    usable = np.ones(20, dtype=np.bool_)
    usable[[2, 9]] = False
    expected = set()
    for row in np.flatnonzero(usable):
        others = [other for other in np.flatnonzero(usable) if other != row]
        # Sorting is stable: of equals the first.
        nearest = sorted(others, key=lambda other: -float(vectors[row] @ vectors[other]))[:wanted]
        expected |= {(min(row, other), max(row, other)) for other in nearest}
    assert neighbour_pairs(vectors, usable, wanted).tolist() == sorted(map(list, expected))


def test_a_small_collection_pairs_everyone() -> None:
    vectors = np.eye(3, dtype=np.float32)
    assert neighbour_pairs(vectors, np.ones(3, dtype=np.bool_), 12).tolist() == [[0, 1], [0, 2], [1, 2]]
    assert neighbour_pairs(vectors, np.array([True, False, False]), 12).shape == (0, 2)


def test_sources_are_united_and_every_pair_tells_its_own() -> None:
    sources = {
        "vlad": np.array([[0, 3], [1, 2], [2, 4]]),
        "gps": np.empty((0, 2), dtype=np.int64),
        "list": np.array([[0, 1], [1, 2]]),
        "descriptors": np.array([[1, 2], [2, 4]]),
    }
    assert union(sources, 5).to_numpy().tolist() == [
        [1, 2, "list"],
        [1, 4, "vlad"],
        [2, 3, "vlad+list+descriptors"],
        [3, 5, "vlad+descriptors"],
    ]
    assert union({}, 5).to_numpy().tolist() == []
