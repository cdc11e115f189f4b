"""A training that leaves the finite numbers stops at once, says where, and keeps the last sound epoch."""

import numpy as np
import pytest
import torch

from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.training.learning.batches import load_batches
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.loop import run_loop
from cnnimretrieval.training.learning.mining import draw_epoch, examples_of_part
from cnnimretrieval.training.learning.optimiser import build_optimizer
from cnnimretrieval.training.learning.step import Learner
from cnnimretrieval.training.safeguards.checkpoint import Checkpoints
from cnnimretrieval.training.safeguards.divergence import (
    Diverged,
    check_descriptors,
    check_loss,
    check_tensors,
    listed,
)
from cnnimretrieval.training.settings.loop_config import LoopConfig
from pairs.negatives import NegativesConfig

CLUSTERS = {"loss": "supcon", "sampling": "clusters", "clusters_per_batch": 2, "memory_size": 6}


def _network(backbone: str = "squeezenet1_1"):
    return build(NetworkConfig(backbone=backbone), "random", seed=3)


def _training(collection, network=None, **settings) -> Training:
    config = LoopConfig.model_validate(
        {"image_size": 64, "epochs": 3, "tuples_per_epoch": 6, "batch_tuples": 2, "learning_rate": 1e-4}
        | {"margin": 1.2, "negatives": NegativesConfig(num_negatives=2)}
        | settings
    )
    return Training(network=network or _network(), collection=collection, config=config, seed=1)


def _run(training, folder, validate=lambda network: {}):
    return run_loop(training, folder / "checkpoint.pt", "key", validate)


def _break_at(training, epoch: int, change) -> object:
    """Change the network when an epoch's tuples are drawn: what follows is that of a training gone wrong."""

    def keep(number, tuples):
        if number == epoch:
            with torch.no_grad():
                change(training.network)

    return keep


@pytest.mark.parametrize("settings", [{}, {"loss": "triplet", "optimizer": "sgd"}, CLUSTERS])
def test_a_rate_far_too_large_is_told_as_what_it_is_within_two_steps(collection, tmp_path, settings):
    training = _training(collection, learning_rate=1e6, **settings)
    with pytest.raises(ValueError, match=r"^training, epoch 1, step \d") as error:
        _run(training, tmp_path)
    text = str(error.value)
    assert int(text.split("step ")[1].split(":")[0]) <= 2
    assert "learning rate 990050 is too large: lower train.loop.learning_rate (" in text
    assert f"(weights after epoch 0, the last sound one, are in {tmp_path / 'checkpoint.pt'})" in text
    assert "\n" not in text


@pytest.mark.parametrize("settings", [{}, CLUSTERS])
def test_the_loss_that_is_not_finite_is_told_with_its_step_and_query(collection, tmp_path, settings):
    training = _training(collection, **settings)

    def ruin(network):
        network.pool.p.fill_(torch.nan)

    with pytest.raises(ValueError, match="finite loss") as error:
        run_loop(training, tmp_path / "c.pt", "key", lambda network: {}, _break_at(training, 2, ruin))
    start, rest = str(error.value).split(" for ")
    assert start == "training, epoch 2, step 1: expected a finite loss, got nan"
    named = rest.split("; ")[0].split(", ")
    assert len(named) == (2 if settings else 1)
    assert set(named) <= set(collection.table.names)


def test_the_checkpoint_holds_the_last_sound_epoch(collection, tmp_path):
    sound = _training(collection, epochs=1)
    _run(sound, tmp_path)
    (tmp_path / "b").mkdir()
    training = _training(collection)
    with pytest.raises(ValueError, match=r"weights after epoch 1, the last sound one") as error:
        run_loop(
            training,
            tmp_path / "b" / "c.pt",
            "key",
            lambda network: {},
            _break_at(training, 2, lambda network: network.trunk.features[0].weight.fill_(torch.inf)),
        )
    assert str(tmp_path / "b" / "c.pt") in str(error.value)
    kept = _network()
    parts = {"network": kept, "optimizer": build_optimizer(kept, training.config)}
    progress = Checkpoints(tmp_path / "b" / "c.pt", "key", parts).load(most_epochs=9)
    assert progress.epoch == 1
    assert kept.fingerprint() == sound.network.fingerprint()


def test_gradients_that_overflow_are_told_by_name(collection):
    training = _training(collection, loss="supcon", batch_loss={"temperature": 1e-36})
    learner = Learner(training, torch.optim.SGD(training.network.parameters(), lr=1e-3))
    with pytest.raises(Diverged, match=r"^expected finite (gradients|loss)|^expected a finite loss"):
        _step(training, learner)


