import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnnimretrieval.networks.pooling import Gem, Mac, Spoc, build_pooling, gem, l2_normalise, mac, spoc

MAPS = ("main", "square", "thin", "tall", "line")


@pytest.fixture(scope="module")
def reference(golden):
    with np.load(golden / "pooling.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if not key.endswith("regions")}


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
    assert build_pooling("gem", 2.5).p.item() == 2.5
    with pytest.raises(
        ValueError, match=r"^pooling: expected one of mac, spoc, gem, got 'rmac'; choose one of them$"
    ):
        build_pooling("rmac")
