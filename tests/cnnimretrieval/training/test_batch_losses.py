import warnings

import numpy as np
import pytest
import torch

from cnnimretrieval.training.losses.registry import (
    LOSSES,
    BatchLoss,
    BatchLossConfig,
    mean_over_anchors,
    multi_similarity,
    quantised_ap,
    smooth_ap,
    supcon,
)

NAMES = [name for name, loss in LOSSES.items() if isinstance(loss, BatchLoss)]


@pytest.fixture
def oracles():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("pytorch_metric_learning.losses")


def _labelled(labels: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit descriptors, and the masks that their labels give."""
    drawn = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    label = torch.tensor(labels)
    same = label[:, None] == label
    return torch.nn.functional.normalize(drawn, dim=1), same & ~torch.eye(len(labels), dtype=bool), ~same


def _both(ours, theirs, labels: list[int], *, itself: bool = False) -> None:
    vectors, positive, negative = _labelled(labels)
    if itself:
        positive = positive | torch.eye(len(labels), dtype=bool)
    gradients = []
    for loss in (
        lambda v: ours(v @ v.T, positive, negative).mean(),
        lambda v: theirs(v, torch.tensor(labels)),
    ):
        leaf = vectors.clone().requires_grad_()
        value = loss(leaf)
        value.backward()
        gradients.append((value.detach(), leaf.grad))
    torch.testing.assert_close(gradients[0][0], gradients[1][0].to(torch.float64), rtol=1e-6, atol=1e-7)
    # The gradient along the sphere: the oracle normalises its input, ours takes unit descriptors.
    along = [g - (g * vectors).sum(1, keepdim=True) * vectors for _, g in gradients]
    torch.testing.assert_close(along[0], along[1], rtol=1e-5, atol=1e-6)


def test_multi_similarity_is_the_oracles(oracles):
    _both(
        lambda *a: multi_similarity(*a, alpha=1.7, beta=9.0, base=0.3),
        oracles.MultiSimilarityLoss(alpha=1.7, beta=9.0, base=0.3),
        [0, 1, 0, 2, 1, 0, 2],
    )


def test_supcon_is_the_oracles(oracles):
    _both(
        lambda *a: supcon(*a, temperature=0.23), oracles.SupConLoss(temperature=0.23), [0, 1, 0, 2, 1, 0, 2]
    )


def test_smooth_ap_is_the_oracles_when_the_query_is_its_own_positive(oracles):
    labels = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    # The oracle ranks the query among its own positives, and wants as many classes as images of each.
    _both(
        lambda *a: smooth_ap(*a, temperature=0.05),
        oracles.SmoothAPLoss(temperature=0.05),
        labels,
        itself=True,
    )


def _average_precision(scores: np.ndarray, positive: np.ndarray, known: np.ndarray) -> float:
    order = [c for c in np.argsort(-scores) if known[c]]
    hits = [rank for rank, c in enumerate(order, start=1) if positive[c]]
    return float(np.mean([(n + 1) / rank for n, rank in enumerate(hits)]))


def test_sharp_steps_give_one_minus_the_average_precision():
    vectors, positive, negative = _labelled([0, 1, 0, 2, 1, 0, 2, 2, 1, 0], seed=4)
    negative[0, 3] = False  # unknown: no part of any rank
    scores = vectors @ vectors.T
    known = (positive | negative).numpy()
    expected = [
        1 - _average_precision(s, p, k)
        for s, p, k in zip(scores.numpy(), positive.numpy(), known, strict=True)
    ]
    smooth = smooth_ap(scores, positive, negative, temperature=1e-5)
    np.testing.assert_allclose(smooth, expected, atol=1e-6)


def test_quantised_ap_is_that_of_a_naive_loop():
    vectors, positive, negative = _labelled([0, 1, 0, 2, 1, 0, 2], seed=2)
    scores = vectors @ vectors.T
    bins = 6
    centres = [1 - 2 * m / (bins - 1) for m in range(bins)]
    for a in range(len(scores)):
        found = known = total = 0.0
        for centre in centres:
            share = [max(0.0, 1 - abs(float(s) - centre) * (bins - 1) / 2) for s in scores[a]]
            gained = sum(s for s, p in zip(share, positive[a], strict=True) if p)
            found += gained
            known += gained + sum(s for s, n in zip(share, negative[a], strict=True) if n)
            total += gained * (found / known if known else 0.0)
        expected = 1 - total / int(positive[a].sum())
        assert quantised_ap(scores, positive, negative, bins=bins)[a].item() == pytest.approx(
            expected, abs=1e-12
        )


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_where_it_is_hard(name):
    # Two identical descriptors, one opposite, an anchor without positives, one without any known pair.
    x = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [0, 1], [0.6, 0.8]], requires_grad=True)
    positive = torch.zeros(5, 5, dtype=bool)
    positive[[0, 1], [1, 0]] = True
    negative = torch.zeros(5, 5, dtype=bool)
    negative[:2, 2:4] = negative[2:4, :2] = True
    loss = mean_over_anchors(LOSSES[name], x @ x.T, positive, negative, BatchLossConfig())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()
    assert x.grad[4].eq(0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_columns_does_not_matter_and_better_scores_cost_less(name):
    vectors, positive, negative = _labelled([0, 1, 0, 2, 1, 2], seed=7)
    scores, order = vectors @ vectors.T, [3, 0, 5, 1, 4, 2]
    config = BatchLossConfig()
    value = mean_over_anchors(LOSSES[name], scores, positive, negative, config)
    shuffled = mean_over_anchors(
        LOSSES[name], scores[:, order], positive[:, order], negative[:, order], config
    )
    torch.testing.assert_close(value, shuffled)
    better = scores.where(~positive, scores + 0.3).where(~negative, scores - 0.3).clamp(-1, 1)
    assert mean_over_anchors(LOSSES[name], better, positive, negative, config) < value


@pytest.mark.parametrize("name", NAMES)
def test_without_a_positive_there_is_nothing_to_learn(name):
    scores = torch.tensor([[1.0, 0.3], [0.3, 1.0]], requires_grad=True)
    none = torch.zeros(2, 2, dtype=bool)
    loss = mean_over_anchors(LOSSES[name], scores, none, ~none, BatchLossConfig())
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad.eq(0).all()


def test_every_loss_has_its_constants():
    assert NAMES == ["multi_similarity", "supcon", "smooth_ap", "quantised_ap"]
    vectors, positive, negative = _labelled([0, 1, 0, 2, 1, 2], seed=3)
    scores = vectors @ vectors.T
    for name, constants in {
        "multi_similarity": ("alpha", "beta", "base"),
        "supcon": ("temperature",),
        "smooth_ap": ("ap_temperature",),
        "quantised_ap": ("ap_bins",),
    }.items():
        values = [
            mean_over_anchors(LOSSES[name], scores, positive, negative, BatchLossConfig(**changed)).item()
            for changed in ({}, *({constant: 3 if constant == "ap_bins" else 0.7} for constant in constants))
        ]
        assert len(set(values)) == len(values), name
