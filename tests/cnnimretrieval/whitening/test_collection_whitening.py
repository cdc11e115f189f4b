import numpy as np
import pytest
from safetensors.numpy import save_file

from cnnimretrieval.whitening.apply import Whitening, apply, load_whitening, save_whitening
from cnnimretrieval.whitening.estimates import learn_whitening, pca_whitening
from cnnimretrieval.whitening.moments import centred_moments, pair_moments, shrinkage_of


@pytest.fixture(scope="module")
def reference(golden):
    with np.load(golden / "whitening.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def any_reference(any_golden):
    with np.load(any_golden / "whitening.npz") as file:
        return {key: file[key] for key in file.files}


def _estimate(kind, reference, dtype=np.float64, **options) -> Whitening:
    x = reference["x"].astype(dtype)
    if kind == "pca":
        return pca_whitening(x, **options)
    return learn_whitening(x, reference["qidx"], reference["pidx"], **options)


def _signs(ours, theirs):
    """Eigenvectors have no sign: 1 or -1 for each row of a projection."""
    return np.sign((ours * theirs).sum(axis=1))


@pytest.mark.parametrize("kind", ["lw", "pca"])
def test_without_shrinkage_it_is_the_published_whitening(any_reference, kind):
    expected = any_reference[f"{kind}_P"]
    whitening = _estimate(kind, any_reference)
    np.testing.assert_allclose(whitening.mean, any_reference[f"{kind}_m"], rtol=0, atol=1e-12)
    signs = _signs(whitening.projection, expected)
    atol = 1e-9 * np.abs(expected).max()
    np.testing.assert_allclose(whitening.projection * signs[:, None], expected, rtol=0, atol=atol)
    applied = {key: rows for key, rows in any_reference.items() if key.startswith(f"{kind}_applied_")}
    for rows in applied.values():
        some = any_reference["x"][: len(rows)].astype(np.float64)
        found = apply(whitening, some, rows.shape[1])
        np.testing.assert_allclose(found * signs[: rows.shape[1]], rows, rtol=0, atol=1e-9)
    assert len(applied) == 2


@pytest.mark.parametrize("kind", ["lw", "pca"])
def test_float32_descriptors_stay_float32_and_hardly_differ(any_reference, kind):
    whitening = _estimate(kind, any_reference, np.float32)
    expected = any_reference[f"{kind}_applied_{len(any_reference['lw_m'])}"]
    applied = apply(whitening, any_reference["x"][: len(expected)])
    assert applied.dtype == np.float32
    np.testing.assert_allclose(applied @ applied.T, expected @ expected.T, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_the_reference_cannot_whiten_gives_few_bounded_axes(any_reference, dtype):
    """Fewer pairs than dimensions: the reference gives complex numbers or blows rounding up."""
    x = any_reference["deg_x"].astype(dtype)
    found = {
        "lw": learn_whitening(x, any_reference["deg_qidx"], any_reference["deg_pidx"]),
        "pca": pca_whitening(x),
    }
    for kind, whitening in found.items():
        assert whitening.projection.dtype == np.float64
        assert whitening.dim <= np.linalg.matrix_rank(x - x.mean(axis=0, dtype=np.float64))
        singular = np.linalg.svd(whitening.projection, compute_uv=False)
        assert singular.max() / singular.min() < 1e4
        theirs = np.abs(any_reference[f"deg_{kind}_P_real"]).max()
        assert np.abs(whitening.projection).max() < 0.1 * theirs
        assert "chosen for so few" in whitening.note
        rows = apply(whitening, x)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-4)


def test_differences_of_pairs_are_white_after_learned_whitening(reference):
    x = reference["x"].astype(np.float64)
    whitening = _estimate("lw", reference)
    difference = (x[reference["qidx"]] - x[reference["pidx"]]) @ whitening.projection.T
    covariance = difference.T @ difference / len(difference)
    np.testing.assert_allclose(covariance, np.eye(48), rtol=0, atol=1e-9)
    scatter = np.square((x - whitening.mean) @ whitening.projection.T).sum(axis=0)
    assert (np.diff(scatter) < 0).all()


def test_vectors_are_white_after_pca_whitening(reference):
    x = reference["x"].astype(np.float64)
    whitening = _estimate("pca", reference)
    projected = (x - whitening.mean) @ whitening.projection.T
    np.testing.assert_allclose(projected.T @ projected / len(x), np.eye(48), rtol=0, atol=1e-9)


def test_blocks_do_not_change_the_result(reference, monkeypatch):
    whole = _estimate("lw", reference, dim=20)
    rows = apply(whole, reference["x"])
    monkeypatch.setattr("cnnimretrieval.whitening.moments.BLOCK_ROWS", 37)
    np.testing.assert_allclose(
        _estimate("lw", reference, dim=20).projection, whole.projection, rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(apply(whole, reference["x"]), rows, rtol=0, atol=1e-6)


def test_dim_keeps_the_first_axes(reference):
    for kind in ("lw", "pca"):
        full, cut = _estimate(kind, reference), _estimate(kind, reference, dim=16)
        np.testing.assert_array_equal(cut.projection, full.projection[:16])
        assert cut.dim == 16


def test_fewer_pairs_than_dimensions_cannot_do_without_shrinkage(reference):
    with pytest.raises(ValueError, match=r"^learned whitening: ") as error:
        learn_whitening(reference["deg_x"], reference["deg_qidx"], reference["deg_pidx"], shrinkage=0.0)
    assert str(error.value) == (
        "learned whitening: expected at least 48 matching pairs for 48-D descriptors, got 14; "
        "mine more pairs, reduce the descriptor first, or set whitening.shrinkage"
    )


def test_the_degenerate_case_of_the_reference_is_usable(reference):
    """14 pairs of 48-D vectors: the reference gives complex numbers, with entries up to 45567."""
    x, queries, positives = (reference[key] for key in ("deg_x", "deg_qidx", "deg_pidx"))
    theirs = Whitening(
        mean=reference["deg_lw_m"], projection=reference["deg_lw_P_real"], kind="learned", note=""
    )
    ours = learn_whitening(x, queries, positives)
    assert ours.note == (
        "learned from 14 pairs and 30 descriptors, 29 of 48 dimensions, shrinkage 0.8027 chosen for so few "
        "pairs, collection_share 0"
    )
    assert ours.projection.dtype == np.float64
    assert np.abs(ours.projection).max() < 10
    # 30 vectors span 29 axes about a mean of theirs; the rest of the reference's axes are rounding.
    assert (ours.dim, theirs.dim) == (29, 48)
    # How much more one direction is amplified than another.
    singular = {name: np.linalg.svd(w.projection)[1] for name, w in (("ours", ours), ("theirs", theirs))}
    assert singular["theirs"].max() / singular["theirs"].min() > 1e4
    assert singular["ours"].max() / singular["ours"].min() < 2
    # The reference puts the pairs it has learned from at one point each, which says nothing about others.
    together = {}
    for name, whitening in (("ours", ours), ("theirs", theirs)):
        vectors = apply(whitening, x).astype(np.float64)
        together[name] = (vectors[queries] * vectors[positives]).sum(axis=1).mean()
    assert 0.8 < together["ours"] < 0.95
    assert together["theirs"] > 0.99
    # Left out of learning, a pair looks much as it does when learned from.
    unseen = []
    for left_out in range(len(queries)):
        seen = np.arange(len(queries)) != left_out
        vectors = apply(learn_whitening(x, queries[seen], positives[seen]), x)
        unseen.append(vectors[queries[left_out]] @ vectors[positives[left_out]])
    assert together["ours"] - np.mean(unseen) < 0.1
    assert learn_whitening(x, queries, positives).fingerprint() == ours.fingerprint()


@pytest.mark.parametrize("pairs", [1, 5, 40, 95, 96, 400])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_number_of_pairs_gives_a_bounded_projection(reference, pairs, dtype):
    x, queries, positives = reference["x"].astype(dtype), reference["qidx"], reference["pidx"]
    distinct = np.unique(np.stack([queries, positives], axis=1), axis=0)[:pairs]
    whitening = learn_whitening(x, distinct[:, 0], distinct[:, 1])
    assert ("chosen for so few pairs" in whitening.note) == (pairs < 96)
    singular = np.linalg.svd(whitening.projection, compute_uv=False)
    assert singular.max() / singular.min() < 1e4
    assert np.isfinite(apply(whitening, x)).all()


def test_pairs_named_twice_count_once(reference):
    x, queries, positives = reference["x"], reference["qidx"][:5], reference["pidx"][:5]
    often = learn_whitening(x, np.tile(queries, 20), np.tile(positives, 20))
    once = learn_whitening(x, queries, positives)
    np.testing.assert_allclose(often.projection, once.projection, rtol=0, atol=1e-8)


def test_the_choice_brings_the_covariance_of_few_pairs_nearer_to_the_true_one():
    rng = np.random.default_rng(0)
    true = np.diag(np.geomspace(1.0, 1e-3, 30))
    x = rng.normal(size=(80, 30)) @ np.sqrt(true)
    zeros = np.zeros_like(x)
    moments = pair_moments(x, np.arange(40), zeros, np.arange(40))
    shares = np.linspace(0.0, 1.0, 101)
    target = np.eye(30) * np.trace(moments.second) / 30
    errors = [np.linalg.norm((1 - s) * moments.second + s * target - true) for s in shares]
    chosen = shrinkage_of(moments)
    assert abs(chosen - shares[np.argmin(errors)]) < 0.15
    # The naive form of the estimate: the spread of single outer products about their mean.
    outer = [np.outer(row, row) for row in x[:40]]
    spread = sum(np.linalg.norm(one - moments.second) ** 2 for one in outer) / 40**2
    assert chosen == pytest.approx(spread / np.linalg.norm(moments.second - target) ** 2)


def test_many_float32_rows_give_the_moments_of_float64():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5000, 40)).astype(np.float32) * np.geomspace(1.0, 1e-2, 40, dtype=np.float32) + 0.3
    mean, rows = x.mean(axis=0, dtype=np.float64), rng.permutation(5000)
    for one, other in (
        (centred_moments(x, mean), centred_moments(x.astype(np.float64), mean)),
        (
            pair_moments(x, rows, x, rows[::-1]),
            pair_moments(x.astype(np.float64), rows, x.astype(np.float64), rows[::-1]),
        ),
    ):
        scale = np.sqrt(np.outer(np.diag(other.second), np.diag(other.second)))
        assert np.abs((one.second - other.second) / scale).max() < 1e-6
        assert one.fourth == pytest.approx(other.fourth, rel=1e-6)
        assert (one.count, one.rounding, other.rounding) == (5000, 1e-6, 1e-10)


