"""Losses over a batch of unit descriptors: one number per anchor, from scores and what is known of each pair.

A score is an inner product; row a of the scores is an anchor, column c an image it is compared with. Masks
instead of labels say which pairs are known to match and which not to: two images of one place need not show
the same, and such a pair is in neither mask. Every function gives 0 for an anchor without a positive, but
for `multi_similarity`, whose two terms stand for themselves.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from groundwork.settings import Settings

BatchLossName = Literal["multi_similarity", "supcon", "smooth_ap", "quantised_ap"]


class BatchLossConfig(Settings):
    """Constants of the batch losses; the defaults are those of their papers."""

    alpha: float = Field(default=2.0, gt=0, description="weight of positives; multi_similarity")
    beta: float = Field(default=50.0, gt=0, description="weight of negatives; multi_similarity")
    base: float = Field(default=0.5, ge=-1, le=1, description="score between the two; multi_similarity")
    temperature: float = Field(default=0.1, gt=0, description="supcon")
    ap_temperature: float = Field(default=0.01, gt=0, description="width of a step; smooth_ap")
    ap_bins: int = Field(default=20, ge=2, description="of the scores from 1 to -1; quantised_ap")


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


def batch_loss(
    name: BatchLossName,
    scores: Float[Tensor, "a c"],
    positive: Bool[Tensor, "a c"],
    negative: Bool[Tensor, "a c"],
    config: BatchLossConfig,
) -> Float[Tensor, ""]:
    """Mean of the loss called `name` over the anchors that have a positive; 0 when none has."""
    if name == "multi_similarity":
        per_anchor = multi_similarity(
            scores, positive, negative, alpha=config.alpha, beta=config.beta, base=config.base
        )
    elif name == "supcon":
        per_anchor = supcon(scores, positive, negative, temperature=config.temperature)
    elif name == "smooth_ap":
        per_anchor = smooth_ap(scores, positive, negative, temperature=config.ap_temperature)
    else:
        per_anchor = quantised_ap(scores, positive, negative, bins=config.ap_bins)
    counts = positive.any(dim=1)
    mean: Tensor = per_anchor.where(counts, 0.0).sum() / counts.sum().clamp(min=1)
    return mean


def _log_one_plus_sum_exp(x: Float[Tensor, "a c"], mask: Bool[Tensor, "a c"]) -> Float[Tensor, " a"]:
    one = x.new_zeros(len(x), 1)
    return torch.logsumexp(torch.cat([one, x.masked_fill(~mask, -torch.inf)], dim=1), dim=1)


def _one_minus_mean(
    precision: Float[Tensor, " p"], anchor: Tensor, positive: Bool[Tensor, "a c"]
) -> Float[Tensor, " a"]:
    count = positive.sum(dim=1)
    total = precision.new_zeros(len(positive)).index_add(0, anchor, precision)
    return (1.0 - total / count.clamp(min=1)).where(count > 0, 0.0)
