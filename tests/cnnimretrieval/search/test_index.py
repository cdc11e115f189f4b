"""The saved index of a folder of descriptors, against exact search."""

import numpy as np
import pandas as pd
import pytest

from cnnimretrieval.search.approximate import ApproximateConfig, library
from cnnimretrieval.search.expansion import ExpansionConfig
from cnnimretrieval.search.index import IndexMeta, SavedIndex, build_index, choose, open_index
from cnnimretrieval.search.recall import measure
from cnnimretrieval.search.rerank import RerankConfig, reranked
from groundwork.records import mark_done, record_of
from groundwork.top_k import search

pytest.importorskip("faiss")
CONFIG = ApproximateConfig(probed=8)


def _vectors(n, seed=0, dim=16):
    """Unit rows about forty centres, as photos of forty places."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(40, dim))
    rows = centres[generator.integers(0, 40, n)] + 0.5 * generator.normal(size=(n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _store(folder, vectors, key="k"):
    """What an index looks at of a folder that `extract` wrote."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "vectors.npy", vectors)
    mark_done(folder, "extract", key, outputs=[folder / "vectors.npy"])
    return np.load(folder / "vectors.npy", mmap_mode="r")


def _recall(index, vectors, queries, top=10):
    exact = search(queries, vectors, top)
    found = index.search(queries, top)
    return np.mean([len(np.intersect1d(a, b)) / top for a, b in zip(exact.rows, found.rows, strict=True)])


@pytest.mark.parametrize("kind", ["exact", "hnsw", "ivfpq"])
def test_an_index_finds_what_exact_search_finds(tmp_path, kind):
    vectors, queries = _store(tmp_path, _vectors(1500)), _vectors(30, seed=1)
    built = build_index(tmp_path, vectors, "net", kind, CONFIG)
    assert (built.kind, built.kept, built.added, built.removed) == (kind, 0, 1500, 0)
    index = open_index(tmp_path, vectors, "net")
    assert index.kind == kind
    exact, found = search(queries, vectors, 10), index.search(queries, 10)
    assert _recall(index, vectors, queries) >= 0.95
    same = found.rows == exact.rows
    np.testing.assert_allclose(found.scores[same], exact.scores[same], rtol=0, atol=1e-6)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    np.testing.assert_array_equal(index.search(queries).rows, search(queries, vectors).rows)


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_rows_are_added_and_removed_without_building_anew(tmp_path, kind, monkeypatch):
    first, more, queries = _vectors(1500), _vectors(300, seed=2), _vectors(30, seed=1)
    build_index(tmp_path, _store(tmp_path, first), "net", kind, CONFIG)
    # Rows 0 to 99 are gone, new ones stand between those that stay, one of them twice, in another order.
    changed = np.concatenate([more[:200], first[:99:-1], more[200:], first[500:501]])
    vectors = _store(tmp_path, changed)
    monkeypatch.setattr("cnnimretrieval.search.approximate.build", None)
    built = build_index(tmp_path, vectors, "net", kind, CONFIG)
    assert (built.kept, built.added, built.removed) == (1400, 301, 100)
    index = open_index(tmp_path, vectors, "net")
    assert _recall(index, vectors, queries) >= 0.95
    assert _recall(index, vectors, more, top=1) >= 0.98  # what was added is found
    removed = index.search(first[:100], 5)
    assert removed.scores[:, 0].max() < 1.0 - 1e-4
    # What was removed and comes back is known again.
    back = _store(tmp_path, np.concatenate([changed, first[:100]]))
    built = build_index(tmp_path, back, "net", kind, CONFIG)
    assert (built.kept, built.added, built.removed) == (1801, 0, 0)
    assert open_index(tmp_path, back, "net").search(first[:100], 1).scores.min() > 1.0 - 1e-5


def test_an_index_is_built_anew_when_most_of_it_is_gone_or_made_otherwise(tmp_path):
    vectors = _vectors(1200)
    build_index(tmp_path, _store(tmp_path, vectors), "net", "hnsw", CONFIG)
    unchanged = build_index(tmp_path, _store(tmp_path, vectors, "renamed"), "net", "hnsw", CONFIG)
    assert (unchanged.kept, unchanged.added) == (1200, 0)
    few = _store(tmp_path, vectors[:300])
    built = build_index(tmp_path, few, "net", "hnsw", CONFIG)
    assert (built.kept, built.added) == (0, 300)
    assert len(np.load(tmp_path / "index" / "rows.npy")) == 300
    built = build_index(tmp_path, few, "other net", "hnsw", CONFIG)
    assert (built.kept, built.added) == (0, 300)
    built = build_index(tmp_path, few, "other net", "exact", CONFIG)
    assert (built.kept, built.added) == (0, 300)
    assert not (tmp_path / "index").exists()


def test_the_same_descriptors_give_the_same_index(tmp_path):
    for name in ("a", "b"):
        build_index(tmp_path / name, _store(tmp_path / name, _vectors(1000)), "net", "hnsw", CONFIG)
    files = [(tmp_path / name / "index" / "index.faiss").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]


