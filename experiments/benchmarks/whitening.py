"""Learning a whitening and applying it, against the reference algorithm written straightforwardly.

Both get the same made-up float32 descriptors: unit vectors, two neighbouring rows a matching pair. Learning:
processor seconds, and the largest size of all arrays at a time, the descriptors included. Applying: processor
seconds, and the dtype that comes out. Each works in a process of its own. The straightforward one, whose
whitening is float64, is also the oracle: inner products of whitened rows must agree. Goals: learning in a
quarter of the time and half of the memory, applying in half of the time, float32 kept.
"""

import sys
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from jaxtyping import Float, Int

from cnnimretrieval.descriptors.whitening import apply, learn_whitening
from experiments.benchmarks.measure import Claim, Took, arguments, conclude, print_table, timed

_EPS = 1e-6
_COMPARED = 200
_MIB = 2.0**20


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of the made-up descriptors: for learning `learn` rows with as many pairs, for applying `apply` rows."""

    dim: int
    learn: int
    pairs: int
    apply: int


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What learning took, and the largest size of all arrays meanwhile."""

    took: Took
    peak_mib: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What one contender took; `gram` holds the inner products of the first whitened rows."""

    learned: Learned
    applying: Took
    dtype: str
    gram: Float[np.ndarray, "k k"]


def descriptors(n: int, dim: int) -> Float[np.ndarray, "n d"]:
    """Unit rows, float32, of falling variance about a common mean; rows 2 i and 2 i + 1 are alike."""
    rng = np.random.default_rng(n)
    scales = np.geomspace(1.0, 0.05, dim, dtype=np.float32)
    x = np.repeat(rng.standard_normal((-(-n // 2), dim), dtype=np.float32), 2, axis=0)[:n]
    x += 0.5 * rng.standard_normal((n, dim), dtype=np.float32)
    x *= scales
    x += 0.5
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def matching_pairs(n: int, count: int) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Queries and positives: each row in turn with its neighbour."""
    queries = np.arange(count) % (n - n % 2)
    return queries, queries ^ 1


def straightforward_learning(
    x: Float[np.ndarray, "d n"], queries: Int[np.ndarray, " m"], positives: Int[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, "d 1"], Float[np.ndarray, "d d"]]:
    """Mean and projection of the published algorithm, all rows at once; descriptors are columns there."""
    m = x[:, queries].mean(axis=1, keepdims=True)
    difference = x[:, queries] - x[:, positives]
    covariance = np.dot(difference, difference.T) / difference.shape[1]
    unmixing = np.linalg.inv(np.linalg.cholesky(covariance + 0.0 * np.eye(len(x))))
    projected = np.dot(unmixing, x - m)
    eigenvalues, eigenvectors = np.linalg.eig(np.dot(projected, projected.T))
    order = eigenvalues.argsort()[::-1]
    return m, np.dot(eigenvectors[:, order].T, unmixing)


def straightforward_applying(
    x: Float[np.ndarray, "d n"], m: Float[np.ndarray, "d 1"], projection: Float[np.ndarray, "d d"]
) -> Float[np.ndarray, "d n"]:
    """Whitened unit columns."""
    y = np.dot(projection, x - m)
    whitened: Float[np.ndarray, "d n"] = y / (np.linalg.norm(y, axis=0, keepdims=True) + _EPS)
    return whitened


def run_ours(sizes: Sizes) -> Run:
    """Our functions, on rows."""
    x = descriptors(sizes.learn, sizes.dim)
    queries, positives = matching_pairs(sizes.learn, sizes.pairs)
    tracemalloc.reset_peak()
    whitening, took = timed(lambda: learn_whitening(x, queries, positives, shrinkage=0.0))
    return _applied(_learned(took), x, sizes, lambda rows: apply(whitening, rows))


def run_straightforward(sizes: Sizes) -> Run:
    """The published algorithm as it is used: float32 in; what meets a float64 matrix becomes float64."""
    # Kept as columns. The transposed view of rows is that, and its products cost the same.
    x = descriptors(sizes.learn, sizes.dim)
    queries, positives = matching_pairs(sizes.learn, sizes.pairs)
    tracemalloc.reset_peak()
    (m, projection), took = timed(lambda: straightforward_learning(x.T, queries, positives))
    return _applied(_learned(took), x, sizes, lambda rows: straightforward_applying(rows.T, m, projection).T)


def _learned(took: Took) -> Learned:
    return Learned(took=took, peak_mib=tracemalloc.get_traced_memory()[1] / _MIB)


def _applied(
    learned: Learned,
    x: Float[np.ndarray, "n d"],
    sizes: Sizes,
    whiten: Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n d"]],
) -> Run:
    few = whiten(x[:_COMPARED])
    given = descriptors(sizes.apply, sizes.dim)
    whitened, applying = timed(lambda: whiten(given))
    return Run(learned=learned, applying=applying, dtype=str(whitened.dtype), gram=few @ few.T)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--dim", type=int, default=2048, help="of a descriptor [%(default)s]")
    parser.add_argument("--learn", type=int, default=40_000, help="descriptors to learn from [%(default)s]")
    parser.add_argument("--pairs", type=int, default=40_000, help="matching pairs [%(default)s]")
    parser.add_argument("--apply", type=int, default=60_000, help="descriptors to whiten [%(default)s]")
    given = parser.parse_args(words)
    sizes = Sizes(dim=given.dim, learn=given.learn, pairs=given.pairs, apply=given.apply)
    found = {name: _in_child(work, sizes) for name, work in _CONTENDERS.items()}
    _print(found)
    ours, theirs = (found[name] for name in ("ours", "straightforward"))
    return conclude(
        [
            _ratio(
                "learning, straightforward / ours, cpu", theirs.learned.took.cpu, ours.learned.took.cpu, 4.0
            ),
            _ratio(
                "learning, straightforward / ours, memory",
                theirs.learned.peak_mib,
                ours.learned.peak_mib,
                2.0,
            ),
            _ratio("applying, straightforward / ours, cpu", theirs.applying.cpu, ours.applying.cpu, 2.0),
            Claim(
                what="largest difference of inner products of whitened descriptors",
                measured=float(np.abs(ours.gram - theirs.gram).max()),
                limit=1e-4,
                at_least=False,
            ),
            Claim(
                what="whitened float32 stays float32",
                measured=float(ours.dtype == "float32"),
                limit=1.0,
                at_least=True,
            ),
        ]
    )


_CONTENDERS: dict[str, Callable[[Sizes], Run]] = {
    "straightforward": run_straightforward,
    "ours": run_ours,
}


def _ratio(what: str, theirs: float, ours: float, least: float) -> Claim:
    return Claim(what=what, measured=theirs / max(ours, 1e-9), limit=least, at_least=True)


def _in_child(work: Callable[[Sizes], Run], sizes: Sizes) -> Run:
    """In a fresh process, whose peak of memory is nobody else's."""
    print(f"{work.__name__} ...", file=sys.stderr)
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=tracemalloc.start) as executor:
        return executor.submit(work, sizes).result()


def _print(found: dict[str, Run]) -> None:
    print_table(
        ("contender", "learning, cpu s", "wall s", "arrays, MiB", "applying, cpu s", "wall s", "dtype"),
        [
            (
                name,
                *(f"{value:.2f}" for value in (run.learned.took.cpu, run.learned.took.wall)),
                f"{run.learned.peak_mib:.0f}",
                *(f"{value:.2f}" for value in (run.applying.cpu, run.applying.wall)),
                run.dtype,
            )
            for name, run in found.items()
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
