import numpy as np
import pytest

from groundwork import shards as shards_module
from groundwork.shards import Selection, Shards, blocks, read_block
from groundwork.top_k import search


@pytest.fixture
def stacked() -> np.ndarray:
    return np.random.default_rng(4).normal(size=(23, 5)).astype(np.float32)


@pytest.fixture
def shards(stacked, tmp_path) -> Shards:
    """The same rows as a memory map, an array, an empty one and a selection."""
    np.save(tmp_path / "a.npy", stacked[:9])
    shuffled = np.random.default_rng(1).permutation(12)
    selection = Selection(stacked[11:][shuffled], np.argsort(shuffled))
    return Shards([np.load(tmp_path / "a.npy", mmap_mode="r"), stacked[9:11], stacked[:0], selection])


@pytest.mark.parametrize("size", [1, 2, 4, 9, 30])
def test_blocks_are_those_of_the_stacked_rows(shards, stacked, size):
    assert (len(shards), shards.shape) == (23, (23, 5))
    found = list(blocks(shards, size))
    assert [first for first, _ in found] == list(range(0, 23, size))
    np.testing.assert_array_equal(np.concatenate([block for _, block in found]), stacked)


def test_rows_by_number(shards, stacked):
    rows = np.array([[22, 0, 9], [8, 9, 11]])
    np.testing.assert_array_equal(shards[rows], stacked[rows])
    np.testing.assert_array_equal(shards[3:17], stacked[3:17])
    assert shards[5:5].shape == (0, 5)


def test_they_are_searched_like_one_array(shards, stacked):
    found, expected = search(stacked[:4], shards, 6, database_block=4), search(stacked[:4], stacked, 6)
    np.testing.assert_array_equal(found.rows, expected.rows)


def test_a_block_of_a_large_map_is_read_through_a_map_of_its_own(tmp_path, monkeypatch):
    stored = np.random.default_rng(2).normal(size=(5000, 3))
    np.save(tmp_path / "a.npy", stored)
    whole = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert np.shares_memory(read_block(whole, 4321, 4700), whole)
    monkeypatch.setattr(shards_module, "_KEPT_BYTES", whole.nbytes - 1)
    block = read_block(whole, 4321, 4700)
    assert not np.shares_memory(block, whole)
    np.testing.assert_array_equal(block, stored[4321:4700])
    # A part of a map keeps the offset of the whole in its attributes: it is sliced as it is.
    np.testing.assert_array_equal(read_block(whole[100:], 5, 9), stored[105:109])
    np.testing.assert_array_equal(read_block(np.asfortranarray(stored), 5, 9), stored[5:9])


def test_small_maps_of_a_large_whole_are_read_so_too(tmp_path, stacked, monkeypatch):
    for name, rows in (("a", stacked[:9]), ("b", stacked[9:])):
        np.save(tmp_path / f"{name}.npy", rows)
    maps = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("a", "b")]
    monkeypatch.setattr(shards_module, "_KEPT_BYTES", stacked.nbytes)
    assert np.shares_memory(Shards(maps)[2:5], maps[0])
    monkeypatch.setattr(shards_module, "_KEPT_BYTES", stacked.nbytes - 1)
    whole = Shards(maps)
    assert not np.shares_memory(whole[2:5], maps[0])
    np.testing.assert_array_equal(whole[2:15], stacked[2:15])


def test_descriptors_of_two_lengths_do_not_stack(stacked):
    with pytest.raises(ValueError, match=r"^shards: expected descriptors") as error:
        Shards([stacked, stacked[:, :3]])
    assert str(error.value) == (
        "shards: expected descriptors (n, d) of one length d, got (23, 5) and (23, 3); "
        "describe all of them with the same network and whitening"
    )
    with pytest.raises(ValueError, match=r"^shards: expected at least one array, got none; give one$"):
        Shards([])
