"""The saved index of a folder of descriptors: built, brought up to date, opened.

`DIR/index/` holds `index.faiss`, `keys.npy` (a hash of the vector of each id) and `rows.npy` (the row of
vectors.npy that an id stands for, -1 for one that is gone); an exact index needs none of them. The record
`DIR/done/index.json` says of which descriptors, by which network, it is.
"""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt64
from pydantic import Field

from cnnimretrieval.search import approximate
from cnnimretrieval.search.approximate import ApproximateConfig
from groundwork import top_k
from groundwork.arrays import slices
from groundwork.descriptor_folder import STAGE, VECTORS
from groundwork.digest import sha256_of
from groundwork.files import atomic_path, discard
from groundwork.memory import usable_bytes
from groundwork.records import last_done, mark_done, read_done, record_of
from groundwork.settings import Values
from groundwork.shards import Rows, blocks
from groundwork.top_k import Ranking, keys

Kind = Literal["exact", "hnsw", "ivfpq"]

INDEX = "index"
_VERSION = 1
_FAISS, _KEYS, _ROWS = "index.faiss", "keys.npy", "rows.npy"
_REMEDY = "run index again"
_BLOCK = 16384
# Descriptors up to this size are searched exactly in a fraction of a second: a million of length 512.
_EXACT_BYTES = 1 << 31
# Of the memory that is free, what a graph may take.
_GRAPH_SHARE = 0.5
# Ids that stand for nothing, as a share of all, from which on everything is built anew.
_MOST_GONE = 0.5


class IndexMeta(Values):
    """What an index is; `network` is the fingerprint of what made its descriptors."""

    version: int = _VERSION
    kind: Kind
    network: str
    config: ApproximateConfig = Field(default_factory=ApproximateConfig)


@dataclass(frozen=True, kw_only=True)
class Built:
    """What `index` did: the kind, rows kept from before, added and removed."""

    kind: Kind
    kept: int
    added: int
    removed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedIndex:
    """An open index; without `graph` every search is exact."""

    kind: Kind
    vectors: Float[np.ndarray, "n d"]
    config: ApproximateConfig
    graph: Any = None
    rows: Int[np.ndarray, " i"] | None = None

    def search(self, queries: Float[np.ndarray, "q d"], top: int | None = None) -> Ranking:
        """As `groundwork.top_k.search`; an approximate index may miss rows, the scores of others are exact.

        All rows are ranked exactly, whatever the index: nothing is won by approximation there.
        """
        if self.graph is None or self.rows is None or top is None or top >= len(self.vectors):
            return top_k.search(queries, self.vectors, top)
        count = max(top * self.config.candidates, self.config.visited)
        ids = approximate.propose(self.graph, queries, count, self.rows >= 0, self.config)
        rows = np.empty((len(queries), top), np.int64)
        scores = np.empty((len(queries), top), np.float32)
        for number, (query, found) in enumerate(zip(queries, ids, strict=True)):
            among = np.sort(self.rows[found[found >= 0]])
            if len(among) < top:  # removed rows, or empty lists, stood in the way
                exact = top_k.search(query[None], self.vectors, top)
                rows[number], scores[number] = exact.rows[0], exact.scores[0]
                continue
            near = np.asarray(self.vectors[among], np.float32) @ np.asarray(query, np.float32)
            best = np.argsort(keys(near, among))[::-1][:top]
            rows[number], scores[number] = among[best], near[best]
        return Ranking(rows=rows, scores=scores)


def choose(n: int, dim: int, free_bytes: int | None = None) -> Kind:
    """The kind for n descriptors of length `dim` when nobody says one.

    Exact up to 2 GiB of them; beyond that a graph where it fits into half of the memory that is free, else
    codes, which take dim / 8 bytes a row.
    """
    if 4 * n * dim <= _EXACT_BYTES:
        return "exact"
    free = usable_bytes() if free_bytes is None else free_bytes
    graph_bytes = n * (2 * dim + 8 * ApproximateConfig().links + 32)
    return "hnsw" if graph_bytes <= _GRAPH_SHARE * free else "ivfpq"


def build_index(
    folder: Path, vectors: Float[np.ndarray, "n d"], network: str, kind: Kind, config: ApproximateConfig
) -> Built:
    """Save the index of the descriptors in `folder`, or bring the one there up to date.

    Rows are known by their vectors: of an index of the same kind, settings and network those that are still
    there are kept, others are added, and what is gone is never found again. It is built anew when more than
    half of it is gone.
    """
    started = time.perf_counter()
    meta = IndexMeta(kind=kind, network=network, config=config)
    key, made = _descriptors_key(folder), meta.model_dump(mode="json")
    record = record_of(folder, INDEX)
    record = record if record and record.basis == made and last_done(folder, INDEX) else None
    if record is not None and record.key == key:
        return Built(kind=kind, kept=len(vectors), added=0, removed=0)
    if kind == "exact":
        discard(folder / INDEX)
        mark_done(folder, INDEX, key, basis=made)
        return Built(kind=kind, kept=0, added=len(vectors), removed=0)
    built = _updated(folder / INDEX, vectors, kind, config) if record is not None else None
    if built is None:
        built = _new(folder / INDEX, vectors, kind, config)
    seconds = time.perf_counter() - started
    mark_done(folder, INDEX, key, seconds=seconds, basis=made, outputs=[folder / INDEX])
    return built


