"""Aggregated selective match kernels: a photo's local descriptors to a few bits for each visual word it has.

Tolias, Avrithis, Jegou, IJCV 2016 (ASMK*): residuals to a word are summed, their signs kept, and two photos
compared word by word.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8

from groundwork.arrays import freeze_arrays

_ROUNDS = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Words:
    """What a photo has of a codebook: its words, rising, and for each the signs of the summed residual.

    A byte holds eight signs, the first one in its highest bit (numpy.packbits).
    """

    words: Int64[np.ndarray, " w"]
    codes: UInt8[np.ndarray, "w b"]

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True, kw_only=True, eq=False)
class Codebook:
    """Visual words of unit descriptors: means of what is near to each other, (k, d)."""

    centres: Float[np.ndarray, "k d"]

    def __post_init__(self) -> None:
        dim = np.shape(self.centres)[1] if np.ndim(self.centres) == 2 else 0
        freeze_arrays(self, "codebook", {"centres": (np.float32, ("k", "d"))}, d=dim)

    @property
    def code_bytes(self) -> int:
        """Bytes of the code of one word."""
        return -(-int(self.centres.shape[1]) // 8)

    def nearest(self, descriptors: Float[np.ndarray, "n d"], count: int = 1) -> Int64[np.ndarray, "n c"]:
        """The `count` nearest words of each descriptor, the nearest first; equally near ones in any order."""
        centres = torch.from_numpy(np.array(self.centres))
        # |x - c|^2 = |x|^2 - 2 x.c + |c|^2, of which the first is the same for all words.
        likeness = torch.from_numpy(np.array(descriptors)) @ centres.T - 0.5 * (centres**2).sum(dim=1)
        found: np.ndarray = likeness.topk(min(count, len(centres)), dim=1).indices.numpy()
        return found

    def aggregate(self, descriptors: Float[np.ndarray, "n d"], count: int = 1) -> Words:
        """The words of one photo: each descriptor adds its residual to the `count` words nearest to it.

        code_w = sign(sum of x - c_w over the descriptors x of word w); 0 counts as positive.
        """
        if not len(descriptors):
            return Words(words=np.empty(0, np.int64), codes=np.empty((0, self.code_bytes), np.uint8))
        nearest = self.nearest(descriptors, count)
        words, position = np.unique(nearest.ravel(), return_inverse=True)
        rows = np.repeat(np.arange(len(descriptors)), nearest.shape[1])
        residuals = np.zeros((len(words), descriptors.shape[1]), np.float64)
        np.add.at(residuals, position, descriptors[rows] - self.centres[nearest.ravel()])
        return Words(words=words, codes=np.packbits(residuals >= 0.0, axis=1))


def learn_codebook(descriptors: Float[np.ndarray, "n d"], size: int, seed: int) -> Codebook:
    """Words of a sample of descriptors by k-means: ten rounds from random descriptors, as ASMK is published.

    A word that loses all its descriptors starts again at a random one. ValueError for fewer descriptors than
    words.
    """
    if len(descriptors) < size:
        raise ValueError(
            f"codebook: expected at least {size:,} descriptors for as many words, got {len(descriptors):,}; "
            "ask for fewer words, or extract more photos"
        )
    rng = np.random.default_rng(seed)
    centres = np.array(descriptors[np.sort(rng.choice(len(descriptors), size, replace=False))], np.float32)
    for _ in range(_ROUNDS):
        words = _assigned(descriptors, Codebook(centres=centres))
        sums = np.zeros(centres.shape, np.float64)
        np.add.at(sums, words, descriptors)
        counts = np.bincount(words, minlength=size)
        lost = np.flatnonzero(counts == 0)
        centres = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
        centres[lost] = descriptors[rng.choice(len(descriptors), len(lost), replace=False)]
    return Codebook(centres=centres)


def _assigned(descriptors: Float[np.ndarray, "n d"], codebook: Codebook) -> Int64[np.ndarray, " n"]:
    """The word of each descriptor, some thousand descriptors at a time."""
    step = 4096
    parts = [
        codebook.nearest(descriptors[start : start + step])[:, 0]
        for start in range(0, len(descriptors), step)
    ]
    return np.concatenate(parts)
