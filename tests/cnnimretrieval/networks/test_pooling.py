import copy
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnnimretrieval.networks.pooling import (
    POOLINGS,
    Gem,
    Mac,
    PoolingName,
    Regional,
    Rmac,
    Spoc,
    build_pooling,
    gem,
    l2_normalise,
    mac,
    rmac,
    spoc,
)
from cnnimretrieval.networks.regions import region_grid

MAPS = ("main", "square", "thin", "tall", "line")


@pytest.fixture(scope="module")
def reference(any_golden):
    with np.load(any_golden / "pooling.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if not key.endswith("/regions")}


@pytest.mark.parametrize("name", MAPS)
def test_mac_and_spoc_equal_the_reference(reference, name):
    x = reference[f"{name}/x"]
    assert torch.equal(mac(x), reference[f"{name}/mac"])
    torch.testing.assert_close(spoc(x), reference[f"{name}/spoc"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MAPS)
def test_gem_equals_the_reference_for_every_p(reference, name):
    x, eps = reference[f"{name}/x"], float(reference["eps"])
    for p, expected in zip(reference["gem_p"], reference[f"{name}/gem"], strict=True):
        torch.testing.assert_close(gem(x, p[None], eps), expected, rtol=1e-5, atol=1e-6)
    per_channel = gem(x, reference[f"{name}/gemmp_p"], eps)
    torch.testing.assert_close(per_channel, reference[f"{name}/gemmp"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MAPS)
def test_gradients_of_gem_equal_the_reference(reference, name):
    x = reference[f"{name}/x"].clone().requires_grad_()
    layer = Gem(float(reference["gem_p"][1]))
    (layer(x) * reference[f"{name}/grad_upstream"]).sum().backward()
    torch.testing.assert_close(x.grad, reference[f"{name}/gem1_grad_x"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.p.grad, reference[f"{name}/gem1_grad_p"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MAPS)
def test_regional_pooling_equals_the_reference(reference, name):
    x, levels = reference[f"{name}/x"], int(reference["levels"])
    torch.testing.assert_close(rmac(x, levels), reference[f"{name}/rmac"], rtol=1e-5, atol=1e-6)
    for index, p in enumerate(reference["gem_p"].tolist()):
        layer = Regional(Gem(p), levels=levels)
        regions, whole = reference[f"{name}/rpool_gem_regions"][index], reference[f"{name}/rpool_gem"][index]
        torch.testing.assert_close(layer.region_vectors(x), regions, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(layer(x), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", [Mac(), Spoc(), Gem(2.3), Gem(3.1, num_exponents=6)])
def test_a_region_is_pooled_whitened_and_normalised_as_an_image_of_its_own(pool):
    generator = torch.Generator().manual_seed(8)
    x, whitening = torch.rand(2, 6, 5, 9, generator=generator), torch.nn.Linear(6, 6)
    expected = torch.zeros(2, 6)
    for region in region_grid(5, 9):
        part = x[:, :, region.y : region.y + region.height, region.x : region.x + region.width]
        expected += l2_normalise(whitening(l2_normalise(pool(part))))
    torch.testing.assert_close(Regional(pool, whitening)(x), l2_normalise(expected))


def test_known_numbers():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    assert mac(x).item() == 6.0
    assert spoc(x).item() == 3.0
    assert gem(x, torch.tensor([3.0])).item() == pytest.approx(((1 + 8 + 27 + 216) / 4) ** (1 / 3))


@given(st.integers(0, 1000), st.floats(1.0, 8.0), st.floats(0.1, 4.0))
def test_gem_lies_between_mean_and_max_and_grows_with_p(seed, p, more):
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    lower, upper = gem(x, torch.tensor([p])), gem(x, torch.tensor([p + more]))
    tolerance = 1e-6
    assert (spoc(x) <= lower + tolerance).all()
    assert (lower < upper).all()
    assert (upper <= mac(x)).all()


def test_gem_of_large_activations_is_finite_under_autocast():
    x = torch.full((1, 2, 3, 3), 60.0)
    with torch.autocast("cpu", dtype=torch.float16):
        pooled = Gem(3.0)(x.half())
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, torch.full((1, 2), 60.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layer", [Gem(3.0), Gem(3.0, num_exponents=4), Rmac(), Regional(Gem(3.0)), Spoc()])
def test_half_precision_input_is_pooled_in_single_precision(layer, dtype):
    x = (torch.rand(2, 4, 6, 5, generator=torch.Generator().manual_seed(1)) * 900).to(dtype)
    for same in (layer, copy.deepcopy(layer).to(dtype)):
        pooled = same(x)
        assert pooled.dtype == torch.float32
        torch.testing.assert_close(pooled, layer(x.float()), rtol=1e-6, atol=1e-6)


def test_gem_with_any_exponent_neither_overflows_nor_vanishes():
    x = torch.zeros(1, 3, 4, 4)
    x[0, 1, 2, 3], x[0, 2] = 65504.0, 700.0
    x.requires_grad_()
    layer = Gem(40.0)
    pooled = layer(x)
    pooled.sum().backward()
    expected = torch.tensor([[1e-6, 65504.0 * 16 ** (-1 / 40), 700.0]])
    torch.testing.assert_close(pooled.detach(), expected, rtol=1e-5, atol=0)
    assert torch.isfinite(layer.p.grad).all()
    assert torch.isfinite(x.grad).all()


def test_gradients_of_gem_are_those_of_finite_differences():
    x = (torch.rand(2, 3, 2, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)) + 0.1
    p = torch.tensor([1.7, 3.3, 2.9], dtype=torch.float64)
    assert torch.autograd.gradcheck(gem, (x.requires_grad_(), p.requires_grad_()))


def test_gem_uses_an_exponent_of_at_least_one():
    layer = Gem(0.3)
    x = torch.rand(1, 2, 3, 4) + 0.1
    assert layer.power.item() == 1.0
    torch.testing.assert_close(layer(x), spoc(x))


def test_l2_normalise_divides_by_the_norm_plus_eps():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64) / (5.0 + 1e-6)
    torch.testing.assert_close(l2_normalise(x), expected, rtol=0, atol=1e-15)


def test_build_pooling_knows_its_names():
    assert isinstance(build_pooling("mac"), Mac)
    assert isinstance(build_pooling("spoc"), Spoc)
    assert isinstance(build_pooling("rmac"), Rmac)
    assert build_pooling("gem", 2.5, channels=3).p.tolist() == [2.5]
    assert build_pooling("gemmp", 2.5, channels=3).p.tolist() == [2.5, 2.5, 2.5]
    with pytest.raises(
        ValueError, match=r"^pooling: expected one of mac, spoc, gem, gemmp, rmac, got 'max'; choose one"
    ):
        build_pooling("max")


def test_every_pooling_that_a_config_may_name_can_be_built():
    assert tuple(POOLINGS) == get_args(PoolingName)
    x = torch.rand(2, 6, 5, 4, generator=torch.Generator().manual_seed(1))
    for name in POOLINGS:
        assert build_pooling(name, 2.5, 6)(x).shape == (2, 6)
