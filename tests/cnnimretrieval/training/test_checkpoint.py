"""A training that is interrupted anywhere ends with the weights of one that was not."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.loop import run_loop
from cnnimretrieval.training.learning.step import Learner
from cnnimretrieval.training.safeguards import checkpoint as checkpoint_module
from cnnimretrieval.training.safeguards.checkpoint import Checkpoints, EpochLog, Progress
from cnnimretrieval.training.settings.loop_config import LoopConfig
from cnnimretrieval.training.watching.watch import WatchConfig

EVERY_STEP = WatchConfig(checkpoint_minutes=0)
TUPLES = {"minings_per_epoch": 2, "negatives": {"num_negatives": 2}, "query": {"distorted_share": 0.5}}
SETTINGS = {
    "tuples": TUPLES,
    "memory": {"loss": "supcon", "sampling": "clusters", "clusters_per_batch": 2, "memory_size": 9},
    "followed": TUPLES
    | {"schedule": {"kind": "cosine", "warmup_steps": 3}, "average_decay": 0.7, "patience": 1}
    | {"lowest_rate_factor": 0.1, "loss": "triplet", "optimizer": "sgd", "negatives": {"num_negatives": 1}},
    "classes": TUPLES | {"loss": "arcface", "learning_rate": 1e-5},
}


class Stop(Exception):
    pass


def _training(collection, settings, watch=EVERY_STEP) -> Training:
    config = LoopConfig.model_validate(
        {"image_size": 64, "epochs": 2, "tuples_per_epoch": 7, "batch_tuples": 2, "margin": 1.2}
        | {"learning_rate": 1e-3}
        | settings
    )
    network = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)
    return Training(network=network, collection=collection, config=config, seed=1, watch=watch)


def _run(training, folder, keep=lambda epoch, examples: None):
    # The more it learned, the worse: so that the best weights are not the last ones.
    def scores(network):
        return {"map_whole": -abs(float(network.pool.p.detach()) - 3.0)}

    return run_loop(training, folder / "c.pt", "key", scores, keep)


def _without_seconds(progress):
    return [log.model_copy(update={"seconds": 0.0}) for log in progress.logs]


@pytest.mark.parametrize("kind", SETTINGS)
def test_stopped_before_any_step_it_ends_with_the_same_weights(collection, tmp_path, monkeypatch, kind):
    whole, drawn = _training(collection, SETTINGS[kind]), []
    expected = _run(whole, tmp_path / "whole", lambda epoch, examples: drawn.append(examples.rows))
    real, left = Learner.step, 0

    def step(self, batch):
        nonlocal left
        left -= 1
        if left < 0:
            raise Stop
        return real(self, batch)

    monkeypatch.setattr(Learner, "step", step)
    stops = 0
    while True:
        # One step more than the time before reached, so that it stops at each of them once.
        left, training, seen = 1, _training(collection, SETTINGS[kind]), []
        try:
            progress = _run(training, tmp_path / "broken", lambda epoch, examples: seen.append(examples.rows))  # noqa: B023
            break
        except Stop:
            stops += 1
            assert any((seen[-1] == rows).all() for rows in drawn if rows.shape == seen[-1].shape)
    assert stops >= 6
    assert training.network.fingerprint() == whole.network.fingerprint()
    assert _without_seconds(progress) == _without_seconds(expected)


def test_stopped_while_it_is_scored_it_need_not_learn_again(collection, tmp_path, monkeypatch):
    training = _training(collection, TUPLES | {"epochs": 1})

    def stop(network):
        if (tmp_path / "c.pt").is_file():
            raise Stop
        return {}

    with pytest.raises(Stop):
        run_loop(training, tmp_path / "c.pt", "key", stop)
    monkeypatch.setattr(Learner, "step", None)
    again = _training(collection, TUPLES | {"epochs": 1})
    progress = run_loop(again, tmp_path / "c.pt", "key", lambda network: {"map_whole": 0.5})
    assert progress.logs[1].validation == {"map_whole": 0.5}
    assert again.network.fingerprint() == training.network.fingerprint()


def test_inside_an_epoch_it_is_kept_as_often_as_is_asked_for(collection, tmp_path, monkeypatch):
    now, begun = 0.0, []
    real = Checkpoints.save

    def save(self, progress):
        begun.append(progress.begun is not None)
        real(self, progress)

    real_step = Learner.step

    def step(self, batch):
        nonlocal now
        now += 40.0
        return real_step(self, batch)

    monkeypatch.setattr(checkpoint_module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(Checkpoints, "save", save)
    monkeypatch.setattr(Learner, "step", step)
    settings = {"epochs": 1, "tuples_per_epoch": 10, "negatives": {"num_negatives": 2}}
    _run(_training(collection, settings, WatchConfig(checkpoint_minutes=1)), tmp_path)
    # Five steps of 40 s: after the second and the fourth a minute has passed.
    assert begun == [False, True, True, False]


def test_a_full_disk_leaves_the_one_before_and_names_the_file(tmp_path, monkeypatch):
    network = torch.nn.Linear(300, 300)
    kept = Checkpoints(tmp_path / "c.pt", "key", {"network": network})
    kept.save(Progress(logs=(EpochLog(epoch=3),)))
    before = (tmp_path / "c.pt").read_bytes()
    real = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda self, content: real(Path("/dev/full"), content))
    with pytest.raises(OSError, match="No space left on device") as error:
        kept.save(Progress(logs=(EpochLog(epoch=4),)))
    assert error.value.filename == str(tmp_path / "c.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]
    assert (tmp_path / "c.pt").read_bytes() == before


def test_minutes_are_not_negative():
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        WatchConfig(checkpoint_minutes=-1)


def _child(folder: Path, data: Path) -> subprocess.Popen[str]:
    here = Path(__file__)
    text = (
        "import importlib.util, sys, pickle; from pathlib import Path\n"
        f"spec = importlib.util.spec_from_file_location('t', {str(here)!r})\n"
        "t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t)\n"
        f"collection = pickle.loads(Path({str(data)!r}).read_bytes())\n"
        "t.torch.set_num_threads(1); training = t._training(collection, t.TUPLES)\n"
        f"print('ready', flush=True); t._run(training, Path({str(folder)!r}))\n"
        "print(training.network.fingerprint(), flush=True)"
    )
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_weights(collection, tmp_path):
    import pickle

    data, moments = tmp_path / "collection.pickle", random.Random(0)
    data.write_bytes(pickle.dumps(collection))
    started = time.monotonic()
    whole = _child(tmp_path / "whole", data)
    assert whole.stdout.readline() == "ready\n"
    started = time.monotonic()
    expected, _ = whole.communicate()
    seconds = time.monotonic() - started
    kills = finished = 0
    folder = tmp_path / "killed"
    while kills < 20:
        child = _child(folder, data)
        assert child.stdout.readline() == "ready\n"
        try:
            child.wait(moments.uniform(0.0, 0.6 * seconds))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            kills += 1
        said, _ = child.communicate()
        if said:
            assert said == expected
            finished += 1
            folder = tmp_path / f"killed-{finished}"
    said, _ = _child(folder, data).communicate()
    assert said.splitlines()[-1] + "\n" == expected
