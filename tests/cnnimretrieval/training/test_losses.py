from typing import get_args

import numpy as np
import pytest
import torch

from cnnimretrieval.training.losses.registry import LOSSES, LossName, contrastive, triplet

DTYPES = {"f64": torch.float64, "f32": torch.float32}


@pytest.fixture(scope="module")
def reference(any_golden):
    with np.load(any_golden / "losses.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.mark.parametrize("edge", ["", "edge_"])
@pytest.mark.parametrize("short", ["f64", "f32"])
@pytest.mark.parametrize("name", ["contrastive", "triplet"])
def test_values_and_gradients_equal_the_reference(reference, name, short, edge):
    tolerance = {"rtol": 0, "atol": 1e-12} if short == "f64" else {"rtol": 2e-6, "atol": 1e-6}
    for index, margin in enumerate(reference[f"{name}_margins"].tolist()):
        tuples = reference[f"{edge}tuples"].to(DTYPES[short], copy=True).requires_grad_()
        losses = LOSSES[name].of(tuples, margin)
        losses.sum().backward()
        key = f"{edge}{name}"
        torch.testing.assert_close(losses.detach(), reference[f"{key}_per_tuple_{short}"][index], **tolerance)
        torch.testing.assert_close(
            losses.detach().sum(), reference[f"{key}_value_{short}"][index], **tolerance
        )
        atol = 1e-12 if short == "f64" else 2e-6
        torch.testing.assert_close(tuples.grad, reference[f"{key}_grad_{short}"][index], rtol=0, atol=atol)


def test_every_name_has_its_loss():
    assert list(LOSSES) == list(get_args(LossName))


def _unit(*degrees: float) -> torch.Tensor:
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack((angles.cos(), angles.sin()), dim=-1)[None]


def test_known_numbers():
    # Chords of 20, 30 and 90 degrees: 2 sin(angle / 2).
    tuples = _unit(0, 20, 30, 90)
    to_positive, near, far = (2 * np.sin(np.deg2rad(angle) / 2) for angle in (20, 30, 90))
    expected = 0.5 * to_positive**2 + 0.5 * (0.7 - near) ** 2
    assert far > 0.7
    assert contrastive(tuples, 0.7).item() == pytest.approx(expected, abs=2e-6)
    assert triplet(tuples, 0.3).item() == pytest.approx(max(0.0, to_positive**2 - near**2 + 0.3), abs=1e-12)


@pytest.mark.parametrize("loss", [contrastive, triplet])
def test_the_order_of_negatives_does_not_matter(loss):
    tuples = torch.nn.functional.normalize(
        torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    torch.testing.assert_close(loss(tuples, 1.1), loss(tuples[:, [0, 1, 5, 3, 2, 4]], 1.1))
    assert not torch.allclose(loss(tuples, 1.1), loss(tuples[:, [0, 2, 1, 3, 4, 5]], 1.1))


def test_a_tuple_needs_a_negative():
    with pytest.raises(ValueError, match=r"^tuples: ") as error:
        contrastive(torch.zeros(3, 2, 8), 0.7)
    assert str(error.value) == (
        "tuples: expected (tuples, 2 + negatives, D) with at least one negative, got (3, 2, 8); "
        "stack query, positive and negatives in this order"
    )
