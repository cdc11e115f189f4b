"""Approximate search by faiss: graphs (HNSW) or short codes (IVF-PQ) propose rows, exact scores rank them."""

from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import Field

from groundwork.settings import Settings
from groundwork.shards import Rows, blocks

Kind = Literal["hnsw", "ivfpq"]

_BLOCK = 16384
# Rows of a list that its centre, and of a code book that its words, are learned from.
_ROWS_A_CENTRE = 64
# Fewer descriptors teach no code book of 256 words.
_LEAST_FOR_CODES = 1000
_LONGEST_PART = 8


class ApproximateConfig(Settings):
    """How a graph or codes are built and searched; the defaults give a recall@10 beyond 0.95 in practice."""

    links: int = Field(default=32, ge=2, description="of a row to others in the graph")
    construction: int = Field(default=100, gt=0, description="rows visited to place one in the graph")
    visited: int = Field(default=128, gt=0, description="rows visited by a query, at least")
    probed: int = Field(default=64, gt=0, description="lists of codes that a query looks through")
    candidates: int = Field(default=20, gt=0, description="rows ranked exactly for each that is asked for")


def library() -> ModuleType:
    """The module faiss; RuntimeError that says how to install it where it is not."""
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise RuntimeError(
            "faiss: expected the package for approximate search, got none; "
            "pip install 'cnnimretrieval[faiss]', or use --kind exact"
        ) from error
    # One thread: graphs that several grow differ from run to run. On macOS, besides, its OpenMP and that of
    # torch crash together.
    faiss.omp_set_num_threads(1)
    return faiss


def build(vectors: Rows, kind: Kind, config: ApproximateConfig) -> Any:
    """An index of all rows, whose numbers are their ids. ValueError for too few to learn codes from."""
    faiss = library()
    n, dim = vectors.shape
    if kind == "hnsw":
        # 16 bits a number: exact scores come from the descriptors themselves.
        half = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexHNSWSQ(dim, half, config.links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = config.construction
        index.train(np.zeros((1, dim), np.float32))
    else:
        index = _learned(faiss, vectors)
    for _, block in blocks(vectors, _BLOCK):
        index.add(np.ascontiguousarray(block))
    assert index.ntotal == n
    return index


def propose(
    index: Any,
    queries: Float[np.ndarray, "q d"],
    count: int,
    alive: Bool[np.ndarray, " i"],
    config: ApproximateConfig,
) -> Int[np.ndarray, "q c"]:
    """Ids of about the `count` nearest of each query among those `alive`; -1 where fewer were found."""
    faiss = library()
    selector = None
    if not alive.all():
        selector = faiss.IDSelectorBitmap(np.packbits(alive, bitorder="little"))
    if hasattr(index, "hnsw"):
        parameters = faiss.SearchParametersHNSW(efSearch=max(config.visited, count), sel=selector)
    else:
        parameters = faiss.SearchParametersIVF(nprobe=config.probed, sel=selector)
    wanted = np.ascontiguousarray(queries, np.float32)
    found: np.ndarray = index.search(wanted, min(count, index.ntotal), params=parameters)[1]
    return found


def add(index: Any, vectors: Float[np.ndarray, "n d"]) -> None:
    """Put further rows into the index; their ids follow those that it has."""
    library()
    index.add(np.ascontiguousarray(vectors, np.float32))


def write(index: Any, path: Path) -> None:
    """Write an index to a file."""
    library().write_index(index, str(path))


def read(path: Path) -> Any:
    """The index in a file; ValueError that names one which faiss cannot read."""
    try:
        return library().read_index(str(path))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"index {path}: expected an index of faiss, got none ({reason}); build it again"
        ) from (error)


def _learned(faiss: ModuleType, vectors: Rows) -> Any:
    """An empty IVF-PQ index: 2 sqrt(n) lists, a byte for at most eight numbers of a row less its centre."""
    n, dim = vectors.shape
    if n < _LEAST_FOR_CODES:
        raise ValueError(
            f"--kind ivfpq: expected at least {_LEAST_FOR_CODES:,} descriptors to learn codes from, got {n}; "
            "use exact, which is quick for so few"
        )
    parts = next(parts for parts in range(1, dim + 1) if dim % parts == 0 and dim // parts <= _LONGEST_PART)
    lists = max(1, min(round(2 * n**0.5), n // _ROWS_A_CENTRE))
    quantizer = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFPQ(quantizer, dim, lists, parts, 8, faiss.METRIC_INNER_PRODUCT)
    index.own_fields = True
    quantizer.this.disown()
    index.cp.max_points_per_centroid = _ROWS_A_CENTRE
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    rows = np.unique(np.linspace(0, n - 1, min(n, _ROWS_A_CENTRE * max(lists, 256))).astype(np.int64))
    index.train(np.ascontiguousarray(vectors[rows], np.float32))
    return index
