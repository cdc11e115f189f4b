"""Windows beside whole photos: where they lie, what is stored, and that the best one is a photo's score."""

import numpy as np
import pandas as pd
import pytest

from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import extract, read_store
from cnnimretrieval.descriptors.windows import RegionConfig, windows, with_windows
from cnnimretrieval.evaluation.benchmark import Benchmark, Query
from cnnimretrieval.evaluation.evaluate import EvaluationConfig, ReadyDescriptors, evaluate
from cnnimretrieval.evaluation.metrics import Relevance, score_rankings
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.search.approximate import ApproximateConfig
from cnnimretrieval.search.diffusion import DiffusionConfig, diffuse
from cnnimretrieval.search.expansion import AugmentationConfig, ExpansionConfig, expand
from cnnimretrieval.search.index import build_index, open_index
from cnnimretrieval.search.photo_rows import ByPhoto, PhotoRows
from cnnimretrieval.search.ranking import rank
from cnnimretrieval.search.rerank import RerankConfig, reranked
from groundwork.top_k import search

SMALL = ExtractConfig(image_size=96)
TWO = RegionConfig(grids=(2,))


def _unit(n, seed=3, dim=6):
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _plain(queries, database, photo_of, top):
    """Each photo by its best row, one photo and one row after the other."""
    found = []
    for query in queries:
        best = {}
        for row, vector in enumerate(database):
            score = float(np.float32(query @ vector))
            photo = int(photo_of[row])
            if photo not in best or score > best[photo][0]:
                best[photo] = (score, row)
        found.append(sorted(best.values(), key=lambda one: (-one[0], one[1]))[:top])
    return found


def test_windows_reach_from_edge_to_edge_and_overlap_by_half():
    assert windows(90, 60, TWO) == (
        *((0.0, 0.0, 60.0, 40.0), (30.0, 0.0, 90.0, 40.0)),
        *((0.0, 20.0, 60.0, 60.0), (30.0, 20.0, 90.0, 60.0)),
    )
    both = windows(91, 47, RegionConfig(grids=(3, 2)))
    assert len(both) == 9 + 4
    assert both[4] == (22.0, 12.0, 68.0, 36.0)
    assert max(box[2] for box in both[:9]) == 91.0
    assert max(box[3] for box in both[:9]) == 47.0


@pytest.mark.parametrize("grids", [(1,), (7,), (2, 2), ()])
def test_other_grids_are_refused(grids):
    with pytest.raises(ValueError, match=r"regions: expected different numbers|at least 1 item"):
        RegionConfig(grids=grids)