def test_an_exponent_that_explodes_is_told_by_name(collection):
    training = _training(collection)
    network = training.network
    groups = [{"params": network.trunk.parameters()}, {"params": [network.pool.p], "lr": 1e37}]
    with pytest.raises(Diverged, match=r"^expected finite weights, got [\w+.]+ in pool\.p at a loss of \d"):
        _step(training, Learner(training, torch.optim.Adam(groups, lr=1e-4)))


def test_activations_that_died_out_are_told_though_every_number_is_finite(collection, tmp_path):
    training = _training(collection, validation_epochs=3)

    def kill(network):
        network.trunk.features[0].bias.fill_(-1e6)

    with pytest.raises(ValueError, match=r"step 3: expected descriptors that differ, got the same one for"):
        run_loop(training, tmp_path / "c.pt", "key", lambda network: {}, _break_at(training, 2, kill))


@pytest.mark.parametrize("statistic", ["running_mean", "running_var"])
def test_statistics_that_are_not_finite_are_a_fault_of_the_weights_not_of_the_rate(
    collection, tmp_path, statistic
):
    network = _network("resnet18")
    getattr(network.trunk.features[1], statistic)[3] = torch.nan
    with pytest.raises(ValueError, match="descriptors") as error:
        _run(_training(collection, network), tmp_path)
    assert str(error.value).startswith("network before training: expected finite descriptors, got NaN, ")
    assert str(error.value).endswith("; its weights are damaged: start from others")


def test_weights_found_unsound_by_the_scores_do_not_reach_the_checkpoint(collection, tmp_path):
    def validate(network):
        if float(network.pool.p.detach()) != 3.0:
            raise Diverged("expected finite descriptors, got NaN or infinity for 1-0.png")
        return {}

    with pytest.raises(ValueError, match=r"^training, epoch 1, step 3: expected finite descriptors"):
        _run(_training(collection), tmp_path, validate)
    kept = _network()
    training = _training(collection)
    parts = {"network": kept, "optimizer": build_optimizer(kept, training.config)}
    progress = Checkpoints(tmp_path / "checkpoint.pt", "key", parts).load(most_epochs=9)
    assert progress.epoch == 0
    assert kept.fingerprint() == _network().fingerprint()


def test_the_same_call_goes_on_and_a_smaller_rate_starts_anew(collection, tmp_path):
    diverging = _training(collection, learning_rate=1e6)
    for _ in range(2):
        with pytest.raises(ValueError, match="epoch 1"):
            _run(_training(collection, learning_rate=1e6), tmp_path)
    assert diverging.network.fingerprint() == _network().fingerprint()
    calm = _training(collection)
    run_loop(calm, tmp_path / "checkpoint.pt", "key of the smaller rate", lambda network: {})
    (tmp_path / "fresh").mkdir()
    fresh = _training(collection)
    _run(fresh, tmp_path / "fresh")
    assert calm.network.fingerprint() == fresh.network.fingerprint()


def test_each_check_says_what_it_found():
    check_loss(0.0, ["a.jpg"])
    with pytest.raises(Diverged, match=r"^expected a finite loss, got inf for a\.jpg$"):
        check_loss(float("inf"), ["a.jpg"])
    fine, broken = torch.ones(2, 3), torch.tensor([1.0, torch.nan])
    check_tensors("weight", {"fine": fine}, 0.5, ["a.jpg"])
    with pytest.raises(Diverged) as error:
        check_tensors("weight", {"fine": fine, "broken": broken}, 0.53217, ["a.jpg", "b.jpg"])
    assert str(error.value) == (
        "expected finite weights, got nan in broken at a loss of 0.5322 for a.jpg, b.jpg"
    )
    # Finite, but its square is not: Adam would divide by infinity.
    with pytest.raises(Diverged, match=r"^expected finite gradients, got 1e\+30 in large at"):
        check_tensors("gradient", {"fine": fine, "large": torch.tensor([1e30, 0.0])}, 0.5, ["a.jpg"])


def test_descriptors_are_finite_and_differ_where_photos_do():
    rows = np.eye(3, dtype=np.float32)
    names = ["a.jpg", "b.jpg", "c.jpg"]
    check_descriptors(rows, names, differ=True)
    check_descriptors(np.ones((3, 2), np.float32), names, differ=False)
    for alike in (np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32)):
        with pytest.raises(Diverged, match=r"got the same one for a\.jpg, b\.jpg, c\.jpg"):
            check_descriptors(alike, names, differ=True)
    rows[1, 2] = np.nan
    with pytest.raises(Diverged, match=r"^expected finite descriptors, got NaN or infinity for b\.jpg$"):
        check_descriptors(rows, names, differ=False)


def test_many_names_are_shortened():
    assert listed(["a", "b", "c"]) == "a, b, c"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def _step(training, learner):
    rng = np.random.default_rng(0)
    (drawn,) = draw_epoch(training, rng)
    examples = examples_of_part(training, drawn, rng)
    return learner.step(next(load_batches(examples, training)))
