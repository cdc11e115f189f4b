"""The benchmarks of search and of its server run on little; what they measure there proves nothing."""

import sys

import numpy as np
import pytest

from experiments.benchmarks import search, serving


def test_synthetic_descriptors_are_unit_rows_with_neighbours(tmp_path):
    rows = search.synthetic(tmp_path / "vectors.npy", 2000, 96)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    scores = rows[:200] @ rows.T
    scores[np.arange(200), np.arange(200)] = 0.0
    assert np.median(scores.max(axis=1)) > 0.5
    np.testing.assert_array_equal(search.bare(rows[:1], rows)[:1], [0])


def test_search_is_measured(monkeypatch, capsys):
    pytest.importorskip("faiss")
    words = "search --rows 3000 --dim 64 --rounds 1 --judge wall --kinds hnsw"
    monkeypatch.setattr(sys, "argv", words.split())
    assert search.main() in (0, 1)
    said = capsys.readouterr().out
    assert "holds: hnsw: recall@10: " in said
    assert said.count("exact top-100 by the bare product") == 2


@pytest.mark.slow
def test_serving_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["serving", "--rows", "500", "--requests", "10", "--mixed", "20", "--users", "3"]
    )
    assert serving.main() in (0, 1)
    assert "holds: requests that went wrong: 0 " in capsys.readouterr().out
