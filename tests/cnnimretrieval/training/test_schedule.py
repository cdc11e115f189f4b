"""Rates over a training, the average of its weights, stopping early, and steps that are left out."""

import logging
import math

import pytest
import torch

from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.loop import run_loop
from cnnimretrieval.training.learning.optimiser import build_optimizer
from cnnimretrieval.training.learning.step import Learner
from cnnimretrieval.training.safeguards.checkpoint import EpochLog
from cnnimretrieval.training.safeguards.early_stopping import is_best, out_of_patience
from cnnimretrieval.training.settings.loop_config import LoopConfig
from cnnimretrieval.training.settings.schedule import ScheduleConfig
from cnnimretrieval.training.settings.train_config import TrainConfig


def _loop(**settings) -> LoopConfig:
    return LoopConfig.model_validate(
        {"image_size": 64, "epochs": 3, "tuples_per_epoch": 6, "batch_tuples": 2, "margin": 1.2}
        | {"learning_rate": 1e-3, "negatives": {"num_negatives": 1}}
        | settings
    )


def _training(collection, **settings) -> Training:
    network = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)
    return Training(network=network, collection=collection, config=_loop(**settings), seed=1)


@pytest.fixture
def rates(monkeypatch):
    """The rate of the trunk in each step, and the weights after it."""
    seen, weights = [], []
    real = Learner.step

    def step(self, batch):
        found = real(self, batch)
        seen.append(self._optimizer.param_groups[0]["lr"])
        weights.append([w.detach().clone() for w in self._training.network.parameters()])
        return found

    monkeypatch.setattr(Learner, "step", step)
    return seen, weights


def test_the_published_rate_falls_between_epochs_only(collection, tmp_path, rates):
    run_loop(_training(collection), tmp_path / "c.pt", "key", lambda network: {})
    assert rates[0] == [1e-3 * math.exp(-0.01 * epoch) for epoch in (1, 1, 1, 2, 2, 2, 3, 3, 3)]


def test_a_cosine_falls_from_step_to_step_after_the_warm_up(collection, tmp_path, rates):
    schedule = {"kind": "cosine", "warmup_steps": 3, "last_share": 0.1}
    progress = run_loop(
        _training(collection, schedule=schedule), tmp_path / "c.pt", "key", lambda network: {}
    )
    cosine = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / 9)) for step in range(9)]
    warm = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1]
    assert rates[0] == pytest.approx([1e-3 * c * w for c, w in zip(cosine, warm, strict=True)], rel=1e-12)
    assert progress.logs[-1].learning_rate == pytest.approx(rates[0][-1])
    # The same as torch's, which ends where the next epoch would begin.
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-3)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9, eta_min=1e-4)
    for expected in cosine:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * expected)
        optimizer.step()
        reference.step()
    assert _loop(schedule=schedule).rate(3, 3) == pytest.approx(1e-4)


