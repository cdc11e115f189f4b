import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnimretrieval.networks.regions import Region, region_grid

sides = st.integers(1, 70)


@pytest.mark.parametrize("name", ["main", "square", "thin", "tall", "line"])
def test_the_grid_is_that_of_the_reference(any_golden, name):
    with np.load(any_golden / "pooling.npz") as file:
        _, _, height, width = file[f"{name}/x"].shape
        expected, levels = file[f"{name}/regions"].tolist(), int(file["levels"])
    assert [list(region) for region in region_grid(height, width, levels)] == expected


@given(sides, sides, st.integers(1, 4))
def test_regions_lie_on_the_map_and_cover_it(height, width, levels):
    covered = np.zeros((height, width), bool)
    whole, *others = region_grid(height, width, levels)
    assert whole == Region(0, 0, height, width)
    for region in others:
        assert region.y >= 0
        assert region.x >= 0
        assert region.height == region.width >= 1
        assert region.y + region.height <= height
        assert region.x + region.width <= width
        covered[region.y : region.y + region.height, region.x : region.x + region.width] = True
    # Squares of the shorter side reach from end to end; only beyond 8 : 1 do they leave gaps.
    if max(height, width) <= 7 * min(height, width):
        assert covered.all()
    assert covered[0, 0]
    assert covered[-1, -1]


@given(sides, sides)
def test_a_turned_map_has_the_turned_regions(height, width):
    turned = {Region(x, y, w, h) for y, x, h, w in region_grid(height, width)}
    assert turned == set(region_grid(width, height))


@given(st.integers(2, 40))
def test_squares_have_15_regions_and_maps_of_4_by_3_have_21(unit):
    assert len(region_grid(unit, unit)) == 15
    assert len(region_grid(3 * unit, 4 * unit)) == 21


def test_levels_whose_squares_would_have_no_side_are_left_out():
    # Shorter side 1: level 1 has 7 squares of one activation, levels 2 and 3 have none.
    assert len(region_grid(1, 9)) == 1 + 7
    assert region_grid(1, 1) == (Region(0, 0, 1, 1), Region(0, 0, 1, 1))
