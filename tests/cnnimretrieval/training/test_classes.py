from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.training.fine_tune import TrainConfig, fine_tune
from cnnimretrieval.training.learning.classes import classes_of
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.loop import run_loop
from cnnimretrieval.training.local.supervision import cluster_classes
from cnnimretrieval.training.losses.margin_heads import MARGIN_HEADS, MarginConfig
from cnnimretrieval.training.settings.loop_config import LoopConfig

LOOP = LoopConfig(
    image_size=64,
    epochs=2,
    tuples_per_epoch=6,
    loss="arcface",
    sampling="clusters",
    clusters_per_batch=3,
    images_per_cluster=2,
    learning_rate=1e-4,
)


def training_of(collection, loop=LOOP):
    network = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)
    return Training(network=network, collection=collection, config=loop, seed=1)


def run(training, checkpoint):
    return run_loop(training, checkpoint, "key", lambda network: {})


def test_clusters_of_the_training_places_are_classes_and_those_of_one_place_never_compete(collection):
    table = replace(collection.table, cluster=np.where(np.arange(16) == 2, 7, collection.table.cluster))
    classes, competes = cluster_classes(table)
    # Places 0, 2 and 4 are trained on; the third photo of place 0 is a cluster of its own.
    assert classes.tolist() == [0, 0, 3, -1, -1, -1, 1, 1, 1, -1, -1, -1, 2, 2, 2, -1]
    assert competes.tolist() == [
        [False, True, True, False],
        [True, False, True, True],
        [True, True, False, True],
        [False, True, True, False],
    ]


@pytest.mark.parametrize("loss", MARGIN_HEADS)
@pytest.mark.parametrize("sampling", ["clusters", "tuples"])
def test_every_loss_over_classes_trains(collection, tmp_path, loss, sampling):
    training = training_of(collection, LOOP.model_copy(update={"loss": loss, "sampling": sampling}))
    before = {name: value.clone() for name, value in training.network.named_parameters()}
    progress = run(training, tmp_path / "checkpoint.pt")
    assert all(np.isfinite(log.loss) and log.loss > 0 for log in progress.logs[1:])
    assert any(not torch.equal(value, before[name]) for name, value in training.network.named_parameters())


def test_loss_falls_where_classes_can_be_told_apart(collection, tmp_path):
    loop = LOOP.model_copy(update={"epochs": 8, "tuples_per_epoch": 12})
    logs = run(training_of(collection, loop), tmp_path / "checkpoint.pt").logs
    assert logs[-1].loss < 0.7 * logs[1].loss


def test_an_interrupted_training_goes_on_with_its_classes(collection, tmp_path):
    whole = training_of(collection)
    run(whole, tmp_path / "whole.pt")
    run(training_of(collection, LOOP.model_copy(update={"epochs": 1})), tmp_path / "parts.pt")
    parts = training_of(collection)
    run(parts, tmp_path / "parts.pt")
    assert parts.network.fingerprint() == whole.network.fingerprint()


def test_scale_learns_when_it_is_to(collection, tmp_path):
    loop = LOOP.model_copy(update={"class_loss": MarginConfig(learned_scale=True, scale=10.0)})
    training = training_of(collection, loop)
    run(training, tmp_path / "checkpoint.pt")
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["network"]
    assert float(state["classes.scale"]) != 10.0


def test_classes_begin_as_their_mean_descriptors(collection):
    vectors = functional.normalize(torch.randn(16, 512), dim=1).numpy()

    class Known:
        def database(self, network):
            return vectors

    classes = classes_of(replace(training_of(collection), descriptions=Known()))
    cosines = classes.head.cosines(torch.from_numpy(vectors)).detach()
    known = classes.labels >= 0
    assert torch.equal(cosines[known].argmax(dim=1), classes.labels[known])


def test_a_command_of_training_takes_the_loss(pairs_dir, tmp_path):
    config = TrainConfig(network=NetworkConfig(backbone="squeezenet1_1"), loop=LOOP)
    result = fine_tune(pairs_dir, tmp_path / "model", config, weights="random")
    assert len(result.train.epochs) == 3
    assert "class_loss" not in config.model_dump(mode="json")["loop"]


def test_what_does_not_go_together_is_told(collection):
    with pytest.raises(ValueError, match="expected memory_size 0 with a loss over classes, got 8"):
        LoopConfig(loss="arcface", memory_size=8)
    one = replace(collection.table, place=np.zeros(16, np.int64), is_val=np.zeros(16, bool))
    training = training_of(replace(collection, table=one))
    with pytest.raises(ValueError, match="expected at least 2 training places to tell apart"):
        classes_of(training)
