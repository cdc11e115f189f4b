import numpy as np
import pytest
from PIL import Image

from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import extract
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.search.ranking import rank
from cnnimretrieval.search.rerank import RerankConfig
from cnnimretrieval.whitening.apply import Whitening


def test_a_query_that_whitening_takes_everything_from_is_told(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        blocks = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((64, 48)).save(path)
    requests = [ImageRequest(path=path) for path in paths]
    network = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)
    config = ExtractConfig(image_size=64)
    plain = extract(network, requests, tmp_path, tmp_path / "plain", config)
    mean = plain.vectors[2].astype(np.float64)
    network.whitening = Whitening(mean=mean, projection=np.eye(3, 512), kind="pca", note="n")
    store = extract(network, requests[:2], tmp_path, tmp_path / "out", config)
    ranked = rank(network, store, requests[:1], 1, RerankConfig())
    assert [hit.name for hit in ranked[0].hits] == ["0.png"]
    with pytest.raises(ValueError, match="query") as error:
        rank(network, store, requests, 1, RerankConfig())
    assert str(error.value) == (
        f"query {paths[2]}: expected a descriptor of length 1, got 0 after whitening; "
        "search with another photo or network"
    )
