import warnings
from math import cos, pi, sqrt

import numpy as np
import pytest
import torch
from torch.nn import functional

from cnnimretrieval.training.losses.margin_heads import (
    MARGIN_HEADS,
    MarginConfig,
    MarginHead,
    arcface,
    cosface,
    sphereface,
)

ANGLES = torch.linspace(0.0, pi, 181, dtype=torch.float64)


def head(name, **settings) -> MarginHead:
    """Two-dimensional classes at 0, 90 and 200 degrees."""
    made = MarginHead(name, 2, 3, MarginConfig(**settings))
    angles = torch.deg2rad(torch.tensor([0.0, 90.0, 200.0]))
    directions = torch.stack([angles.cos(), angles.sin()], dim=1)
    made.weight.data[:] = directions[:, None]
    return made


def at(degrees) -> torch.Tensor:
    angles = torch.deg2rad(torch.tensor([float(degrees)]))
    return 7.0 * torch.stack([angles.cos(), angles.sin()], dim=1)


def test_targets_are_functions_of_the_angle():
    cosine = ANGLES.cos()
    near = pi - 0.3 >= ANGLES
    assert torch.allclose(arcface(cosine, 0.3)[near][1:], (ANGLES + 0.3).cos()[near][1:], atol=1e-6)
    assert torch.equal(arcface(cosine, 0.3)[~near], cosine[~near])
    assert torch.allclose(cosface(cosine, 0.3), cosine - 0.3)
    # By hand: m = 2, theta = 135 degrees: k = 1, -cos(270) - 2 = -2; theta = 60: cos(120) = -0.5.
    known = torch.tensor([135.0, 60.0], dtype=torch.float64).deg2rad().cos()
    assert torch.allclose(sphereface(known, 2.0), torch.tensor([-2.0, -0.5], dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("margin", [1.0, 1.35, 1.5, 2.0, 3.0, 4.0])
def test_sphereface_falls_with_the_angle_all_the_way(margin):
    target = sphereface(ANGLES.cos(), margin)
    assert (target.diff() < 1e-9).all()
    assert (target <= ANGLES.cos() + 1e-5).all()


@pytest.mark.parametrize(
    ("name", "margin", "target"),
    [
        ("arcface", 0.2, cos(pi / 6 + 0.2)),
        ("cosface", 0.2, cos(pi / 6) - 0.2),
        ("sphereface", 2.0, cos(pi / 3)),
        ("subcentre_arcface", 0.2, cos(pi / 6 + 0.2)),
    ],
)
def test_loss_by_hand_with_a_protractor(name, margin, target):
    loss = head(name, margin=margin, scale=4.0)(at(30), torch.tensor([0]))
    logits = 4.0 * np.array([target, cos(pi / 3), cos(np.deg2rad(170))])
    assert float(loss[0].detach()) == pytest.approx(np.log(np.exp(logits).sum()) - logits[0], abs=1e-5)


def test_classes_that_do_not_compete_are_left_out():
    competes = torch.tensor([[False, False, True], [False, False, True], [True, True, False]])
    loss = head("cosface", margin=0.2, scale=4.0)(at(30), torch.tensor([0]), competes)
    logits = 4.0 * np.array([cos(pi / 6) - 0.2, cos(np.deg2rad(170))])
    assert float(loss[0].detach()) == pytest.approx(np.log(np.exp(logits).sum()) - logits[0], abs=1e-5)
    alone = head("cosface")(at(30), torch.tensor([0]), torch.zeros(3, 3, dtype=torch.bool))
    assert float(alone[0].detach()) == 0.0


def test_the_nearest_of_several_centres_counts():
    made = MarginHead("subcentre_arcface", 2, 2, MarginConfig(centres=2, scale=1.0))
    made.weight.data[:] = torch.tensor([[[1.0, 0], [0, 1]], [[-1, 0], [0, -1]]])
    # 10 degrees from one centre of the first class, 100 from the nearer one of the second.
    assert torch.allclose(made.cosines(at(80)), torch.tensor([[cos(pi / 18), cos(pi / 1.8)]]))
    assert float(made.cosines(at(90)).detach()[0, 0]) == pytest.approx(1.0)
    assert float(made.cosines(at(0)).detach()[0, 0]) == pytest.approx(1.0)


@pytest.mark.parametrize("name", MARGIN_HEADS)
@pytest.mark.parametrize("degrees", [0, 180, 179.9, 0.01])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_are_finite_where_angles_are_extreme(name, degrees, dtype):
    made = head(name)
    vectors = at(degrees).to(dtype).requires_grad_()
    loss = made(vectors, torch.tensor([0]))
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert vectors.grad.isfinite().all()
    assert made.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", MARGIN_HEADS)
def test_gradient_is_that_of_differences(name):
    torch.manual_seed(1)
    made = MarginHead(name, 4, 5, MarginConfig(scale=3.0)).double()
    made.cosines = lambda vectors: torch.einsum(
        "bd,ckd->bck", functional.normalize(vectors, dim=-1), functional.normalize(made.weight, dim=-1)
    ).amax(dim=2)
    vectors = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: made(v, torch.tensor([0, 4, 2])), vectors)


@pytest.mark.parametrize("name", ["arcface", "cosface", "sphereface"])
def test_equals_pytorch_metric_learning(name):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    torch.manual_seed(2)
    vectors, labels = functional.normalize(torch.randn(6, 8), dim=1), torch.tensor([0, 1, 2, 3, 1, 0])
    if name == "arcface":
        theirs = losses.ArcFaceLoss(4, 8, margin=np.rad2deg(0.3), scale=5)
    elif name == "cosface":
        theirs = losses.CosFaceLoss(4, 8, margin=0.3, scale=5)
    else:
        with warnings.catch_warnings(action="ignore"):  # of its use of numpy
            theirs = losses.SphereFaceLoss(4, 8, margin=2, scale=5)
    ours = MarginHead(name, 8, 4, MarginConfig(margin=2.0 if name == "sphereface" else 0.3, scale=5.0))
    ours.weight.data[:] = theirs.W.data.T[:, None]
    assert float(ours(vectors, labels).mean().detach()) == pytest.approx(
        float(theirs(vectors, labels).detach()), abs=2e-4
    )


def test_scale_learns_when_it_is_to():
    assert not head("arcface").scale.requires_grad
    assert float(head("arcface").scale) == pytest.approx(sqrt(2048))
    made = head("arcface", learned_scale=True)
    made(at(30), torch.tensor([0])).sum().backward()
    assert made.scale.grad != 0


def test_same_seed_same_weights():
    config = MarginConfig()
    made = [MarginHead("arcface", 4, 3, config, seed).weight for seed in (1, 1, 2)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
