"""Whitening of descriptors: centring, projection and L2 norm; applied in blocks, kept in a file.

Descriptors may be a memory map and stay float32. How a whitening is estimated: see `estimates`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cnnimretrieval.whitening.moments import BLOCK_ROWS
from groundwork.arrays import slices
from groundwork.files import atomic_path

Kind = Literal["learned", "pca"]

_FACTS = "facts"
_EPS = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Whitening:
    """x -> projection (x - mean), then L2; `note` says in one line what it was estimated from."""

    mean: Float[np.ndarray, " d"]
    projection: Float[np.ndarray, "k d"]
    kind: Kind
    note: str

    def __post_init__(self) -> None:
        if self.projection.ndim != 2 or self.projection.shape[1:] != self.mean.shape:
            raise ValueError(
                f"whitening: expected a projection (k, {self.mean.size}), got {self.projection.shape}; "
                "give mean and projection of the same estimate"
            )
        for name, array in (("mean", self.mean), ("projection", self.projection)):
            if not np.issubdtype(array.dtype, np.floating):
                raise ValueError(
                    f"whitening: expected real numbers as {name}, got {array.dtype}; estimate it again"
                )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.projection).all()):
            raise ValueError("whitening: expected finite numbers, got NaN or infinity; estimate it again")
        if not self.projection.any():
            raise ValueError(
                f"whitening: expected a projection, got {self.projection.size} zeros; estimate it again"
            )

    @property
    def dim(self) -> int:
        """Length of a whitened descriptor."""
        return len(self.projection)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of mean and projection."""
        return hashlib.sha256(self.mean.tobytes() + self.projection.tobytes()).hexdigest()


def apply(
    whitening: Whitening,
    vectors: Float[np.ndarray, "n d"],
    dim: int | None = None,
    out: Float[np.ndarray, "n k"] | None = None,
) -> Float[np.ndarray, "n k"]:
    """Whitened unit rows y / (||y|| + 1e-6), y = P[:dim] (x - m), in the dtype of `vectors`.

    `out` takes the result when given, a memory map for instance; memory stays bounded by a block of rows.
    """
    if vectors.ndim != 2 or vectors.shape[1] != len(whitening.mean):
        raise ValueError(
            f"whitening: expected descriptors (n, {len(whitening.mean)}), got {vectors.shape}; "
            "use the whitening that was learned with this network"
        )
    check_dim(dim, whitening.dim)
    mean = whitening.mean.astype(vectors.dtype)
    projection_t = whitening.projection[:dim].astype(vectors.dtype).T
    if out is None:
        out = np.empty((len(vectors), projection_t.shape[1]), vectors.dtype)
    for rows in slices(len(vectors), BLOCK_ROWS):
        projected = (vectors[rows] - mean) @ projection_t
        norms = np.sqrt(np.einsum("nk,nk->n", projected, projected))
        np.divide(projected, (norms + _EPS)[:, None], out=out[rows])
    return out


def save_whitening(whitening: Whitening, path: Path) -> None:
    """Write `whitening` as one safetensors file, whole or not at all."""
    with atomic_path(path) as unfinished:
        arrays = {"mean": whitening.mean, "projection": whitening.projection}
        # In one entry: the library writes several in another order each time.
        facts = json.dumps({"kind": whitening.kind, "note": whitening.note})
        save_file(arrays, unfinished, metadata={_FACTS: facts})


def load_whitening(path: Path) -> Whitening:
    """The whitening in a file of `save_whitening`; FileNotFoundError or ValueError when it holds none."""
    if not path.is_file():
        raise FileNotFoundError(f"whitening: expected a file, got {path}, which is none; check the path")
    try:
        with safe_open(path, framework="numpy") as file:
            facts = _read_facts(file.metadata() or {})
            mean, projection = file.get_tensor("mean"), file.get_tensor("projection")
    except (SafetensorError, TypeError, AttributeError) as error:
        # Beside its own error, what the library trips over in types that NumPy does not have.
        raise ValueError(
            f"whitening {path}: expected mean and projection, got {error}; learn it again"
        ) from error
    try:
        return Whitening(mean=mean, projection=projection, kind=_kind(facts), note=facts.get("note", ""))
    except ValueError as error:
        raise ValueError(f"whitening {path}: {str(error).removeprefix('whitening: ')}") from error


def _read_facts(stored: Mapping[str, str]) -> Mapping[str, str]:
    """Kind and note; files of earlier versions have an entry for each."""
    try:
        facts = json.loads(stored[_FACTS]) if _FACTS in stored else stored
    except ValueError:
        return {}
    return facts if isinstance(facts, Mapping) else {}


def _kind(facts: Mapping[str, str]) -> Kind:
    for kind in get_args(Kind):
        if facts.get("kind") == kind:
            return kind  # type: ignore[no-any-return]
    raise ValueError(
        f"whitening: expected the kind {' or '.join(get_args(Kind))}, got {facts.get('kind')!r}; "
        "learn it again"
    )


def check_dim(dim: int | None, most: int) -> None:
    """ValueError unless so many dimensions can be kept of `most`."""
    if dim is not None and not 1 <= dim <= most:
        raise ValueError(f"whitening: expected 1 to {most} dimensions, got {dim}; choose one of them")
