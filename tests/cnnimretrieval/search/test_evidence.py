"""Search and evaluation with a spatial step on photos: by SIFT, by a local head, and what is wrong."""

import numpy as np
import pytest
from PIL import Image

from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import extract
from cnnimretrieval.evaluation.benchmark import Benchmark, Query
from cnnimretrieval.evaluation.evaluate import EvaluationConfig, ReadyDescriptors, evaluate
from cnnimretrieval.evaluation.metrics import Relevance
from cnnimretrieval.local.extract import extract_local
from cnnimretrieval.local.inverted_file import AsmkConfig, index_locally
from cnnimretrieval.local.pyramid import PyramidConfig
from cnnimretrieval.local.store import read_local
from cnnimretrieval.networks.local_head import LocalConfig
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.search.expansion import ExpansionConfig
from cnnimretrieval.search.ranking import rank, rank_locally
from cnnimretrieval.search.rerank import RerankConfig

SIFT = RerankConfig.model_validate({"spatial": {"features": "sift", "max_ratio": 0.95}})
LOCAL = RerankConfig.model_validate({"spatial": {"features": "local", "max_ratio": 1.0}})
PYRAMID = PyramidConfig(image_size=160, scales=(1.0,), number=200)


@pytest.fixture(scope="module")
def with_head():
    config = NetworkConfig(backbone="resnet18", local=LocalConfig(attention="norm", dim=64))
    return build(config, "random", seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven drawn photos; number 5 is number 2 shifted and darker."""
    root = tmp_path_factory.mktemp("collection")
    generator = np.random.default_rng(4)
    for number in range(5):
        blocks = generator.integers(0, 256, (14, 18, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((216, 168), Image.Resampling.BICUBIC).save(root / f"{number}.png")
    with Image.open(root / "2.png") as photo:
        photo.crop((20, 16, 212, 164)).point(lambda level: level * 0.8).save(root / "5.png")
    Image.new("RGB", (120, 100), (128, 128, 128)).save(root / "6.png")
    return root


def _requests(folder):
    return [ImageRequest(path=path) for path in sorted(folder.glob("*.png"))]


@pytest.fixture(scope="module")
def extracted(with_head, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("extracted")
    store = extract(with_head, _requests(folder), folder, out, ExtractConfig(image_size=160))
    extract_local(with_head, _requests(folder), folder, out, PYRAMID)
    return store, out


@pytest.mark.parametrize("rerank", [SIFT, LOCAL], ids=["sift", "local"])
def test_the_photo_of_the_same_comes_first(with_head, extracted, folder, rerank):
    store, out = extracted
    query = ImageRequest(path=folder / "5.png")
    (answer,) = rank(with_head, store, [query], 7, rerank, folder=out)
    assert [hit.name for hit in answer.hits[:2]] == ["5.png", "2.png"]
    assert answer.hits[1].inliers >= 12
    assert {hit.name: hit.inliers for hit in answer.hits}["6.png"] < 12
    (again,) = rank(with_head, store, [query], 7, rerank, folder=out)
    assert again == answer


@pytest.mark.parametrize("rerank", [SIFT, LOCAL], ids=["sift", "local"])
def test_evaluation_with_ready_and_with_made_descriptors(with_head, extracted, folder, rerank):
    _, out = extracted
    benchmark = Benchmark(
        name="drawn",
        photos=folder,
        query_photos=folder,
        database=tuple(f"{number}.png" for number in range(7)),
        queries=(Query(name="5.png"), Query(name="1.png", box=(30.0, 20.0, 190.0, 150.0))),
        protocols={
            "": (
                Relevance(positives=np.array([2]), junk=np.array([5])),
                Relevance(positives=np.array([1]), junk=np.array([3])),
            )
        },
    )
    config = EvaluationConfig(extraction=ExtractConfig(image_size=160), rerank=rerank)
    for ready in (ReadyDescriptors(database=out), ReadyDescriptors()):
        found = evaluate(with_head, benchmark, config, ready)
        scores = found.scored.scores[""]
        assert scores.average_precision[0] == 1.0
        # A small part of a photo is too little for a network that has learned nothing.
        assert rerank is LOCAL or scores.average_precision[1] == 1.0


def test_a_network_without_local_head(extracted, folder):
    _, out = extracted
    plain = build(NetworkConfig(backbone="resnet18"), "random", seed=3)
    bare = extract(plain, _requests(folder), folder, out.parent / "bare", ExtractConfig(image_size=160))
    with pytest.raises(ValueError, match="local head") as fault:
        rank(plain, bare, [ImageRequest(path=folder / "1.png")], 3, LOCAL, folder=out.parent / "bare")
    assert str(fault.value) == (
        "spatial re-ranking: expected a network with a local head, got resnet18:gem without; add "
        "features=sift, which needs none"
    )


def test_a_folder_without_local_features(with_head, folder, tmp_path):
    store = extract(with_head, _requests(folder), folder, tmp_path, ExtractConfig(image_size=160))
    with pytest.raises(FileNotFoundError, match="expected a folder that was extracted with --local, got"):
        rank(with_head, store, [ImageRequest(path=folder / "1.png")], 3, LOCAL, folder=tmp_path)


def test_local_features_of_other_photos(with_head, folder, tmp_path):
    requests = _requests(folder)
    extract(with_head, requests[:3], folder, tmp_path, ExtractConfig(image_size=160))
    extract_local(with_head, requests[:3], folder, tmp_path, PYRAMID)
    store = extract(with_head, requests[:4], folder, tmp_path, ExtractConfig(image_size=160))
    with pytest.raises(ValueError, match="local features") as fault:
        rank(with_head, store, [requests[0]], 3, LOCAL, folder=tmp_path)
    assert str(fault.value) == (
        f"local features {tmp_path / 'local'}: expected those of the 4 photos in {tmp_path}, got those of 3 "
        "others; extract the photos again with --local"
    )


def test_truncated_local_features(with_head, folder, tmp_path):
    requests = _requests(folder)
    store = extract(with_head, requests, folder, tmp_path, ExtractConfig(image_size=160))
    extract_local(with_head, requests, folder, tmp_path, PYRAMID)
    (file,) = tmp_path.rglob("shard-*/descriptors.npy")
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"descriptors\.npy: expected the file that local left"):
        rank(with_head, store, [requests[0]], 3, LOCAL, folder=tmp_path)


def test_search_by_aggregated_local_features(with_head, extracted, folder):
    store, out = extracted
    index = index_locally(read_local(out), out, AsmkConfig(words=24))
    assert len(index.norms) == 7
    requests = _requests(folder)
    for rerank in (RerankConfig(), LOCAL):
        (answer,) = rank_locally(with_head, store, [requests[5]], 3, rerank, out)
        assert answer.hits[0].name == "5.png"
        assert len(answer.hits) == 3
    assert answer.hits[1].name == "2.png"
    assert index_locally(read_local(out), out, AsmkConfig(words=24)).config == index.config
    with pytest.raises(ValueError, match="expected no re-ranking but spatial"):
        rank_locally(with_head, store, [requests[5]], 3, RerankConfig(qe=ExpansionConfig()), out)


def test_an_index_of_other_local_features(with_head, folder, tmp_path):
    requests = _requests(folder)
    config = ExtractConfig(image_size=160)
    store = extract(with_head, requests, folder, tmp_path, config)
    with pytest.raises(FileNotFoundError, match="extracted with --local"):
        rank_locally(with_head, store, [requests[0]], 3, RerankConfig(), tmp_path)
    extract_local(with_head, requests, folder, tmp_path, PYRAMID)
    with pytest.raises(FileNotFoundError, match="local index: expected one in"):
        rank_locally(with_head, store, [requests[0]], 3, RerankConfig(), tmp_path)
    index_locally(read_local(tmp_path), tmp_path, AsmkConfig(words=8))
    extract_local(with_head, requests, folder, tmp_path, PYRAMID.model_copy(update={"number": 50}))
    with pytest.raises(ValueError, match="local index") as fault:
        rank_locally(with_head, store, [requests[0]], 3, RerankConfig(), tmp_path)
    assert str(fault.value) == (
        f"local index {tmp_path / 'asmk'}: expected that of the local features in {tmp_path}, got one of "
        "others; build it again with index --local"
    )