@pytest.mark.parametrize("shrinkage", [0.01, 0.3, 1.0])
def test_shrinkage_bounds_the_projection_where_pairs_are_few(reference, shrinkage):
    x, queries, positives = (reference[key] for key in ("deg_x", "deg_qidx", "deg_pidx"))
    whitening = learn_whitening(x, queries, positives, shrinkage=shrinkage)
    difference = (x[queries] - x[positives]).astype(np.float64)
    mean_eigenvalue = np.square(difference).sum(axis=1).mean() / 48
    # Rows of P have at most the length 1 / sqrt(smallest eigenvalue of the shrunk covariance).
    longest = np.linalg.norm(whitening.projection, axis=1).max()
    assert longest <= (1 + 1e-9) / np.sqrt(shrinkage * mean_eigenvalue)
    # 30 vectors span no more than 30 axes; the other 18 would be noise.
    assert whitening.dim <= 30
    assert np.isfinite(apply(whitening, x)).all()
    assert whitening.note == (
        f"learned from 14 pairs and 30 descriptors, {whitening.dim} of 48 dimensions, "
        f"shrinkage {shrinkage:g}, collection_share 0"
    )


def test_full_shrinkage_of_learned_whitening_is_a_rotation_onto_principal_axes(reference):
    whitening = _estimate("lw", reference, shrinkage=1.0)
    lengths = np.linalg.norm(whitening.projection, axis=1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-9)
    gram = whitening.projection @ whitening.projection.T
    np.testing.assert_allclose(gram, np.eye(48) * lengths[0] ** 2, rtol=0, atol=1e-9 * lengths[0] ** 2)


