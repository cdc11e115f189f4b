"""Relevance feedback: a query moves towards results that a person marked as right."""

import numpy as np
from jaxtyping import Float


def towards(query: Float[np.ndarray, "1 d"], right: Float[np.ndarray, "r d"]) -> Float[np.ndarray, "1 d"]:
    """The unit vector of q + sum of the rows marked right, all unit rows with the same weight.

    J. Rocchio, Relevance feedback in information retrieval, 1971, without wrong results. Where the sum
    vanishes, and where nothing is marked, the query itself.
    """
    total = query + right.sum(axis=0, keepdims=True)
    length = float(np.linalg.norm(total))
    moved: Float[np.ndarray, "1 d"] = total / np.float32(length) if length > 1e-6 else query
    return moved if len(right) else query
