"""Learning a whitening and applying it, against the reference algorithm written straightforwardly.

Both get the same made-up float32 descriptors: unit vectors, groups of neighbours match. Learning:
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

from cnnimretrieval.whitening.apply import apply
from cnnimretrieval.whitening.estimates import learn_whitening
from experiments.benchmarks.measuring.measure import Claim, Took, arguments, conclude, print_table, timed

_EPS = 1e-6
_COMPARED = 200
_ALIKE = 4
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
    """Unit rows, float32, of falling variance about a common mean; groups of neighbouring rows are alike."""
    rng = np.random.default_rng(n)
    scales = np.geomspace(1.0, 0.05, dim, dtype=np.float32)
    x = np.repeat(rng.standard_normal((-(-n // _ALIKE), dim), dtype=np.float32), _ALIKE, axis=0)[:n]
    x += 0.5 * rng.standard_normal((n, dim), dtype=np.float32)
    x *= scales
    x += 0.5
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def matching_pairs(n: int, count: int) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Queries and positives: each row in turn with the next of its group."""
    queries = np.arange(count) % (n - n % _ALIKE)
    return queries, queries - queries % _ALIKE + (queries + 1) % _ALIKE


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
    x, queries, positives = _made_up(sizes)
    tracemalloc.reset_peak()
    whitening, took = timed(lambda: learn_whitening(x, queries, positives, shrinkage=0.0))
    return _applied(_learned(took), x[:_COMPARED], sizes, lambda rows: rows, lambda x: apply(whitening, x))


def run_straightforward(sizes: Sizes) -> Run:
    """The published algorithm as it is used: float32 in; what meets a float64 matrix becomes float64."""
    rows, queries, positives = _made_up(sizes)
    few, x = rows[:_COMPARED].copy(), _as_columns(rows)
    del rows
    tracemalloc.reset_peak()
    (m, projection), took = timed(lambda: straightforward_learning(x, queries, positives))
    learned = _learned(took)
    return _applied(learned, few, sizes, _as_columns, lambda x: straightforward_applying(x, m, projection).T)


def _made_up(
    sizes: Sizes,
) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    return descriptors(sizes.learn, sizes.dim), *matching_pairs(sizes.learn, sizes.pairs)


def _as_columns(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d n"]:
    return np.ascontiguousarray(rows.T)


def _learned(took: Took) -> Learned:
    return Learned(took=took, peak_mib=tracemalloc.get_traced_memory()[1] / _MIB)


def _applied(
    learned: Learned,
    few: Float[np.ndarray, "k d"],
    sizes: Sizes,
    arrange: Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "..."]],
    whiten: Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "n d"]],
) -> Run:
    """`arrange` brings rows into the layout that `whiten` takes, outside of what is timed."""
    compared = whiten(arrange(few))
    given = arrange(descriptors(sizes.apply, sizes.dim))
    whitened, applying = timed(lambda: whiten(given))
    gram = compared @ compared.T
    return Run(learned=learned, applying=applying, dtype=str(whitened.dtype), gram=gram)


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
    return conclude(_claims(found["ours"], found["straightforward"]))


def _claims(ours: Run, theirs: Run) -> list[Claim]:
    mine, yours = ours.learned, theirs.learned
    return [
        _ratio("learning, straightforward / ours, cpu", yours.took.cpu, mine.took.cpu, 4.0),
        _ratio("learning, straightforward / ours, memory", yours.peak_mib, mine.peak_mib, 2.0),
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
