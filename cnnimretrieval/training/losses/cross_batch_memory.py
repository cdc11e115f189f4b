"""Cross-batch memory: descriptors of the latest steps, which serve the next ones as more negatives."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class CrossBatchMemory:
    """The latest `size` descriptors and the rows they belong to, oldest first.

    Wang et al., "Cross-Batch Memory for Embedding Learning", CVPR 2020. They carry no gradient. Weights move
    so little in a step that descriptors of a few steps ago are as good as new.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._vectors: Tensor | None = None
        self._rows = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> Int[Tensor, " m"]:
        """Rows of the pair table, on the CPU."""
        return self._rows

    def scores(self, vectors: Float[Tensor, "b d"]) -> Float[Tensor, "b m"]:
        """Inner products with what is kept; no column while there is nothing."""
        return vectors.new_empty(len(vectors), 0) if self._vectors is None else vectors @ self._vectors.T

    def add(self, vectors: Float[Tensor, "b d"], rows: Int[Tensor, " b"]) -> None:
        """Keep these too, and forget the oldest beyond `size`."""
        new = vectors.detach()
        kept = new if self._vectors is None else torch.cat([self._vectors, new])
        self._vectors = kept[-self.size :]
        self._rows = torch.cat([self._rows, rows])[-self.size :]

    def state_dict(self) -> dict[str, Any]:
        """What is kept, for a checkpoint."""
        return {"vectors": self._vectors, "rows": self._rows}

    def load_state_dict(self, state: dict[str, Any], device: str) -> None:
        """Keep what `state_dict` told instead."""
        vectors = state["vectors"]
        self._vectors = None if vectors is None else vectors.to(device)
        self._rows = state["rows"]
