"""The network that is handed out at other sizes of photos."""

import numpy as np
import pytest

from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.evaluation.heldout import prove
from cnnimretrieval.networks.network import NetworkConfig
from cnnimretrieval.training.fine_tune import fine_tune
from cnnimretrieval.training.proof.size_curve import size_curve
from cnnimretrieval.training.settings.loop_config import LoopConfig
from cnnimretrieval.training.settings.train_config import TrainConfig
from cnnimretrieval.whitening.apply import apply
from cnnimretrieval.whitening.estimates import pca_whitening


@pytest.mark.parametrize("whitened", [False, True])
def test_each_point_is_the_proof_at_its_size(descriptions, network, whitened):
    if whitened:
        network.whitening = pca_whitening(np.asarray(descriptions.database(network)), dim=8)
    curve = size_curve(descriptions, network, (48, 34))
    assert [point.image_size for point in curve] == [34, 48, 64]
    (situation,) = descriptions.queries.situations("report")[:1]
    asked = [descriptions.queries.requests[number] for number in situation.queries]
    searched = [descriptions.collection.whole(row) for row in situation.database]
    for point in curve:
        config = ExtractConfig(image_size=point.image_size)
        vectors = [describe(network, requests, config).vectors for requests in (asked, searched)]
        if whitened:
            vectors = [apply(network.whitening, one) for one in vectors]
        expected = prove(descriptions.queries, situation, *vectors).scores
        assert point.map == {kind: scores.map for kind, scores in expected.items()}
        assert point.seconds_per_photo > 0
    assert len({tuple(point.map.values()) for point in curve}) > 1


def test_there_is_no_curve_unless_sizes_are_asked_for(descriptions, network):
    assert size_curve(descriptions, network, ()) == ()
    assert not list(descriptions.folder.glob("*"))


def test_training_tells_the_curve_of_what_it_hands_out(pairs_dir, tmp_path):
    loop = LoopConfig(image_size=40, epochs=0)
    network = NetworkConfig(backbone="squeezenet1_1", image_size=64)
    plain, curved = (TrainConfig(network=network, loop=loop, curve_sizes=sizes) for sizes in ((), (40,)))
    without = fine_tune(pairs_dir, tmp_path / "model", plain, weights="random")
    result = fine_tune(pairs_dir, tmp_path / "model", curved, weights="random")
    assert without.train.curve == ()
    assert [point.image_size for point in result.train.curve] == [40, 64]
    assert result.evaluation == without.evaluation
    assert "curve_sizes" not in plain.model_dump()