def _said(folder, vectors, network="net"):
    with pytest.raises(ValueError, match="index") as error:
        open_index(folder, vectors, network)
    return str(error.value)


def test_an_index_that_does_not_fit_is_told(tmp_path):
    vectors = _store(tmp_path, _vectors(1000))
    assert open_index(tmp_path, vectors, "net").graph is None  # none was saved: exact
    build_index(tmp_path, vectors, "net", "hnsw", CONFIG)
    where = tmp_path / "index"
    assert _said(tmp_path, vectors, "a new network") == (
        f"index {where}: expected one of the network that made the descriptors (a new networ), got one of "
        "another (net); run index again"
    )
    other = _store(tmp_path, _vectors(900, seed=3))
    assert _said(tmp_path, other) == (
        f"index {where}: expected one of the 900 descriptors that are there, got one of others; "
        "run index again, which adds and removes what changed"
    )
    (where / "index.faiss").write_bytes(b"other")
    assert _said(tmp_path, other) == (
        f"{where}/index.faiss: expected the file that index left, got it damaged, or changed since; "
        "run index again"
    )
    built = build_index(tmp_path, other, "net", "hnsw", CONFIG)
    assert built.added == 900
    (tmp_path / "done" / "index.json").unlink()
    assert _said(tmp_path, other) == (
        f"index {where}: expected one that was built to its end, got no record of it; run index again"
    )
    record = record_of(tmp_path, "extract")
    mark_done(tmp_path, "index", record.outputs["vectors.npy"].sha256, basis={"version": 9})
    assert "expected version 1, got that of another release; run index again" in _said(tmp_path, other)
    (where / "index.faiss").write_bytes(b"no index at all")
    meta = IndexMeta(kind="hnsw", network="net").model_dump(mode="json")
    mark_done(tmp_path, "index", record.outputs["vectors.npy"].sha256, basis=meta)
    assert "expected an index of faiss, got none" in _said(tmp_path, other)


def test_too_few_descriptors_teach_no_codes(tmp_path):
    with pytest.raises(ValueError, match="ivfpq") as error:
        build_index(tmp_path, _store(tmp_path, _vectors(50)), "net", "ivfpq", CONFIG)
    assert str(error.value) == (
        "--kind ivfpq: expected at least 1,000 descriptors to learn codes from, got 50; "
        "use exact, which is quick for so few"
    )


def test_without_faiss_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(
        RuntimeError, match=r"^faiss: expected the package for approximate search, got none; "
    ):
        library()


@pytest.mark.parametrize(
    ("n", "dim", "free", "kind"),
    [
        (100_000, 512, 0, "exact"),
        (1 << 20, 512, 0, "exact"),
        ((1 << 20) + 1, 512, 10 << 30, "hnsw"),
        ((1 << 20) + 1, 512, 2 << 30, "ivfpq"),
        (300_000, 2048, 10 << 30, "hnsw"),
    ],
)
def test_the_kind_follows_from_size_and_memory(n, dim, free, kind):
    assert choose(n, dim, free) == kind


def test_quality_counts_what_exact_search_finds(tmp_path):
    vectors = _store(tmp_path, _vectors(400))
    assert measure(SavedIndex(kind="exact", vectors=vectors, config=CONFIG)).recall == 1.0
    assert measure(SavedIndex(kind="exact", vectors=vectors[:1], config=CONFIG)).recall == 1.0

    class Half(SavedIndex):
        def search(self, queries, top=None):
            found = search(queries, vectors, top)
            found.rows[:, 1::2] = np.arange(len(vectors))[::-1][: top // 2]  # others, mostly
            return found

    assert 0.4 < measure(Half(kind="hnsw", vectors=vectors, config=CONFIG)).recall < 0.7


def test_expansion_and_ranking_go_through_the_index():
    vectors, queries = _vectors(300), _vectors(4, seed=1)
    asked = []

    def nearest(queries, top):
        asked.append(top)
        return search(queries, vectors, top)

    steps = RerankConfig(qe=ExpansionConfig(neighbours=7))
    found = [ranking.rows[0] for ranking in reranked(queries, vectors, steps, 5, nearest)]
    plain = [ranking.rows[0] for ranking in reranked(queries, vectors, steps, 5)]
    np.testing.assert_array_equal(found, plain)
    assert asked == [7, 5]
    augmented = RerankConfig.model_validate({"dba": {}, "qe": {}})
    list(reranked(queries, vectors, augmented, 5, nearest))
    assert asked == [7, 5]  # an augmented database is another one than the index knows


def test_equal_rows_keep_their_order(tmp_path):
    vectors = _store(tmp_path, np.repeat(_vectors(500), 2, axis=0))
    build_index(tmp_path, vectors, "net", "hnsw", CONFIG)
    found = open_index(tmp_path, vectors, "net").search(np.asarray(vectors[:40:2]), 2)
    pd.testing.assert_frame_equal(
        pd.DataFrame(found.rows), pd.DataFrame({0: np.arange(0, 40, 2), 1: np.arange(1, 40, 2)})
    )
