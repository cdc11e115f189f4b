import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnnimretrieval.networks.linear import identity_linear
from cnnimretrieval.networks.masked_regions import MaskedRegions, for_any_size, region_masks
from cnnimretrieval.networks.pooling import Gem, Mac, Regional, Rmac, Spoc, l2_normalise
from cnnimretrieval.networks.regions import region_grid

sides = st.integers(1, 40)


@given(sides, sides, st.integers(1, 4))
def test_the_masks_are_the_regions_of_the_grid(height, width, levels):
    expected = sorted(tuple(region) for region in region_grid(height, width, levels))
    found = []
    for inside, exists in region_masks(height, width, levels):
        if exists:
            y, x = np.nonzero(inside.numpy())
            found.append((y.min(), x.min(), np.ptp(y) + 1, np.ptp(x) + 1))
            assert inside.sum() == found[-1][2] * found[-1][3]
    assert sorted(found) == expected


def _whitened() -> Regional:
    torch.manual_seed(3)
    layer = identity_linear(5, 5)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias, std=0.1)
    return Regional(Gem(2.5, num_exponents=5), layer)


@pytest.mark.parametrize(
    "pool", [Rmac(), Regional(Mac()), Regional(Spoc(), levels=2), Regional(Gem(3.0)), _whitened()]
)
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (3, 4), (16, 9), (2, 21)])
def test_pooling_by_masks_is_pooling_by_cutting(pool, size):
    x = torch.rand(2, 5, *size, generator=torch.Generator().manual_seed(1))
    masked = for_any_size(pool)
    assert isinstance(masked, MaskedRegions)
    torch.testing.assert_close(masked(x), l2_normalise(pool(x)), rtol=0, atol=3e-6)


def test_a_pooling_of_whole_maps_stays():
    gem = Gem()
    assert for_any_size(gem) is gem


def test_an_unknown_pooling_is_told():
    unknown = for_any_size(Regional(torch.nn.Flatten()))
    with pytest.raises(
        TypeError,
        match="regions: expected the pooling mac, spoc or gem, got Flatten; write it as a mask here",
    ):
        unknown(torch.ones(1, 2, 3, 3))