def test_queries_may_be_other_views_than_those_in_the_collection(reference):
    x, queries, positives = (reference[key] for key in ("x", "qidx", "pidx"))
    views = x[queries[:300]]
    outside = learn_whitening(x, np.arange(300), positives[:300], query_vectors=views)
    inside = learn_whitening(x, queries[:300], positives[:300])
    np.testing.assert_array_equal(outside.projection, inside.projection)
    np.testing.assert_array_equal(outside.mean, inside.mean)


@pytest.mark.parametrize("shrinkage", [0.0, 0.2])
def test_a_whole_collection_share_is_pca_whitening_about_the_mean_of_the_queries(reference, shrinkage):
    every_row = np.arange(600)
    learned = learn_whitening(
        reference["x"], every_row, every_row[::-1], shrinkage=shrinkage, collection_share=1.0
    )
    pca = pca_whitening(reference["x"], shrinkage=shrinkage)
    np.testing.assert_allclose(learned.mean, pca.mean, rtol=0, atol=1e-12)
    # Equal up to one factor, which the L2 norm after it removes, and a rotation, which no score sees.
    ours, theirs = (whitening.projection.T @ whitening.projection for whitening in (learned, pca))
    np.testing.assert_allclose(ours / np.trace(ours), theirs / np.trace(theirs), rtol=0, atol=1e-9)


