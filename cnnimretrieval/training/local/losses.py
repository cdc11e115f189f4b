"""What a local head learns from: losses of reconstruction, of attention and of local descriptors."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

# Of a score whose place should be attended to: where the gradient of its logarithm stays finite.
_LEAST = 1e-6


def reconstruction_loss(
    found: Float[Tensor, "1 c n 1"], wanted: Float[Tensor, "1 c n 1"]
) -> Float[Tensor, ""]:
    """Mean square of the difference over places and channels (Cao et al., ECCV 2020)."""
    return functional.mse_loss(found, wanted)


def attended_loss(
    scores: Float[Tensor, " n"], worth: Bool[Tensor, " n"], worthless: Bool[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Cross entropy of "is worth attending to", of probability 1 - exp(-score); both sides count as much.

    With score = softplus(z) that probability is the sigmoid of z. Places that are neither are left out; 0
    where one side has no place.
    """
    if not worth.any() or not worthless.any():
        return scores.sum() * 0.0
    attended = -torch.log(-torch.expm1(-scores[worth].clamp(min=_LEAST)))
    passed_over = scores[worthless]
    mean: Tensor = 0.5 * (attended.mean() + passed_over.mean())
    return mean


def pooled_loss(
    pooled: Float[Tensor, "b c"], matching: Bool[Tensor, "b b"], apart: Bool[Tensor, "b b"], margin: float
) -> Float[Tensor, ""]:
    """Contrastive loss of unit attention-pooled vectors: mean over the pairs of each kind, added up.

    1/2 d^2 of matching pairs and 1/2 max(0, margin - d)^2 of pairs of different places.
    """
    unit = functional.normalize(pooled, dim=1)
    square = (2.0 - 2.0 * unit @ unit.T).clamp(min=1e-12)
    total = pooled.sum() * 0.0
    if matching.any():
        total = total + 0.5 * square[matching].mean()
    if apart.any():
        total = total + 0.5 * (margin - square[apart].sqrt()).clamp(min=0.0).square().mean()
    return total


def correspondence_loss(
    a: Float[Tensor, "k d"], b: Float[Tensor, "k d"], competes: Bool[Tensor, "k k"], temperature: float
) -> Float[Tensor, ""]:
    """Symmetric cross entropy of finding b[i] by a[i], and a[i] by b[i], among the others that compete.

    Unit descriptors of the same point in two photos; van den Oord et al., 2018. `competes[i, j]` says that
    the place of point j is surely none of point i. 0 where there is no point.
    """
    if not len(a):
        return a.sum() * 0.0
    itself = torch.eye(len(a), dtype=torch.bool, device=a.device)
    logits = (a @ b.T / temperature).masked_fill(~(competes | itself), -torch.inf)
    own = torch.arange(len(a), device=a.device)
    return 0.5 * (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own))


def surely_apart(
    photos: Int[Tensor, "k 2"], cells: Int[Tensor, "k 2 2"], place: Int[Tensor, " k"]
) -> Bool[Tensor, "k k"]:
    """Which correspondences compete: those of other places, and those of the same two photos far enough away.

    `cells` are row and column in the maps of the two photos; more than one apart in both is far enough. What
    other photos of one place see may be the same point, and does not compete.
    """
    far = ((cells[:, None] - cells).abs().amax(dim=3) > 1).all(dim=2)
    same_photos = (photos[:, None] == photos).all(dim=2)
    return (place[:, None] != place) | (same_photos & far)