def test_windows_are_rows_behind_their_photo_and_reused(network, photos, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    requests = [ImageRequest(path=path) for path in [photos[0], tmp_path / "bad.png", *photos[1:]]]
    extract(network, requests, tmp_path, tmp_path / "out", SMALL)
    assert "regions" not in (tmp_path / "out" / "meta.json").read_text()
    found = extract(network, requests, tmp_path, tmp_path / "out", SMALL, regions=TWO)
    new = extract(network, requests, tmp_path, tmp_path / "new", SMALL, regions=TWO)
    readable = [requests[0], *requests[2:]]
    np.testing.assert_array_equal(
        found.vectors, describe(network, with_windows(readable, TWO), SMALL).vectors
    )
    np.testing.assert_array_equal(new.vectors, found.vectors)
    assert found.images["name"].tolist() == [path.name for path in photos for _ in range(5)]
    assert found.images["x1"].isna().tolist() == [True, False, False, False, False] * len(photos)
    assert found.rejected["name"].tolist() == ["bad.png"]
    assert read_store(tmp_path / "out").meta.regions == TWO
    assert found.photo_request(3) == ImageRequest(path=photos[0].resolve())


def test_a_window_that_is_too_small_is_no_rejected_photo(network, tmp_path, photos):
    tiny = ExtractConfig(image_size=20)
    found = extract(network, [ImageRequest(path=photos[0])], tmp_path, tmp_path / "out", tiny, regions=TWO)
    assert found.images["x1"].isna().tolist() == [True]
    assert not len(found.rejected)


def test_parts_of_photos_have_no_windows(network, photos, tmp_path):
    boxed = ImageRequest(path=photos[1], box=(8.0, 4.0, 40.0, 32.0))
    with pytest.raises(ValueError, match="regions") as error:
        extract(network, [boxed], tmp_path, tmp_path / "out", SMALL, regions=TWO)
    assert str(error.value) == (
        f"regions of {photos[1]}: expected a whole photo, got the box (8.0, 4.0, 40.0, 32.0); leave out the "
        "regions or the boxes"
    )


@pytest.mark.parametrize("top", [1, 3, 8, 50])
def test_a_photo_is_ranked_by_the_best_of_its_rows(top):
    names = pd.Series([*"aaaabbbbbccdeeee", *"gggghhhhiiii"])
    database, queries = _unit(len(names)), _unit(5, seed=4)
    database[9] = database[4]  # of one photo, equally good
    rows = PhotoRows.of_names(names)
    found = ByPhoto(rows, database)(queries, top)
    expected = _plain(queries, database, names.map(ord), top)
    assert found.rows.tolist() == [[row for _, row in one] for one in expected]
    np.testing.assert_allclose(found.scores, [[score for score, _ in one] for one in expected], atol=1e-6)
    assert rows.best(queries[0], 4, database) == 4 + int(np.argmax(database[4:9] @ queries[0]))


def test_several_databases_lie_below_each_other():
    one = PhotoRows.of_names(pd.Series([*"aab"]))
    assert PhotoRows.below_each_other([2, one, one]).first_row.tolist() == [0, 1, 2, 2, 4, 5, 5, 7]


def test_steps_take_one_row_of_a_photo():
    names = pd.Series([name for name in "abcdefghij" for _ in range(4)])
    database, queries = _unit(40), _unit(2, seed=9)
    by_photo = ByPhoto(PhotoRows.of_names(names), database)
    config = RerankConfig(qe=ExpansionConfig(neighbours=3))
    moved = expand(queries, database, ExpansionConfig(neighbours=3), by_photo)
    found = [ranking.rows[0].tolist() for ranking in reranked(queries, database, config, 6, by_photo)]
    assert found == by_photo(moved, 6).rows.tolist()
    config = RerankConfig(diffusion=DiffusionConfig(truncation=7, neighbours=3, query_neighbours=2))
    for query, ranking in zip(queries, reranked(queries, database, config, 10, by_photo), strict=True):
        among = np.sort(by_photo(query[None], 7).rows[0])
        (alone,) = diffuse(query[None], database[among], config.diffusion)
        assert ranking.rows[0].tolist() == among[alone.rows[0]].tolist()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            RerankConfig(dba=AugmentationConfig()),
            "dba: expected one descriptor a photo, got those of regions, too; leave it out, or extract "
            "without --regions",
        ),
        (
            RerankConfig(diffusion=DiffusionConfig()),
            "diffusion.truncation: expected a number for descriptors of regions, got none; add "
            "diffusion:truncation=1000, or extract without --regions",
        ),
    ],
)
def test_steps_over_all_rows_are_refused(config, said):
    by_photo = ByPhoto(PhotoRows.of_names(pd.Series([*"aabb"])), _unit(4))
    with pytest.raises(ValueError, match="expected") as error:
        list(reranked(_unit(1), _unit(4), config, 2, by_photo))
    assert str(error.value) == said


@pytest.fixture
def folder(network, photos, tmp_path):
    requests = [ImageRequest(path=path) for path in photos]
    extract(network, requests, tmp_path, tmp_path / "out", SMALL, regions=TWO)
    return tmp_path / "out"


