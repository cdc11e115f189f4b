"""Descriptors to positions on a plane: by t-SNE, or by PCA without scikit-learn. No torch here."""

from typing import Literal

import numpy as np
from jaxtyping import Float

Method = Literal["t-SNE", "PCA"]

_PERPLEXITY = 30.0
# t-SNE looks at neighbours only: what these leave out of a descriptor is noise to it.
_PRINCIPAL = 50


def lay_out(vectors: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, "n 2"], Method]:
    """Positions in [0, 1] x [0, 1], and how they were made; the same descriptors give the same ones."""
    principal = _principal(vectors, _PRINCIPAL)
    if len(vectors) < 5:
        return _unit_square(principal[:, :2]), "PCA"
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return _unit_square(principal[:, :2]), "PCA"
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    scale = max(float(principal[:, 0].std()), 1e-12)
    start = principal[:, :2] / scale * 1e-4
    tsne = TSNE(perplexity=perplexity, init=start.astype(np.float32), random_state=0)
    return _unit_square(tsne.fit_transform(principal)), "t-SNE"


def _principal(vectors: Float[np.ndarray, "n d"], most: int) -> Float[np.ndarray, "n k"]:
    """Coordinates along the directions of largest variance, at least two; signs are fixed."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:most]
    largest = np.abs(directions).argmax(axis=1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    found = centred @ (directions * signs[:, None]).T
    return np.pad(found, ((0, 0), (0, max(0, 2 - found.shape[1]))))


def _unit_square(positions: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    low, high = positions.min(axis=0), positions.max(axis=0)
    square: Float[np.ndarray, "n 2"] = (positions - low) / np.maximum(high - low, 1e-12)
    return square
