"""Time, memory and disk of aggregated local search as a collection grows, with photos that were never taken.

A photo has `--features` local features, each of a word drawn by chance with signs drawn by chance: more words
a photo, and more even lists, than real photos have. Two sizes are built and searched by the real code; from
both, what a million photos need is projected, in straight lines. Memory is what is allocated: pages of memory
maps are the system's to keep or drop. Its tracing is in the time.
"""

import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from cnnimretrieval.local.aggregation import Codebook, Words
from cnnimretrieval.local.inverted_file import AsmkConfig, build
from experiments.benchmarks.measuring.measure import Claim, arguments, conclude, timed

T = TypeVar("T")
_PROJECTED = 1_000_000
_LIMIT_GB = 2.0
_QUERIES = 3


@dataclass(frozen=True, kw_only=True)
class Grown:
    """What a collection of some size took: processor seconds, and bytes."""

    photos: int
    build_s: float
    search_s: float
    build_bytes: int
    search_bytes: int
    bytes_a_photo: float


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--photos", type=int, default=100_000, help="of the larger size [%(default)s]")
    parser.add_argument("--features", type=int, default=1000, help="of a photo [%(default)s]")
    parser.add_argument("--words", type=int, default=65_536, help="of the codebook [%(default)s]")
    parser.add_argument("--dim", type=int, default=128, help="of a descriptor [%(default)s]")
    given = parser.parse_args(words)
    small, large = (
        measure(count, given.features, given.words, given.dim) for count in (given.photos // 4, given.photos)
    )
    whole = projected(small, large)
    for one in (small, large, whole):
        built = f"built in {one.build_s:,.1f} s of a core and {one.build_bytes / 1e9:.3f} GB"
        searched = f"a query in {one.search_s:.3f} s and {one.search_bytes / 1e9:.3f} GB"
        print(
            f"{one.photos:,} photos: {built}, {searched}, {one.bytes_a_photo:,.0f} bytes a photo on disk",
            flush=True,
        )
    peak = max(whole.build_bytes, whole.search_bytes) / 1e9
    what = f"memory of {_PROJECTED:,} photos, projected, GB"
    return conclude([Claim(what=what, measured=peak, limit=_LIMIT_GB, at_least=False)])


def measure(count: int, features: int, num_words: int, dim: int) -> Grown:
    """Build and search a collection of `count` photos."""
    rng = np.random.default_rng(count)
    codebook = Codebook(centres=_unit(rng, num_words, dim))
    config = AsmkConfig(words=num_words)
    with tempfile.TemporaryDirectory() as folder:
        photos = _photos(count, features, codebook)
        index, built = _traced(lambda: build(photos, count, codebook, config, Path(folder), "synthetic"))
        queries = [_unit(rng, features, dim) for _ in range(_QUERIES)]
        _, searched = _traced(lambda: [index.search(query, 100) for query in queries])
        return Grown(
            photos=count,
            build_s=built.cpu,
            search_s=searched.cpu / _QUERIES,
            build_bytes=built.peak,
            search_bytes=searched.peak,
            bytes_a_photo=index.bytes_a_photo,
        )


def _traced(work: Callable[[], T]) -> tuple[T, "_Traced"]:
    tracemalloc.start()
    try:
        result, took = timed(work)
        return result, _Traced(cpu=took.cpu, peak=tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


@dataclass(frozen=True, kw_only=True)
class _Traced:
    cpu: float
    peak: int


def projected(small: Grown, large: Grown, photos: int = _PROJECTED) -> Grown:
    """What `photos` need if everything goes on growing as it did from the small to the large size."""
    steps = (photos - large.photos) / (large.photos - small.photos)
    return Grown(
        photos=photos,
        build_s=large.build_s + steps * (large.build_s - small.build_s),
        # Words of a query's features take most of it, whatever the size: noise may not make it quicker.
        search_s=max(large.search_s, large.search_s + steps * (large.search_s - small.search_s)),
        build_bytes=round(large.build_bytes + steps * (large.build_bytes - small.build_bytes)),
        search_bytes=round(large.search_bytes + steps * (large.search_bytes - small.search_bytes)),
        bytes_a_photo=large.bytes_a_photo,
    )


def _photos(count: int, features: int, codebook: Codebook) -> Iterator[Words]:
    rng = np.random.default_rng(7)
    for _ in range(count):
        words = np.unique(rng.integers(0, len(codebook.centres), features))
        codes = rng.integers(0, 256, (len(words), codebook.code_bytes), dtype=np.uint8)
        yield Words(words=words, codes=codes)


def _unit(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    rows = rng.normal(size=(count, dim)).astype(np.float32)
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


if __name__ == "__main__":
    sys.exit(main())