def test_search_finds_each_photo_once_with_the_window_that_matched(network, photos, folder):
    store = read_store(folder)
    query = ImageRequest(path=photos[2], box=store.request(12).box)
    (answer,) = rank(network, store, [query], 20, RerankConfig())
    expected = _plain(describe(network, [query], SMALL).vectors, store.vectors, np.arange(35) // 5, 20)[0]
    assert [hit.name for hit in answer.hits] == [photos[row // 5].name for _, row in expected]
    assert answer.hits[0].name == photos[2].name
    assert answer.hits[0].box == store.request(12).box
    graph = pytest.importorskip("faiss") and folder
    build_index(graph, store.vectors, store.meta.network, "hnsw", ApproximateConfig())
    index = open_index(graph, store.vectors, store.meta.network)
    (again,) = rank(network, store, [query], 3, RerankConfig(), nearest=index.search)
    assert [hit.name for hit in again.hits] == [hit.name for hit in answer.hits[:3]]


def test_geometry_looks_at_whole_photos(network, photos, folder):
    pytest.importorskip("cv2")
    store = read_store(folder)
    steps = RerankConfig(spatial={"features": "sift", "candidates": 3, "min_inliers": 4})
    rank(network, store, [ImageRequest(path=photos[2])], 3, steps, folder=folder)
    kept = list((folder / "keypoints").rglob("*.npz")) or list((folder / "keypoints").rglob("*.*"))
    assert 0 < len(kept) <= 3  # the query is one of the photos


def test_another_network_is_refused(photos, folder):
    other = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=4)
    with pytest.raises(ValueError, match="expected the network that made them"):
        rank(other, read_store(folder), [ImageRequest(path=photos[0])], 1, RerankConfig())


@pytest.mark.parametrize("qe", [None, ExpansionConfig(neighbours=2)])
def test_evaluation_ranks_photos(network, photos, folder, tmp_path, qe):
    names = [path.name for path in photos]
    plain = tmp_path / "plain"
    extract(network, [ImageRequest(path=path) for path in photos[5:]], tmp_path, plain, SMALL)
    relevance = (
        Relevance(positives=np.array([1, 3]), junk=np.array([0])),
        Relevance(positives=np.array([4]), junk=np.array([2])),
    )
    benchmark = Benchmark(
        name="few",
        photos=tmp_path,
        query_photos=tmp_path,
        database=tuple(names[:5]),  # two of the folder are not searched
        queries=(Query(name=names[0], box=(4.0, 4.0, 60.0, 40.0)), Query(name=names[2])),
        protocols={"all": relevance},
    )
    ready = ReadyDescriptors(database=folder, distractors=(plain, folder))
    found = evaluate(network, benchmark, EvaluationConfig(rerank=RerankConfig(qe=qe)), ready)
    whole, others = np.asarray(read_store(folder).vectors), np.asarray(read_store(plain).vectors)
    database = np.concatenate([whole[:25], others, whole])
    photo_of = np.concatenate([np.arange(25) // 5, [5, 6], 7 + np.arange(35) // 5])
    queries = describe(network, benchmark.query_requests(), SMALL).vectors
    if qe is not None:
        near = [[row for _, row in one] for one in _plain(queries, database, photo_of, 2)]
        weights = np.einsum("qd,qnd->qn", queries, database[near]).clip(min=0) ** qe.alpha
        queries = queries + np.einsum("qn,qnd->qd", weights, database[near])
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    rankings = [[photo_of[row] for _, row in one] for one in _plain(queries, database, photo_of, 99)]
    expected = score_rankings(np.array(rankings), relevance)
    assert found.scored.scores["all"].mean_average_precision == pytest.approx(expected.mean_average_precision)
    assert found.num_distractors == 2 + 7


def test_a_plain_ranking_is_untouched():
    database, queries = _unit(12), _unit(3, seed=8)
    rows = ByPhoto(PhotoRows.below_each_other([12]), database)(queries, 5)
    assert rows.rows.tolist() == search(queries, database, 5).rows.tolist()