def test_a_cosine_falls_along_the_steps_of_as_many_clusters_as_there_are(descriptions, tmp_path, rates):
    """Eight clusters were asked for and there are three: a step learns from three queries, not eight."""
    clusters = {"loss": "supcon", "sampling": "clusters", "clusters_per_batch": 8, "images_per_cluster": 2}
    loop = _loop(schedule={"kind": "cosine"}, epochs=2, tuples_per_epoch=7, **clusters)
    initial = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)
    training = Training.of(initial, descriptions, TrainConfig(loop=loop, seed=1))
    run_loop(training, tmp_path / "c.pt", "key", lambda network: {})
    cosine = [0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    assert rates[0] == pytest.approx([1e-3 * share for share in cosine], rel=1e-12)


def test_a_constant_rate_stays():
    config = _loop(schedule=ScheduleConfig(kind="constant", warmup_steps=1))
    assert [config.rate(1), config.rate(1, 1), config.rate(3, 2)] == [5e-4, 1e-3, 1e-3]


def test_steps_of_an_epoch_are_those_of_its_parts():
    assert _loop(minings_per_epoch=4, tuples_per_epoch=10).steps_per_epoch == 6  # of 2, 2, 3 and 3 tuples
    clusters = {"sampling": "clusters", "loss": "supcon", "clusters_per_batch": 4, "tuples_per_epoch": 10}
    assert _loop(**clusters, minings_per_epoch=4).steps_per_epoch == 3


def test_lower_layers_learn_slower():
    network = build(NetworkConfig(backbone="vgg11", pooling="mac"), "random")
    groups = build_optimizer(network, _loop(lowest_rate_factor=0.01, frozen_share=0.25)).param_groups
    trunk = list(network.trunk.parameters())
    # 8 convolutions: the two lowest stay.
    assert [len(group["params"]) for group in groups] == [2] * 6
    assert [id(w) for group in groups for w in group["params"]] == [id(w) for w in trunk[4:]]
    expected = [0.01 ** (1 - number / 7) for number in range(2, 8)]
    assert [group["factor"] for group in groups] == pytest.approx(expected)
    assert groups[-1]["factor"] == 1.0


def test_the_average_of_the_weights_is_scored_and_handed_out(collection, tmp_path, rates):
    training, scored = _training(collection, average_decay=0.7), []

    def validate(network):
        scored.append([w.detach().clone() for w in network.parameters()])
        return {}

    run_loop(training, tmp_path / "c.pt", "key", validate)
    average = rates[1][0]
    for number, weights in enumerate(rates[1][1:], 2):
        average = [0.7 * a + 0.3 * w for a, w in zip(average, weights, strict=True)]
        if number % 3 == 0:
            torch.testing.assert_close(scored[number // 3], average, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close([w.detach() for w in training.network.parameters()], average)
    assert not torch.equal(average[0], rates[1][-1][0])


def test_training_stops_when_nothing_better_came_and_hands_out_the_best(collection, tmp_path, rates):
    maps = iter([0.9, 0.3, 0.5, 0.5, 0.4, 0.8])
    training = _training(collection, epochs=5, patience=2)
    progress = run_loop(training, tmp_path / "c.pt", "key", lambda network: {"map_crop": next(maps)})
    assert [log.validation["map_crop"] for log in progress.logs] == [0.9, 0.3, 0.5, 0.5, 0.4]
    # What the network was worth before the first epoch is another row of the proof.
    best = rates[1][5]
    assert all(torch.equal(a, b) for a, b in zip(training.network.parameters(), best, strict=True))
    again = _training(collection, epochs=5, patience=2)
    assert run_loop(again, tmp_path / "c.pt", "key", None) == progress
    assert again.network.fingerprint() == training.network.fingerprint()


def test_the_kind_that_decides_is_the_first_and_epochs_without_scores_do_not_count():
    scores = [
        {"map_crop": 0.9},
        {},
        {"map_crop": 0.2, "map_whole": 0.9},
        {"map_crop": 0.3, "map_whole": 0.1},
        {},
    ]
    logs = [EpochLog(epoch=number, validation=one) for number, one in enumerate(scores)]
    assert [is_best(logs[: n + 1]) for n in range(5)] == [False, False, True, True, False]
    assert not out_of_patience(logs, 1)
    worse = [*logs, EpochLog(epoch=5, validation={"map_crop": 0.3})]
    assert out_of_patience(worse, 1)
    assert not out_of_patience(worse, 2)
    assert not out_of_patience(worse, None)


def _ruined(monkeypatch, steps):
    """Make the loss of these steps, counted over the training, what no network can learn from."""
    real, count = Learner.step, 0

    def step(self, batch):
        nonlocal count
        count += 1
        p = self._training.network.pool.p
        before = p.detach().clone()
        if count in steps:
            p.data.fill_(torch.nan)
        try:
            return real(self, batch)
        finally:
            if count in steps:
                p.data.copy_(before)

    monkeypatch.setattr(Learner, "step", step)


def test_a_step_that_is_not_finite_is_left_out_if_the_settings_say_so(
    collection, tmp_path, monkeypatch, rates, caplog
):
    _ruined(monkeypatch, {2, 6})
    training = _training(collection, not_finite="skip", epochs=2)
    with caplog.at_level(logging.WARNING):
        progress = run_loop(training, tmp_path / "c.pt", "key", lambda network: {})
    assert [log.skipped_steps for log in progress.logs] == [0, 1, 1]
    assert [record.message.split(" for ")[0] for record in caplog.records] == [
        "epoch 1, step 2 is skipped: expected a finite loss, got nan",
        "epoch 2, step 3 is skipped: expected a finite loss, got nan",
    ]
    # Four steps of six tuples an epoch, the loss a mean over four of them.
    assert len(rates[0]) == 4
    assert all(math.isfinite(log.loss) for log in progress.logs[1:])
    assert progress.logs[1].model_dump()["skipped_steps"] == 1
    assert "skipped_steps" not in progress.logs[0].model_dump()


def test_many_steps_that_are_not_finite_end_the_training_in_any_case(collection, tmp_path, monkeypatch):
    _ruined(monkeypatch, set(range(2, 99)))
    training = _training(collection, not_finite="skip", tuples_per_epoch=30)
    with pytest.raises(ValueError, match=r"^training, epoch 1, step 12: expected a finite loss"):
        run_loop(training, tmp_path / "c.pt", "key", lambda network: {})


def test_an_epoch_of_nothing_but_skipped_steps_ends_the_training(collection, tmp_path, monkeypatch):
    _ruined(monkeypatch, set(range(4, 7)))
    with pytest.raises(ValueError, match=r"^training, epoch 2, step 3: expected a step with a finite loss"):
        run_loop(_training(collection, not_finite="skip"), tmp_path / "c.pt", "key", lambda network: {})


@pytest.mark.parametrize(
    "wrong",
    [
        {"average_decay": 1.0},
        {"patience": 0},
        {"schedule": {"warmup_steps": -1}},
        {"schedule": {"kind": "step"}},
        {"schedule": {"last_share": 1.5}},
        {"lowest_rate_factor": 0.0},
        {"not_finite": "ignore"},
    ],
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(ValueError, match="1 validation error"):
        _loop(**wrong)


def test_what_is_not_set_is_not_written():
    unset = {"schedule", "average_decay", "patience", "not_finite", "lowest_rate_factor"}
    assert not unset & LoopConfig().model_dump().keys()
    assert unset & LoopConfig(patience=3).model_dump().keys() == {"patience"}
