"""What is known of any two images of a training: that they match, that they do not, or neither."""

import numpy as np
from jaxtyping import Bool, Int

from pairs.pair_table import PairTable


class PairMasks:
    """Answers for rows of a pair table; symmetric, whichever of two images was the query."""

    def __init__(self, table: PairTable) -> None:
        self._place = table.place
        self._num_images = table.num_images
        positives = table.positives_of("train")
        self._matching = self._sorted_keys(positives.query, positives.positive)
        self._apart = self._sorted_keys(table.apart.query, table.apart.negative)

    def matching(self, rows: Int[np.ndarray, " a"], others: Int[np.ndarray, " c"]) -> Bool[np.ndarray, "a c"]:
        """Pairs that geometry proved, one of which is a positive of the other."""
        return self._contains(self._matching, rows[:, None], others[None])

    def apart(self, rows: Int[np.ndarray, " a"], others: Int[np.ndarray, " c"]) -> Bool[np.ndarray, "a c"]:
        """Images of different places, or proven apart in one; without a place is of none of the others'."""
        different: Bool[np.ndarray, "a c"] = self._place[rows][:, None] != self._place[others][None]
        apart: Bool[np.ndarray, "a c"] = self._contains(self._apart, rows[:, None], others[None])
        either: Bool[np.ndarray, "a c"] = different | apart
        return either

    def _sorted_keys(self, a: Int[np.ndarray, " p"], b: Int[np.ndarray, " p"]) -> Int[np.ndarray, " k"]:
        return np.unique(np.minimum(a, b) * self._num_images + np.maximum(a, b))

    def _contains(
        self, keys: Int[np.ndarray, " k"], a: Int[np.ndarray, "..."], b: Int[np.ndarray, "..."]
    ) -> Bool[np.ndarray, "..."]:
        wanted = np.minimum(a, b) * self._num_images + np.maximum(a, b)
        if not len(keys):
            return np.zeros(wanted.shape, dtype=bool)
        place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        found: Bool[np.ndarray, ...] = keys[place] == wanted
        return found