def test_the_projection_whitens_the_mixture_that_both_shares_describe(reference):
    x = reference["deg_x"].astype(np.float64)
    queries, positives = reference["deg_qidx"], reference["deg_pidx"]
    whitening = learn_whitening(x, queries, positives, shrinkage=0.1, collection_share=0.3)
    difference = x[queries] - x[positives]
    pairs = difference.T @ difference / 14
    collection = (x - x[queries].mean(axis=0)).T @ (x - x[queries].mean(axis=0))
    size = np.trace(pairs)
    mixture = (
        0.9 * (0.7 * pairs + 0.3 * size * collection / np.trace(collection)) + 0.1 * size * np.eye(48) / 48
    )
    white = whitening.projection @ mixture @ whitening.projection.T
    np.testing.assert_allclose(white, np.eye(whitening.dim), rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match=r"^whitening: expected a collection_share in \[0, 1\], got -0.1; "):
        learn_whitening(x, queries, positives, collection_share=-0.1)


def test_all_of_the_collections_share_is_pca_whitening(reference):
    x = reference["x"].astype(np.float64)
    # A query of every image makes the queries' mean that of the collection.
    rows = np.arange(len(x))
    learned = learn_whitening(x, rows, np.roll(rows, 1), shrinkage=0.3, collection_share=1.0)
    pca = pca_whitening(x, shrinkage=0.3)
    ratio = np.linalg.norm(learned.projection) / np.linalg.norm(pca.projection)
    signs = _signs(learned.projection, pca.projection)
    expected = pca.projection * signs[:, None] * ratio
    np.testing.assert_allclose(learned.projection, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_queries_may_be_other_views_than_those_of_the_collection(reference):
    x = reference["x"].astype(np.float64)
    queries, positives = reference["qidx"], reference["pidx"]
    views = x[queries] + np.random.default_rng(2).normal(scale=0.01, size=(len(queries), x.shape[1]))
    whitening = learn_whitening(x, np.arange(len(queries)), positives, query_vectors=views)
    difference = (views - x[positives]) @ whitening.projection.T
    np.testing.assert_allclose(difference.T @ difference / len(difference), np.eye(48), rtol=0, atol=1e-9)
    np.testing.assert_allclose(whitening.mean, views.mean(axis=0), rtol=0, atol=1e-12)


def test_a_collection_share_outside_the_unit_interval_is_refused(reference):
    with pytest.raises(ValueError, match=r"^whitening: ") as error:
        _estimate("lw", reference, collection_share=1.5)
    assert str(error.value) == (
        "whitening: expected a collection_share in [0, 1], got 1.5; choose one of them"
    )


def test_pca_of_few_vectors_keeps_only_the_axes_they_span(reference):
    whitening = pca_whitening(reference["deg_x"])
    assert whitening.dim == 29
    applied = apply(whitening, reference["deg_x"])
    assert np.isfinite(applied).all()
    np.testing.assert_allclose(np.linalg.norm(applied, axis=1), 1.0, atol=1e-5)
    assert whitening.note == (
        "PCA of 30 descriptors, 29 of 48 dimensions, shrinkage 0.3615 chosen for so few"
    )
    shrunk = pca_whitening(reference["deg_x"], shrinkage=0.5)
    ratio = np.linalg.norm(whitening.projection, axis=1) / np.linalg.norm(shrunk.projection, axis=1)
    assert ratio[-1] > ratio[0]


def test_a_dead_channel_costs_one_axis(reference):
    x = reference["x"].copy()
    x[:, 7] = 0.0
    for whitening in (
        pca_whitening(x),
        learn_whitening(x, reference["qidx"], reference["pidx"], shrinkage=0.1),
    ):
        assert whitening.dim == 47
        assert np.abs(whitening.projection[:, 7]).max() < 1e-6
    with pytest.raises(
        ValueError, match=r"expected pair differences in all 48 dimensions, .* set whitening.shrinkage$"
    ):
        learn_whitening(x, reference["qidx"], reference["pidx"], shrinkage=0.0)
    chosen = learn_whitening(x, reference["qidx"], reference["pidx"])
    assert chosen.dim == 47
    assert "chosen for so few pairs" in chosen.note


def test_a_file_gives_the_same_whitening_back(reference, tmp_path):
    whitening = _estimate("lw", reference, dim=10)
    save_whitening(whitening, tmp_path / "w.safetensors")
    again = load_whitening(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(again.projection, whitening.projection)
    np.testing.assert_array_equal(again.mean, whitening.mean)
    assert (again.kind, again.note) == ("learned", whitening.note)
    assert again.fingerprint() == whitening.fingerprint()
    (tmp_path / "w.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"^whitening .*: expected mean and projection, got "):
        load_whitening(tmp_path / "w.safetensors")


def test_bad_input_is_named(reference):
    x, queries, positives = reference["x"], reference["qidx"], reference["pidx"]
    with pytest.raises(
        ValueError, match=r"^whitening: expected 1 to 48 dimensions, got 49; choose one of them$"
    ):
        pca_whitening(x, dim=49)
    with pytest.raises(ValueError, match=r"^whitening: expected a shrinkage in \[0, 1\], got 1.5; "):
        pca_whitening(x, shrinkage=1.5)
    with pytest.raises(
        ValueError, match=r"expected as many queries as positives and at least one, got 400 and 399;"
    ):
        learn_whitening(x, queries, positives[:-1])
    with pytest.raises(
        ValueError,
        match=r"^learned whitening: expected positives among the rows 0 to 599, got 3 to 600; give",
    ):
        learn_whitening(x, queries[:2], np.array([600, 3]))
    with pytest.raises(ValueError, match=r"^PCA whitening: expected rows that differ, got 5 equal ones; "):
        pca_whitening(np.repeat(x[:1], 5, axis=0))
    with pytest.raises(
        ValueError, match=r"^learned whitening: expected pairs of different descriptors, got 400 pairs"
    ):
        learn_whitening(x, queries, queries, shrinkage=0.1)
    with pytest.raises(ValueError, match=r"^whitening: expected descriptors \(n, 48\), got \(600, 47\); "):
        apply(pca_whitening(x), x[:, :47])
    broken = x.copy()
    broken[3, 4] = np.nan
    with pytest.raises(ValueError, match=r"^whitening: expected finite descriptors, got NaN or infinity; "):
        pca_whitening(broken)


def test_the_same_whitening_is_the_same_file(tmp_path):
    whitening = Whitening(mean=np.zeros(3), projection=np.eye(2, 3), kind="learned", note="é")
    contents = set()
    for number in range(12):
        save_whitening(whitening, tmp_path / f"{number}.safetensors")
        contents.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(contents) == 1
    found = load_whitening(tmp_path / "0.safetensors")
    assert (found.kind, found.note) == ("learned", "é")


def test_a_whitening_of_earlier_versions_is_read(tmp_path):
    path = tmp_path / "w.safetensors"
    arrays = {"mean": np.zeros(3), "projection": np.eye(2, 3)}
    save_file(arrays, path, metadata={"kind": "pca", "note": "old"})
    assert (load_whitening(path).kind, load_whitening(path).note) == ("pca", "old")
    save_file(arrays, path, metadata={"facts": "[1"})
    with pytest.raises(ValueError, match="expected the kind learned or pca, got None"):
        load_whitening(path)
