from pathlib import Path

import numpy as np
import pytest

from cnnimretrieval.evaluation.benchmark import Benchmark, Query
from cnnimretrieval.evaluation.metrics import Relevance, score_rankings
from cnnimretrieval.evaluation.revisited_ground_truth import read_published
from cnnimretrieval.evaluation.scoring import score
from cnnimretrieval.search.diffusion import DiffusionConfig
from cnnimretrieval.search.expansion import AugmentationConfig, ExpansionConfig, augment, expand
from cnnimretrieval.search.rerank import RerankConfig
from groundwork.shards import Shards
from groundwork.top_k import search

PLAIN = RerankConfig()


def _unit(generator, n) -> np.ndarray:
    vectors = generator.normal(size=(n, 6)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def benchmark_of_chance() -> Benchmark:
    """Three queries over 40 photos; the last has no positive in one of the protocols."""
    generator = np.random.default_rng(12)
    protocols = {}
    for protocol, counts in (("near", (5, 1, 0)), ("far", (2, 7, 3))):
        judged = [generator.permutation(40)[: count + 4] for count in counts]
        protocols[protocol] = tuple(
            Relevance(positives=rows[:count], junk=rows[count:])
            for rows, count in zip(judged, counts, strict=True)
        )
    return Benchmark(
        name="chance",
        photos=Path("photos"),
        query_photos=Path("queries"),
        database=tuple(f"{number}.jpg" for number in range(40)),
        queries=tuple(Query(name=f"q{number}.jpg") for number in range(3)),
        protocols=protocols,
    )


@pytest.fixture
def vectors() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(13)
    return _unit(generator, 3), _unit(generator, 65)


def _same(ours, theirs):
    for name in ("mean_average_precision", "average_precision", "precision", "recall", "num_scored"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-12)


def test_scores_are_those_of_the_whole_rankings(benchmark_of_chance, vectors):
    queries, database = vectors
    shards = Shards([database[:40], database[40:52], database[52:]])
    found = score(benchmark_of_chance, queries, shards, np.arange(40), PLAIN)
    rankings = search(queries, database).rows
    for protocol, relevance in benchmark_of_chance.protocols.items():
        _same(found.scores[protocol], score_rankings(rankings, relevance))
    assert found.scores["near"].num_without_positives == 1
    assert (found.truncated_to, found.num_not_ranked) == (None, 0)


def test_a_photo_that_was_not_read_is_never_found(benchmark_of_chance, vectors):
    queries, database = vectors
    lost = int(benchmark_of_chance.protocols["far"][1].positives[2])
    row_of = np.arange(40) - (np.arange(40) > lost)
    row_of[lost] = -1
    without = np.delete(database, lost, axis=0)
    found = score(benchmark_of_chance, queries, without, row_of, PLAIN)
    relevance = benchmark_of_chance.protocols["far"]
    rankings = [row[row != lost] for row in search(queries, database).rows]
    _same(found.scores["far"], score_rankings(rankings, relevance))


def test_reranked_by_expansion(benchmark_of_chance, vectors):
    queries, database = vectors
    config = RerankConfig(dba=AugmentationConfig(neighbours=4), qe=ExpansionConfig(neighbours=3))
    found = score(benchmark_of_chance, queries, database, np.arange(40), config)
    augmented = augment(database, config.dba)
    rankings = search(expand(queries, augmented, config.qe), augmented).rows
    for protocol, relevance in benchmark_of_chance.protocols.items():
        _same(found.scores[protocol], score_rankings(rankings, relevance))


def test_what_lies_beyond_a_truncated_ranking_is_counted(benchmark_of_chance, vectors):
    queries, database = vectors
    config = RerankConfig(diffusion=DiffusionConfig(neighbours=4, truncation=20))
    found = score(benchmark_of_chance, queries, database, np.arange(40), config)
    best = search(queries, database, 20).rows
    beyond = 0
    for query, rows in enumerate(best):
        truths = [relevance[query] for relevance in benchmark_of_chance.protocols.values()]
        positives = {row for truth in truths for row in truth.positives.tolist()}
        beyond += len(positives - set(rows.tolist()))
    assert (found.truncated_to, found.num_not_ranked) == (20, beyond)
    assert beyond > 0
    # A positive that was not read is none that lies beyond: here one that the ranking did not reach.
    protocols = benchmark_of_chance.protocols.values()
    lost = next(
        row
        for query, rows in enumerate(best)
        for truths in protocols
        for row in truths[query].positives.tolist()
        if row not in rows
    )
    row_of = np.where(np.arange(40) == lost, -1, np.arange(40))
    fewer = score(benchmark_of_chance, queries, database, row_of, config).num_not_ranked
    assert 0 < beyond - fewer <= 3
    whole = RerankConfig(diffusion=DiffusionConfig(neighbours=4, truncation=65))
    assert score(benchmark_of_chance, queries, database, np.arange(40), whole).truncated_to is None


def _golden(shared, name) -> tuple[Benchmark, dict[str, np.ndarray]]:
    folder = shared / "golden" / "evaluation"
    short = "old" if name == "old" else name
    truth = folder / f"gnd_{short}.pkl"
    if not truth.is_file():
        pytest.skip(f"needs {truth.name} in ../shared/golden/evaluation")
    with np.load(folder / f"{short}.npz") as file:
        return read_published(truth, Path("jpg"), name), dict(file)


@pytest.mark.real
@pytest.mark.parametrize("name", ["roxford5k", "rparis6k", "old"])
@pytest.mark.parametrize("streamed", [True, False])
def test_published_ground_truth_scores_as_the_reference_does(shared, name, streamed):
    benchmark, expected = _golden(shared, name)
    queries, database = expected["queries"].astype(np.float32), expected["db"].astype(np.float32)
    if streamed:
        scores = score(benchmark, queries, database, np.arange(len(database)), PLAIN).scores
    else:
        rankings = search(queries, database).rows
        scores = {
            protocol: score_rankings(rankings, truth) for protocol, truth in benchmark.protocols.items()
        }
    for protocol, found in scores.items():
        suffix = f"_{protocol}" if protocol else ""
        assert found.cutoffs == tuple(expected["kappas"])
        for ours, theirs in (
            (found.mean_average_precision, "map"),
            (found.average_precision, "ap"),
            (found.precision, "p"),
            (found.mean_precision, "mp"),
        ):
            np.testing.assert_allclose(ours, expected[f"{theirs}{suffix}"], rtol=0, atol=1e-12)
    assert len(scores) == (1 if name == "old" else 3)


@pytest.mark.real
def test_distractors_only_lower_the_scores(shared):
    benchmark, stored = _golden(shared, "roxford5k")
    queries, database = stored["queries"].astype(np.float32), stored["db"].astype(np.float32)
    generator = np.random.default_rng(1)
    distractors = database[generator.integers(0, len(database), 20_000)]
    distractors += 0.05 * generator.normal(size=distractors.shape).astype(np.float32)
    shards = Shards([database, distractors[:9_000], distractors[9_000:]])
    found = score(benchmark, queries, shards, np.arange(len(database)), PLAIN).scores
    rankings = search(queries, np.concatenate([database, distractors])).rows
    for protocol, relevance in benchmark.protocols.items():
        _same(found[protocol], score_rankings(rankings, relevance))
        assert found[protocol].mean_average_precision < float(stored[f"map_{protocol}"])
