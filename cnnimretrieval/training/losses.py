"""Losses over tuples (query, positive, negatives...) of unit descriptors: one number per tuple.

Published training sums these numbers over the tuples of a batch and does not average, so the learning rate
goes with the number of tuples.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LossName = Literal["contrastive", "triplet"]

# Added to every component of a difference before its norm, which keeps the gradient finite where two
# descriptors agree.
_EPS = 1e-6


def contrastive(
    tuples: Float[Tensor, "t k d"], margin: float, present: Bool[Tensor, "t n"] | None = None
) -> Float[Tensor, " t"]:
    """Contrastive loss of each tuple.

    1/2 d(q, p)^2 + sum_n 1/2 max(0, margin - d(q, n))^2,   d(a, b) = ||a - b + 1e-6||

    Hadsell et al., CVPR 2006; Radenovic et al., TPAMI 2019. A tuple is query, positive, then n = k - 2
    negatives. `margin` is a distance in (0, 2]. `present` marks the negatives that count, for tuples with
    fewer of them.
    """
    query, positive, negatives = _parts(tuples)
    attraction = 0.5 * _distance(query, positive).square()
    repulsion = 0.5 * (margin - _distance(query[:, None], negatives)).clamp(min=0.0).square()
    return attraction + _masked(repulsion, present).sum(dim=1)


def triplet(
    tuples: Float[Tensor, "t k d"], margin: float, present: Bool[Tensor, "t n"] | None = None
) -> Float[Tensor, " t"]:
    """Triplet loss of each tuple, sum_n max(0, ||q - p||^2 - ||q - n||^2 + margin).

    Schroff et al., CVPR 2015, in the form of Radenovic et al., TPAMI 2019. Tuples and `present` as in
    `contrastive`; `margin` is a squared distance in (0, 4].
    """
    query, positive, negatives = _parts(tuples)
    to_positive = (query - positive).square().sum(dim=-1)
    to_negatives = (query[:, None] - negatives).square().sum(dim=-1)
    hinges = (to_positive[:, None] - to_negatives + margin).clamp(min=0.0)
    return _masked(hinges, present).sum(dim=1)


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


def _masked(terms: Float[Tensor, "t n"], present: Bool[Tensor, "t n"] | None) -> Float[Tensor, "t n"]:
    return terms if present is None else terms.where(present, 0.0)
