import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairs.split import SplitConfig, choose_choosing_places, choose_val_places

SIZES = st.lists(st.integers(1, 60), min_size=2, max_size=30)


def places_of(sizes) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)) * 3 + 1, sizes)


@given(sizes=SIZES, seed=st.integers(0, 1000), share=st.floats(0.05, 0.95))
def test_both_sides_hold_places_and_val_its_share_of_them(sizes, seed, share):
    place = places_of(sizes)
    chosen = choose_val_places(place, SplitConfig(val_share=share), np.random.default_rng(seed))
    assert set(chosen.tolist()) < set(place.tolist())
    assert 1 <= len(chosen) <= len(sizes) - 1
    assert abs(len(chosen) - share * len(sizes)) <= 1


def test_val_gets_its_share_of_the_images_too():
    # One place holds 40 % of the images; 20 others hold 3 % each.
    place = places_of([80] + [6] * 20)
    for seed in range(20):
        chosen = choose_val_places(place, SplitConfig(), np.random.default_rng(seed))
        assert np.isin(place, chosen).mean() == 0.18
        assert len(chosen) == 6


def test_the_seed_fixes_the_split_and_changes_it():
    place = places_of([5] * 30)
    draws = [choose_val_places(place, SplitConfig(), np.random.default_rng(s)).tolist() for s in (0, 0, 1, 2)]
    assert draws[0] == draws[1]
    assert len({tuple(draw) for draw in draws}) == 3


def test_the_order_of_images_does_not_matter():
    place = places_of([5, 9, 1, 4, 7])
    shuffled = np.random.default_rng(4).permutation(place)
    a, b = (choose_val_places(p, SplitConfig(), np.random.default_rng(0)).tolist() for p in (place, shuffled))
    assert a == b


@pytest.mark.parametrize(
    ("place", "count", "hint"), [([], 0, ""), ([4, 4, 4], 1, ", or set pairs.apart_per_query")]
)
def test_one_place_is_an_error_that_says_what_to_do(place, count, hint):
    with pytest.raises(ValueError, match="split") as error:
        choose_val_places(np.array(place, dtype=int), SplitConfig(), np.random.default_rng(0))
    assert str(error.value) == (
        f"split: expected at least 2 places with matching pairs, got {count}; "
        f"add photos of other places, several of each{hint}"
    )


def test_one_place_may_do_and_then_nothing_is_held_out():
    rng = np.random.default_rng(0)
    one = choose_val_places(np.array([4, 4]), SplitConfig(), rng, one_place_will_do=True)
    two = choose_val_places(np.array([4, 4, 7]), SplitConfig(), rng, one_place_will_do=True)
    assert (len(one), len(two)) == (0, 1)


@given(sizes=SIZES, seed=st.integers(0, 1000), share=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]))
def test_places_to_choose_by_are_neither_reported_nor_trained_on(sizes, seed, share):
    place, config = places_of(sizes), SplitConfig(choosing_share=share)
    rng = np.random.default_rng(seed)
    reported = choose_val_places(place, config, rng)
    choosing = choose_choosing_places(place, reported, config, rng)
    left = len(sizes) - len(reported) - len(choosing)
    assert not set(choosing.tolist()) & set(reported.tolist())
    assert len(choosing) in (0, round(share * len(sizes)))
    assert len(choosing) == 0 or (len(choosing) >= 2 and left >= 2)


def test_few_places_are_not_split_three_ways():
    place = places_of([4] * 9)
    reported = np.unique(place)[:3]
    rng = np.random.default_rng(0)
    assert len(choose_choosing_places(place, reported, SplitConfig(), rng)) == 0
    assert len(choose_choosing_places(place, reported, SplitConfig(choosing_share=0.4), rng)) == 4
    assert len(choose_choosing_places(place, reported, SplitConfig(choosing_share=0.6), rng)) == 0
