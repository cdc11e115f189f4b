"""Several folders of descriptors that are searched as one, each in a task of its own."""

import shutil

import numpy as np
import pandas as pd
import pytest

from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import extract
from cnnimretrieval.descriptors.windows import RegionConfig
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.search.folders import merged, rank_folders
from cnnimretrieval.search.one_folder import best_of
from cnnimretrieval.search.ranking import rank
from cnnimretrieval.search.rerank import RerankConfig
from cnnimretrieval.stages import search as find
from groundwork import top_k
from groundwork.executors import LocalExecutor, SerialExecutor
from groundwork.files import write_table
from groundwork.shards import Shards

CONFIG = ExtractConfig(image_size=64)


def _made_up(folder, rows, seed):
    """A folder of unit vectors whose products are exact in float32, with many ties."""
    rng = np.random.default_rng(seed)
    vectors = np.zeros((rows, 64), np.float32)
    for row in vectors:
        row[rng.choice(64, 16, replace=False)] = rng.choice([-0.25, 0.25], 16)
    folder.mkdir()
    np.save(folder / "vectors.npy", vectors)
    write_table(folder / "images.parquet", pd.DataFrame({"name": [f"{seed}-{row}" for row in range(rows)]}))
    return vectors


@pytest.mark.parametrize("top", [1, 7, 400])
def test_the_ranking_is_that_of_an_exact_search_of_all(tmp_path, top):
    sizes = (150, 3, 90)
    parts = [_made_up(tmp_path / str(seed), size, seed) for seed, size in enumerate(sizes)]
    queries = _made_up(tmp_path / "queries", 20, 9)
    expected = top_k.search(queries, Shards(parts), top)
    assert len(np.unique(expected.scores)) < expected.scores.size / 2
    names = [f"{seed}-{row}" for seed, size in enumerate(sizes) for row in range(size)]
    found = [best_of(tmp_path / str(seed), queries, top, "a network", has_regions=False) for seed in range(3)]
    for query in range(len(queries)):
        ranking = merged([of_folder[query] for of_folder in found], top)
        assert [one.name for _, one in ranking] == [names[row] for row in expected.rows[query]]
        assert [one.score for _, one in ranking] == expected.scores[query].tolist()
        assert all(one.name.startswith(f"{folder}-") for folder, one in ranking)


@pytest.fixture
def folders(network, photos, tmp_path):
    """Extracted: four of seven photos, the others with a copy of the first, and all of these."""
    parts = {"a": photos[:4], "b": [*photos[4:], photos[0]]}
    for name, some in parts.items():
        for path in some:
            (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "in" / name)
    made = {}
    for name in ("a", "b", ""):
        below = tmp_path / "in" / name
        requests = [ImageRequest(path=path) for path in sorted(below.rglob("*.png"))]
        made[name or "whole"] = extract(network, requests, below, tmp_path / f"out-{name}", CONFIG)
    return made


def test_photos_of_all_folders_are_ranked_and_called_by_their_path(network, photos, folders, tmp_path):
    queries = [ImageRequest(path=path) for path in (photos[0], photos[5])]
    expected = rank(network, folders["whole"], queries, 6, RerankConfig())
    both = [tmp_path / "out-a", tmp_path / "out-b"]
    found = rank_folders(network, both, queries, 6, SerialExecutor())
    assert [answer.query for answer in found] == [answer.query for answer in expected]
    for its, whole in zip(found, expected, strict=True):
        assert [hit.name for hit in its.hits] == [str(tmp_path / "in" / hit.name) for hit in whole.hits]
        assert [hit.score for hit in its.hits] == pytest.approx([hit.score for hit in whole.hits], abs=1e-6)
    # The same photo in both.
    assert [hit.name for hit in found[0].hits[:2]] == [
        str(tmp_path / "in" / name / "photo 0.png") for name in ("a", "b")
    ]
    with LocalExecutor(1) as executor:
        assert rank_folders(network, both, queries, 6, executor) == found


def test_regions_of_a_folder_are_ranked_as_photos(network, photos, folders, tmp_path):
    below = tmp_path / "in" / "b"
    requests = [ImageRequest(path=path) for path in sorted(below.iterdir())]
    extract(network, requests, below, tmp_path / "regions", CONFIG, regions=RegionConfig(grids=(2,)))
    both = [tmp_path / "out-a", tmp_path / "regions"]
    (answer,) = rank_folders(network, both, [ImageRequest(path=photos[5])], 20, SerialExecutor())
    assert sorted(hit.name for hit in answer.hits) == sorted(map(str, (tmp_path / "in").rglob("*.png")))
    assert answer.hits[0].name == str(below / "photo 5.png")


def test_folders_are_to_be_made_in_one_way(network, photos, folders, tmp_path):
    below, query = tmp_path / "in" / "b", [ImageRequest(path=photos[0])]
    requests = [ImageRequest(path=path) for path in sorted(below.iterdir())]
    extract(network, requests, below, tmp_path / "small", ExtractConfig(image_size=48))
    both = [tmp_path / "out-a", tmp_path / "small"]
    with pytest.raises(
        ValueError, match=r"small: expected them made as those in .*out-a, by network"
    ) as error:
        rank_folders(network, both, query, 6, SerialExecutor())
    assert str(error.value).endswith("; extract all folders in one way")
    other = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=4)
    with pytest.raises(ValueError, match=r"^descriptors: expected the network that made them"):
        rank_folders(other, both[:1], query, 6, SerialExecutor())


def test_a_damaged_folder_is_named_by_its_task(network, photos, folders, tmp_path):
    path = tmp_path / "out-b" / "vectors.npy"
    np.save(path, 3 * np.load(path))
    both = [tmp_path / "out-a", tmp_path / "out-b"]
    with pytest.raises(ValueError, match=r"^.*out-b.*extract the photos again$"):
        rank_folders(network, both, [ImageRequest(path=photos[0])], 6, SerialExecutor())


def test_several_folders_are_searched_by_global_descriptors_alone(network, photos, folders, tmp_path):
    from cnnimretrieval.api import Describer

    given = Describer(network, "cpu", None), tmp_path / "out-a", [photos[0]]
    (answer,) = find(*given, also=[tmp_path / "out-b"], top=3)
    assert [hit.name for hit in answer.hits[:2]] == [
        str(tmp_path / "in" / name / "photo 0.png") for name in ("a", "b")
    ]
    with pytest.raises(ValueError, match=r"^search: expected several folders to be searched by global"):
        find(*given, also=[tmp_path / "out-b"], rerank=RerankConfig.model_validate({"qe": {}}))
