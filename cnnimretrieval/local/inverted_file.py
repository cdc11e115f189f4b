"""The aggregated local features of a collection, word by word: built photo after photo, quickly searched.

DIR/asmk/ holds `centres.npy` (the codebook), and in the order of words, within a word of photos:
`photos.npy` (the row of a photo, 32 bits) and `codes.npy` (its signs there); `starts.npy` has the first entry
of each word, `norms.npy` the root of a photo's kernel with itself.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, UInt8
from pydantic import Field

from cnnimretrieval.local import store as local_store
from cnnimretrieval.local.aggregation import Codebook, Words, learn_codebook
from cnnimretrieval.local.store import LocalStore
from groundwork.files import create_array, discard
from groundwork.keys import key_of
from groundwork.records import load_done, mark_done, read_done, record_of
from groundwork.settings import Settings
from groundwork.top_k import Ranking

FOLDER = "asmk"
STAGE = "asmk"
_VERSION = 1
_PARTS = ("centres.npy", "starts.npy", "photos.npy", "codes.npy", "norms.npy")
_REMEDY = "build it again with index --local"
# Entries handled at a time when they are brought into the order of words.
_BLOCK = 1 << 20


class AsmkConfig(Settings):
    """The settings of ASMK; those of HOW (Tolias et al., ECCV 2020) but for the size of the codebook."""

    words: int = Field(default=4096, gt=1, description="of the codebook; published: 65,536 for 10^5 photos")
    sample: int = Field(default=200_000, gt=1, description="descriptors that the codebook is learned from")
    query_words: int = Field(default=5, gt=0, description="words that a descriptor of a query is assigned to")
    alpha: float = Field(default=3.0, gt=0.0, description="exponent of the likeness of two codes")
    threshold: float = Field(
        default=0.0, ge=-1.0, lt=1.0, description="likeness of two codes, in [-1, 1], that counts as nothing"
    )
    seed: int = Field(default=0, ge=0, description="of the sample and the codebook")


@dataclass(frozen=True, kw_only=True, eq=False)
class InvertedFile:
    """A searchable collection; its arrays are memory maps, of which a query touches its own words."""

    codebook: Codebook
    config: AsmkConfig
    starts: Int64[np.ndarray, " k"]
    photos: UInt8[np.ndarray, " e"]
    codes: UInt8[np.ndarray, "e b"]
    norms: Float[np.ndarray, " n"]

    def search(self, descriptors: Float[np.ndarray, "q d"], top: int) -> Ranking:
        """The `top` photos most like a query's local descriptors, (1, k), equal ones by rising row.

        score(q, x) = sum over common words w of s(u) / sqrt(K(q, q) K(x, x)); s(u) = u^alpha for u above the
        threshold, else 0; u = 1 - 2 h / d of the h bits in which the codes differ; K(x, x) = the number of
        x's words.
        """
        query = self.codebook.aggregate(descriptors, self.config.query_words)
        scores = np.zeros(len(self.norms), np.float64)
        for word, code in zip(query.words.tolist(), query.codes, strict=True):
            part = slice(int(self.starts[word]), int(self.starts[word + 1]))
            scores[self.photos[part]] += self._likeness(code, self.codes[part])
        scores /= np.sqrt(max(1, len(query))) * self.norms
        k = min(top, len(scores))
        best = np.lexsort((np.arange(len(scores)), -scores))[:k] if k == len(scores) else _best(scores, k)
        return Ranking(rows=best[None], scores=scores[best][None].astype(np.float32))

    @property
    def bytes_a_photo(self) -> float:
        """Of the entries and norms, without the codebook, which does not grow."""
        entries = self.photos.nbytes + self.codes.nbytes + self.norms.nbytes
        return entries / max(1, len(self.norms))

    def _likeness(self, code: UInt8[np.ndarray, " b"], codes: UInt8[np.ndarray, "e b"]) -> np.ndarray:
        differing = np.bitwise_count(codes ^ code).sum(axis=1)
        u = 1.0 - 2.0 * differing / self.codebook.centres.shape[1]
        return np.where(u > self.config.threshold, u.clip(min=0.0) ** self.config.alpha, 0.0)


def index_locally(store: LocalStore, out: Path, config: AsmkConfig) -> InvertedFile:
    """Learn a codebook of a collection's local features and write its inverted file, unless that is done.

    ValueError when the collection has fewer features than the codebook is to have words.
    """
    key = key_of(STAGE, _VERSION, config, _source(out))
    if load_done(out, STAGE, key) is not None:
        return read(out)
    rng = np.random.default_rng(config.seed)
    rows, parts, drawn = rng.permutation(len(store.images)), [np.empty((0, store.dim), np.float32)], 0
    for row in rows.tolist():
        if drawn >= config.sample:
            break
        parts.append(store.at(row).descriptors)
        drawn += len(parts[-1])
    codebook = learn_codebook(np.concatenate(parts)[: config.sample], config.words, config.seed)
    words = (codebook.aggregate(store.at(row).descriptors) for row in range(len(store.images)))
    return build(words, len(store.images), codebook, config, out, key)


def open_index(folder: Path) -> InvertedFile:
    """The inverted file of the local features that lie in `folder` now.

    FileNotFoundError when there is none. ValueError when it is damaged, or of other local features.
    """
    found, record = read(folder), record_of(folder, STAGE)
    if record is None or record.key != key_of(STAGE, _VERSION, found.config, _source(folder)):
        raise ValueError(
            f"local index {folder / FOLDER}: expected that of the local features in {folder}, got one of "
            f"others; {_REMEDY}"
        )
    return found


def _source(folder: Path) -> str | None:
    record = record_of(folder / local_store.FOLDER, local_store.STAGE)
    return None if record is None else record.key


def build(
    photos: Iterator[Words], count: int, codebook: Codebook, config: AsmkConfig, out: Path, key: str
) -> InvertedFile:
    """Write the inverted file of `count` photos, given by their words one after the other, into `out`/asmk.

    Entries first lie on the disk as they come, then in the order of words: memory is that of a block, of the
    codebook, and of 4 bytes a photo.
    """
    started, folder = time.perf_counter(), out / FOLDER
    discard(folder)
    folder.mkdir(parents=True)
    counts = np.zeros(len(codebook.centres), np.int64)
    norms = np.ones(count, np.float32)
    record = np.dtype([("word", np.uint32), ("photo", np.uint32), ("code", np.uint8, (codebook.code_bytes,))])
    came = folder / "came.bin"
    with came.open("wb") as file:
        for row, photo in enumerate(photos):
            entries = np.empty(len(photo), record)
            entries["word"], entries["photo"], entries["code"] = photo.words, row, photo.codes
            entries.tofile(file)
            counts[photo.words] += 1
            norms[row] = np.sqrt(max(1, len(photo)))
    starts = np.concatenate([[0], np.cumsum(counts)])
    _in_order_of_words(came, record, starts, folder)
    came.unlink()
    np.save(folder / "centres.npy", codebook.centres)
    np.save(folder / "starts.npy", starts)
    np.save(folder / "norms.npy", norms)
    facts = {"photos": count, "entries": int(starts[-1]), "config": config.model_dump(mode="json")}
    seconds = time.perf_counter() - started
    outputs = [folder / part for part in _PARTS]
    mark_done(out, STAGE, key, seconds=seconds, facts=facts, outputs=outputs)
    return read(out)


def read(folder: Path) -> InvertedFile:
    """The inverted file in a folder. FileNotFoundError when there is none, ValueError when it is damaged."""
    record = read_done(folder, STAGE, remedy=_REMEDY)
    if record is None:
        raise FileNotFoundError(f"local index: expected one in {folder}, got none; {_REMEDY}")
    arrays: dict[str, Any] = {
        part.removesuffix(".npy"): np.load(folder / FOLDER / part, mmap_mode="r") for part in _PARTS
    }
    codebook = Codebook(centres=arrays.pop("centres"))
    config = AsmkConfig.checked(
        record.facts["config"], f"local index {folder}", "settings of this version", _REMEDY
    )
    return InvertedFile(codebook=codebook, config=config, **arrays)


def _in_order_of_words(came: Path, record: np.dtype[Any], starts: np.ndarray, folder: Path) -> None:
    """Deal the entries out to their words, which keeps the photos of a word in their order."""
    total, code_bytes = int(starts[-1]), record["code"].shape[0]
    photos = create_array(folder / "photos.npy", (total,), np.uint32)
    codes = create_array(folder / "codes.npy", (total, code_bytes), np.uint8)
    free = starts[:-1].copy()
    with came.open("rb") as file:
        while len(entries := np.fromfile(file, record, _BLOCK)):
            words = entries["word"].astype(np.int64)
            order = np.argsort(words, kind="stable")
            rising = words[order]
            first = np.searchsorted(rising, rising)
            places = free[rising] + np.arange(len(rising)) - first
            photos[places], codes[places] = entries["photo"][order], entries["code"][order]
            free += np.bincount(words, minlength=len(free))
    photos.flush()
    codes.flush()


def _best(scores: Float[np.ndarray, " n"], k: int) -> Int64[np.ndarray, " k"]:
    """The `k` rows of highest score, equal ones by rising row."""
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > least)
    equal = np.flatnonzero(scores == least)[: k - len(above)]
    found = np.concatenate([above, equal])
    return found[np.lexsort((found, -scores[found]))]
