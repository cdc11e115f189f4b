"""Training with the initial network as a teacher of photos that need no place."""

from collections import Counter
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch.optim import SGD

from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.training.auxiliary_losses.distillation import DistillationConfig, Teacher
from cnnimretrieval.training.learning.batches import load_batches
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.gradients import describe_with_gradient
from cnnimretrieval.training.learning.loop import run_loop
from cnnimretrieval.training.learning.mining import draw_epoch, examples_of_part
from cnnimretrieval.training.learning.step import Learner
from cnnimretrieval.training.settings.loop_config import LoopConfig
from cnnimretrieval.training.settings.train_config import TrainConfig
from cnnimretrieval.whitening.apply import apply
from cnnimretrieval.whitening.estimates import pca_whitening

LOOP = {
    "image_size": 40,
    "epochs": 2,
    "tuples_per_epoch": 6,
    "batch_tuples": 3,
    "negatives": {"num_negatives": 2},
    "margin": 1.2,
    "learning_rate": 1e-4,
}


@pytest.fixture
def training(collection, network, descriptions):
    """Makes a training whose teacher has these settings; the teacher sees photos at 64 px."""

    def made(distillation, **settings):
        config = LoopConfig.model_validate(LOOP | {"distillation": distillation} | settings)
        teacher = Teacher(
            network=network, descriptions=descriptions, config=config.distillation, query=config.query
        )
        whitening = pca_whitening(np.asarray(descriptions.database(network)), dim=8)
        return Training(
            network=deepcopy(network),
            collection=collection,
            config=config,
            seed=1,
            whitening=whitening,
            descriptions=descriptions,
            teacher=teacher if config.distillation.weight else None,
        )

    return made


def _examples(training):
    rng = np.random.default_rng(4)
    (drawn,) = draw_epoch(training, rng)
    return examples_of_part(training, drawn, rng)


@pytest.mark.parametrize("sampling", ["tuples", "clusters"])
def test_photos_of_the_training_side_take_turns(training, collection, sampling):
    batch_loss = {"sampling": "clusters", "loss": "supcon", "clusters_per_batch": 3}
    made = training({"weight": 1.0, "photos": 3}, **(batch_loss if sampling == "clusters" else {}))
    examples = _examples(made)
    assert [len(one) for one in examples.taught.requests] == [3] * len(examples.rows)
    drawn = Counter(request.path.name for one in examples.taught.requests for request in one)
    table = collection.table
    side = {table.names[row] for row in np.flatnonzero(~table.is_val)}
    assert "loose.png" in side
    assert set(drawn) == side
    assert max(drawn.values()) - min(drawn.values()) <= 1


@pytest.mark.parametrize("details", [False, True])
def test_the_teacher_is_the_initial_network_at_the_size_and_scales_that_are_handed_out(
    training, network, details
):
    made = training({"weight": 1.0, "details": details, "scales": (1.0, 0.5)})
    with torch.no_grad():
        for weight in made.network.parameters():
            weight.mul_(1.1)
    examples = _examples(made)
    shown = [request for one in examples.taught.requests for request in one]
    assert all((request.edit is not None) == details for request in shown)
    plain = [
        made.collection.whole(0).__class__(**{**vars(r), "rotation_deg": 0.0, "edit": None}) for r in shown
    ]
    expected = describe(network, plain, ExtractConfig(image_size=64, scales=(1.0, 0.5))).vectors
    np.testing.assert_array_equal(examples.taught.targets[:, 0], expected)


def test_the_loss_is_the_squared_distance_of_whitened_descriptors(training):
    made, plain = training({"weight": 0.7, "photos": 2}), training({})
    batch, bare = next(load_batches(_examples(made), made)), next(load_batches(_examples(plain), plain))
    assert [example.rows for example in batch] == [example.rows for example in bare]
    assert all(
        len(example.taught) == 2 and not alone.taught for example, alone in zip(batch, bare, strict=True)
    )
    with torch.no_grad():
        seen = describe_with_gradient(made, [picture for example in batch for picture in example.taught])
    whitening = made.whitening
    targets = np.concatenate([example.targets for example in batch])
    expected = (targets - whitening.mean) @ whitening.projection.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    distance = np.square(seen.numpy() - expected).sum()
    assert distance > 1e-3
    losses = [
        Learner(one, SGD(one.network.parameters(), lr=0.0)).step(b)
        for one, b in ((made, batch), (plain, bare))
    ]
    assert losses[0] - losses[1] == pytest.approx(0.7 * distance, rel=1e-4)


def test_the_more_weight_the_nearer_the_network_stays(training, tmp_path):
    moved = []
    for weight in (0.0, 1.0, 10.0):
        same_size = {"image_size": 64, "optimizer": "sgd", "learning_rate": 1e-6}
        made = training({"weight": weight, "photos": 3}, **same_size)
        before = made.descriptions.database(made.network)
        run_loop(made, tmp_path / f"c{weight}.pt", "key", lambda network: {})
        after = made.descriptions.database(made.network)
        whitened = [apply(made.whitening, vectors) for vectors in (before, after)]
        moved.append(float(np.square(whitened[0] - whitened[1]).sum()))
    assert moved[0] > moved[1] > moved[2]


def test_an_interrupted_training_ends_with_the_same_weights(trained_with_a_kill, tmp_path):
    distillation = {"weight": 1.0, "details": True, "scales": (1.0, 0.5)}
    loop = LoopConfig.model_validate(LOOP | {"distillation": distillation, "frozen_share": 0.5})
    config = TrainConfig.model_validate(
        {
            "network": {"backbone": "squeezenet1_1", "image_size": 64},
            "loop": loop,
            "watch": {"checkpoint_minutes": 0},
        }
    )
    whole, again, _ = trained_with_a_kill(config)
    assert [epoch.loss for epoch in again.train.epochs] == [epoch.loss for epoch in whole.train.epochs]
    one, other = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "broken"))
    assert one == other


def test_no_teacher_leaves_no_trace_in_what_is_written():
    assert "distillation" not in LoopConfig().model_dump()
    assert "distillation" in LoopConfig(distillation=DistillationConfig(weight=1.0)).model_dump()


@pytest.mark.parametrize("settings", [{"weight": -1.0}, {"photos": 0}, {"scales": ()}, {"scales": (9.0,)}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=r"expected|greater|at least"):
        DistillationConfig(**settings)
