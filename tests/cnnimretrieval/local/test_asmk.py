"""Aggregated local search: against the definition, word by word and bit by bit; in blocks; damaged files."""

import numpy as np
import pytest

from cnnimretrieval.local import inverted_file
from cnnimretrieval.local.aggregation import Codebook, learn_codebook
from cnnimretrieval.local.inverted_file import AsmkConfig, build, read

NUM_PHOTOS = 30


def _unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def photos():
    """Descriptors of each photo, of different numbers; the fourth photo has none."""
    generator = np.random.default_rng(17)
    centres = generator.normal(size=(12, 20))
    counts = generator.integers(5, 40, NUM_PHOTOS)
    counts[3] = 0
    return [
        _unit(centres[generator.integers(12, size=n)] + 0.5 * generator.normal(size=(n, 20))) for n in counts
    ]


@pytest.fixture
def codebook(photos):
    return learn_codebook(np.concatenate(photos), 9, seed=1)


def _plain_words(codebook, descriptors, count):
    """Of each word the signs of the summed residuals, a descriptor at a time."""
    sums = {}
    for x in descriptors.astype(np.float64):
        distances = [float(np.linalg.norm(x - c)) for c in codebook.centres]
        for word in sorted(range(len(distances)), key=distances.__getitem__)[:count]:
            sums[word] = sums.get(word, 0.0) + (x - codebook.centres[word])
    return {word: np.where(total >= 0, 1, -1) for word, total in sums.items()}


def _plain_score(codebook, query, photo, config):
    q = _plain_words(codebook, query, config.query_words)
    x = _plain_words(codebook, photo, 1)
    if not q or not x:
        return 0.0
    likeness = [float(q[word] @ x[word]) / len(q[word]) for word in q.keys() & x.keys()]
    kernel = sum(u**config.alpha for u in likeness if u > config.threshold)
    return kernel / np.sqrt(len(q) * len(x))


@pytest.mark.parametrize(("query_words", "threshold"), [(1, 0.0), (3, 0.2), (2, 0.0)])
def test_search_is_what_the_definition_says(photos, codebook, tmp_path, query_words, threshold):
    config = AsmkConfig(words=9, query_words=query_words, threshold=threshold)
    words = (codebook.aggregate(photo) for photo in photos)
    index = build(words, NUM_PHOTOS, codebook, config, tmp_path, "key")
    for row in (5, 3, 20):
        expected = [_plain_score(codebook, photos[row], photo, config) for photo in photos]
        found = index.search(photos[row], NUM_PHOTOS)
        np.testing.assert_allclose(found.scores[0], np.array(expected)[found.rows[0]], atol=1e-6)
        order = sorted(range(NUM_PHOTOS), key=lambda n: (-round(expected[n], 6), n))
        assert found.rows[0].tolist() == order
        assert index.search(photos[row], 4).rows[0].tolist() == order[:4]


def test_a_photo_is_most_like_itself(photos, codebook, tmp_path):
    config = AsmkConfig(words=9, query_words=1)
    index = build(map(codebook.aggregate, photos), NUM_PHOTOS, codebook, config, tmp_path, "key")
    for row in (0, 7, 29):
        found = index.search(photos[row], 2)
        assert found.rows[0, 0] == row
        assert found.scores[0, 0] == pytest.approx(1.0)


def test_blocks_change_nothing(photos, codebook, tmp_path, monkeypatch):
    config = AsmkConfig(words=9)
    whole = build(map(codebook.aggregate, photos), NUM_PHOTOS, codebook, config, tmp_path / "a", "key")
    monkeypatch.setattr(inverted_file, "_BLOCK", 7)
    pieces = build(map(codebook.aggregate, photos), NUM_PHOTOS, codebook, config, tmp_path / "b", "key")
    for name in ("starts", "photos", "codes", "norms"):
        assert np.array_equal(getattr(whole, name), getattr(pieces, name)), name
    for word in range(9):
        part = whole.photos[whole.starts[word] : whole.starts[word + 1]]
        assert (np.diff(part.astype(int)) > 0).all()


def test_words_are_the_means_of_what_is_nearest_to_them():
    generator = np.random.default_rng(2)
    places = _unit(generator.normal(size=(6, 16)))
    rows = _unit(np.repeat(places, 50, axis=0) + 0.02 * generator.normal(size=(300, 16)))
    codebook = learn_codebook(rows, 4, seed=0)
    words = codebook.nearest(rows)[:, 0]
    assert set(words.tolist()) == {0, 1, 2, 3}
    means = np.stack([rows[words == word].mean(axis=0) for word in range(4)])
    np.testing.assert_allclose(codebook.centres, means, atol=1e-5)
    assert np.array_equal(learn_codebook(rows, 4, seed=0).centres, codebook.centres)
    assert not np.array_equal(learn_codebook(rows, 4, seed=1).centres, codebook.centres)


def test_fewer_features_than_words():
    with pytest.raises(ValueError, match="codebook") as fault:
        learn_codebook(np.eye(3, dtype=np.float32), 4, seed=0)
    assert str(fault.value) == (
        "codebook: expected at least 4 descriptors for as many words, got 3; ask for fewer words, or extract "
        "more photos"
    )


def test_a_damaged_file_is_told(photos, codebook, tmp_path):
    build(map(codebook.aggregate, photos), NUM_PHOTOS, codebook, AsmkConfig(words=9), tmp_path, "key")
    path = tmp_path / "asmk" / "codes.npy"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"codes\.npy: expected the file that asmk left, got it damaged"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"expected one in .*, got none; build it again"):
        read(tmp_path / "nowhere")


def test_words_of_one_photo_by_hand():
    codebook = Codebook(centres=np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], np.float32))
    found = codebook.aggregate(np.array([[0.8, 0.6, 0.0], [0.6, 0.0, -0.8]], np.float32))
    # Both are nearest to word 0: (-0.2, 0.6, 0) + (-0.4, 0, -0.8).
    assert found.words.tolist() == [0]
    assert np.unpackbits(found.codes, axis=1)[0, :3].tolist() == [0, 1, 0]