def open_index(folder: Path, vectors: Float[np.ndarray, "n d"], network: str) -> SavedIndex:
    """The index in a folder of descriptors, an exact one where none was saved.

    ValueError when it is damaged, or of other descriptors than `vectors`, or of another `network`.
    """
    where = folder / INDEX
    record = read_done(folder, INDEX, remedy=_REMEDY)
    if record is None and not where.exists():
        return SavedIndex(kind="exact", vectors=vectors, config=ApproximateConfig())
    if record is None:
        raise ValueError(
            f"index {where}: expected one that was built to its end, got no record of it; {_REMEDY}"
        )
    try:
        meta = IndexMeta.model_validate(record.basis)
    except ValueError as error:
        raise ValueError(
            f"index {where}: expected version {_VERSION}, got that of another release; {_REMEDY}"
        ) from error
    if meta.network != network:
        raise ValueError(
            f"index {where}: expected one of the network that made the descriptors ({network[:12]}), got one "
            f"of another ({meta.network[:12]}); {_REMEDY}"
        )
    if record.key != _descriptors_key(folder):
        raise ValueError(
            f"index {where}: expected one of the {len(vectors):,} descriptors that are there, got one of "
            f"others; {_REMEDY}, which adds and removes what changed"
        )
    if meta.kind == "exact":
        return SavedIndex(kind="exact", vectors=vectors, config=meta.config)
    rows = np.load(where / _ROWS, allow_pickle=False)
    graph = approximate.read(where / _FAISS)
    return SavedIndex(kind=meta.kind, vectors=vectors, config=meta.config, graph=graph, rows=rows)


def _new(where: Path, vectors: Rows, kind: Kind, config: ApproximateConfig) -> Built:
    assert kind != "exact"
    graph = approximate.build(vectors, kind, config)
    _save(where, graph, _vector_keys(vectors), np.arange(len(vectors)))
    return Built(kind=kind, kept=0, added=len(vectors), removed=0)


def _updated(where: Path, vectors: Rows, kind: Kind, config: ApproximateConfig) -> Built | None:
    """The index at `where` with what is new in `vectors` and without what is gone; None where too much is."""
    old_keys, old_rows = np.load(where / _KEYS), np.load(where / _ROWS)
    new_keys = _vector_keys(vectors)
    rows, fresh = _matched(old_keys, new_keys)
    if (rows < 0).sum() > _MOST_GONE * (len(rows) + len(fresh)):
        return None
    graph = approximate.read(where / _FAISS)
    for part in slices(len(fresh), _BLOCK):
        approximate.add(graph, vectors[fresh[part]])
    _save(where, graph, np.concatenate([old_keys, new_keys[fresh]]), np.concatenate([rows, fresh]))
    removed = int(((old_rows >= 0) & (rows < 0)).sum())
    return Built(kind=kind, kept=len(vectors) - len(fresh), added=len(fresh), removed=removed)


def _matched(
    old: UInt64[np.ndarray, " i"], new: UInt64[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " i"], Int[np.ndarray, " m"]]:
    """The row of `new` that each of `old` stands for, -1 for none, and the rows that none stands for.

    Of equal keys the first stands for the first.
    """
    before, now = (pd.DataFrame({"key": each}) for each in (old, new))
    for each in (before, now):
        each["copy"] = each.groupby("key").cumcount()
    now["row"] = np.arange(len(new))
    found = before.merge(now, on=["key", "copy"], how="left")["row"]
    rows = found.fillna(-1).to_numpy(np.int64)
    return rows, np.setdiff1d(np.arange(len(new)), rows)


def _save(
    where: Path, graph: Any, vector_keys: UInt64[np.ndarray, " i"], rows: Int[np.ndarray, " i"]
) -> None:
    with atomic_path(where) as unfinished:
        unfinished.mkdir()
        approximate.write(graph, unfinished / _FAISS)
        np.save(unfinished / _KEYS, vector_keys)
        np.save(unfinished / _ROWS, rows)


def _vector_keys(vectors: Rows) -> UInt64[np.ndarray, " n"]:
    """64 bits of a hash of each row: two that differ and share one would share their place in the index."""
    found = np.empty(len(vectors), np.uint64)
    for first, block in blocks(vectors, _BLOCK):
        for row, vector in enumerate(np.ascontiguousarray(block), start=first):
            found[row] = int.from_bytes(hashlib.blake2b(vector, digest_size=8).digest(), "little")
    return found


def _descriptors_key(folder: Path) -> str:
    """The SHA-256 of the vectors in a folder, as its record has it, else of the file."""
    record = record_of(folder, STAGE)
    if record is not None and VECTORS in record.outputs:
        return record.outputs[VECTORS].sha256
    return sha256_of(folder / VECTORS)
