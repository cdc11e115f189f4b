"""The losses by name, over tuples or over batches of unit descriptors. A new one is a function and its entry.

A loss over tuples (query, positive, negatives...) gives a number per tuple. Published training sums these
numbers over the tuples of a step and does not average, so the learning rate goes with the number of tuples.

A loss over a batch gives a number per anchor, from scores and what is known of each pair. A score is an inner
product; row a of the scores is an anchor, column c an image it is compared with. Masks instead of labels say
which pairs are known to match and which not to: two images of one place need not show the same, and such a
pair is in neither mask. Every function gives 0 for an anchor without a positive, but for `multi_similarity`,
whose two terms stand for themselves.

A loss over classes gives a number per image that is in a cluster: see `margin_heads`.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from cnnimretrieval.training.losses.margin_heads import MARGIN_HEADS, MarginName
from groundwork.settings import Settings

LossName = Literal[
    "contrastive", "triplet", "multi_similarity", "supcon", "smooth_ap", "quantised_ap", MarginName
]

# Added to every component of a difference before its norm, which keeps the gradient finite where two
# descriptors agree.
_EPS = 1e-6


class BatchLossConfig(Settings):
    """Constants of the batch losses; the defaults are those of their papers."""

    alpha: float = Field(default=2.0, gt=0, description="weight of positives; multi_similarity")
    beta: float = Field(default=50.0, gt=0, description="weight of negatives; multi_similarity")
    base: float = Field(default=0.5, ge=-1, le=1, description="score between the two; multi_similarity")
    temperature: float = Field(default=0.1, gt=0, description="supcon")
    ap_temperature: float = Field(default=0.01, gt=0, description="width of a step; smooth_ap")
    ap_bins: int = Field(default=20, ge=2, description="of the scores from 1 to -1; quantised_ap")


def contrastive(tuples: Float[Tensor, "t k d"], margin: float) -> Float[Tensor, " t"]:
    """Contrastive loss of each tuple.

    1/2 d(q, p)^2 + sum_n 1/2 max(0, margin - d(q, n))^2,   d(a, b) = ||a - b + 1e-6||

    Hadsell et al., CVPR 2006; Radenovic et al., TPAMI 2019. A tuple is query, positive, then n = k - 2
    negatives. `margin` is a distance in (0, 2].
    """
    query, positive, negatives = _parts(tuples)
    attraction = 0.5 * _distance(query, positive).square()
    repulsion = 0.5 * (margin - _distance(query[:, None], negatives)).clamp(min=0.0).square()
    return attraction + repulsion.sum(dim=1)


def triplet(tuples: Float[Tensor, "t k d"], margin: float) -> Float[Tensor, " t"]:
    """Triplet loss of each tuple, sum_n max(0, ||q - p||^2 - ||q - n||^2 + margin).

    Schroff et al., CVPR 2015, in the form of Radenovic et al., TPAMI 2019. Tuples as in `contrastive`;
    `margin` is a squared distance in (0, 4].
    """
    query, positive, negatives = _parts(tuples)
    to_positive = (query - positive).square().sum(dim=-1)
    to_negatives = (query[:, None] - negatives).square().sum(dim=-1)
    hinges = (to_positive[:, None] - to_negatives + margin).clamp(min=0.0)
    return hinges.sum(dim=1)


def multi_similarity(
    scores: Float[Tensor, "a c"],
    positive: Bool[Tensor, "a c"],
    negative: Bool[Tensor, "a c"],
    *,
    alpha: float,
    beta: float,
    base: float,
) -> Float[Tensor, " a"]:
    """Multi-similarity loss, without its miner (Wang et al., CVPR 2019, eq. 15).

    1/alpha log(1 + sum_pos exp(-alpha (s - base))) + 1/beta log(1 + sum_neg exp(beta (s - base)))
    """
    pull = _log_one_plus_sum_exp(-alpha * (scores - base), positive) / alpha
    push = _log_one_plus_sum_exp(beta * (scores - base), negative) / beta
    return pull + push


def supcon(
    scores: Float[Tensor, "a c"],
    positive: Bool[Tensor, "a c"],
    negative: Bool[Tensor, "a c"],
    *,
    temperature: float,
) -> Float[Tensor, " a"]:
    """Supervised contrastive loss (Khosla et al., NeurIPS 2020, eq. 2).

    mean_pos -log(exp(s / t) / sum_{pos and neg} exp(s / t))
    """
    logits = scores / temperature
    known = positive | negative
    # The row's own maximum instead of -inf keeps the gradient of an anchor that has no pair finite.
    total = torch.logsumexp(
        logits.masked_fill(~known, -torch.inf).where(known.any(1, True), logits), dim=1, keepdim=True
    )
    per_pair = (total - logits).where(positive, 0.0)
    return per_pair.sum(dim=1) / positive.sum(dim=1).clamp(min=1)


def smooth_ap(
    scores: Float[Tensor, "a c"],
    positive: Bool[Tensor, "a c"],
    negative: Bool[Tensor, "a c"],
    *,
    temperature: float,
) -> Float[Tensor, " a"]:
    """1 - AP with every step of a rank replaced by a sigmoid (Brown et al., ECCV 2020, eq. 6).

    AP = mean_{i in pos} (1 + sum_{j in pos} g(s_j - s_i)) / (1 + sum_{j in pos and neg} g(s_j - s_i)),
    g(x) = 1 / (1 + exp(-x / t)), j other than i. Memory grows with positives times columns.
    """
    anchor, column = positive.nonzero(as_tuple=True)
    ahead = torch.sigmoid((scores[anchor] - scores[anchor, column][:, None]) / temperature)
    itself = functional.one_hot(column, scores.shape[1]).bool()
    among_positives = 1 + ahead.where(positive[anchor] & ~itself, 0.0).sum(dim=1)
    behind = ahead.where(negative[anchor], 0.0).sum(dim=1)
    precision = among_positives / (among_positives + behind)
    return _one_minus_mean(precision, anchor, positive)


def quantised_ap(
    scores: Float[Tensor, "a c"], positive: Bool[Tensor, "a c"], negative: Bool[Tensor, "a c"], *, bins: int
) -> Float[Tensor, " a"]:
    """1 - AP of scores softly counted in equal bins from 1 down to -1 (Revaud et al., ICCV 2019, eq. 8).

    AP = sum_m precision(m) * recall gained in bin m; a score belongs to its two nearest bins, in proportion.
    """
    width = 2.0 / (bins - 1)
    centres = torch.linspace(1.0, -1.0, bins, dtype=scores.dtype, device=scores.device)
    # Rounding puts a score of identical descriptors above 1, out of the first bin.
    share = (1.0 - (scores.clamp(-1.0, 1.0)[..., None] - centres).abs() / width).clamp(min=0.0)
    found = share.where(positive[..., None], 0.0).sum(dim=1)
    known = share.where((positive | negative)[..., None], 0.0).sum(dim=1)
    precision = found.cumsum(dim=1) / known.cumsum(dim=1).clamp(min=1e-12)
    count = positive.sum(dim=1)
    average = (precision * found).sum(dim=1) / count.clamp(min=1)
    return (1.0 - average).where(count > 0, 0.0)


class TupleLoss(NamedTuple):
    """A loss over tuples: `of(tuples, margin)`."""

    of: Callable[[Tensor, float], Tensor]


class BatchLoss(NamedTuple):
    """A loss over a batch: `of(scores, positive, negative, config)`."""

    of: Callable[[Tensor, Tensor, Tensor, BatchLossConfig], Tensor]


class ClassLoss(NamedTuple):
    """A loss of images with the clusters they are in as classes: see `margin_heads`."""

    head: MarginName


LOSSES: Mapping[LossName, TupleLoss | BatchLoss | ClassLoss] = {
    "contrastive": TupleLoss(contrastive),
    "triplet": TupleLoss(triplet),
    "multi_similarity": BatchLoss(
        lambda s, p, n, of: multi_similarity(s, p, n, alpha=of.alpha, beta=of.beta, base=of.base)
    ),
    "supcon": BatchLoss(lambda s, p, n, of: supcon(s, p, n, temperature=of.temperature)),
    "smooth_ap": BatchLoss(lambda s, p, n, of: smooth_ap(s, p, n, temperature=of.ap_temperature)),
    "quantised_ap": BatchLoss(lambda s, p, n, of: quantised_ap(s, p, n, bins=of.ap_bins)),
    **{name: ClassLoss(name) for name in MARGIN_HEADS},
}


def mean_over_anchors(
    loss: BatchLoss,
    scores: Float[Tensor, "a c"],
    positive: Bool[Tensor, "a c"],
    negative: Bool[Tensor, "a c"],
    config: BatchLossConfig,
) -> Float[Tensor, ""]:
    """Mean of a loss over the anchors that have a positive; 0 when none has."""
    counts = positive.any(dim=1)
    per_anchor = loss.of(scores, positive, negative, config)
    mean: Tensor = per_anchor.where(counts, 0.0).sum() / counts.sum().clamp(min=1)
    return mean


def _parts(
    tuples: Float[Tensor, "t k d"],
) -> tuple[Float[Tensor, "t d"], Float[Tensor, "t d"], Float[Tensor, "t n d"]]:
    if tuples.ndim != 3 or tuples.shape[1] < 3:
        raise ValueError(
            "tuples: expected (tuples, 2 + negatives, D) with at least one negative, "
            f"got {tuple(tuples.shape)}; stack query, positive and negatives in this order"
        )
    return tuples[:, 0], tuples[:, 1], tuples[:, 2:]


def _distance(a: Float[Tensor, "*#b d"], b: Float[Tensor, "*#b d"]) -> Float[Tensor, "*b"]:
    distance: Tensor = torch.linalg.vector_norm(a - b + _EPS, dim=-1)
    return distance


def _log_one_plus_sum_exp(x: Float[Tensor, "a c"], mask: Bool[Tensor, "a c"]) -> Float[Tensor, " a"]:
    one = x.new_zeros(len(x), 1)
    return torch.logsumexp(torch.cat([one, x.masked_fill(~mask, -torch.inf)], dim=1), dim=1)


def _one_minus_mean(
    precision: Float[Tensor, " p"], anchor: Tensor, positive: Bool[Tensor, "a c"]
) -> Float[Tensor, " a"]:
    count = positive.sum(dim=1)
    total = precision.new_zeros(len(positive)).index_add(0, anchor, precision)
    return (1.0 - total / count.clamp(min=1)).where(count > 0, 0.0)
