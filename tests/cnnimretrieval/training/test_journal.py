"""What a training tells of itself: steps.jsonl, TensorBoard, and where its time went."""

import builtins
import gzip
import io
import json
import logging
import re
import sys
import time
from contextlib import suppress

import pytest

from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.training.learning import gradients
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.loop import run_loop
from cnnimretrieval.training.learning.step import Learner
from cnnimretrieval.training.safeguards.checkpoint import EpochLog
from cnnimretrieval.training.settings.loop_config import LoopConfig
from cnnimretrieval.training.watching.clock import Clock, Spent, as_table, read_profile, write_profile
from cnnimretrieval.training.watching.journal import Journal
from cnnimretrieval.training.watching.trace import StepTrace
from cnnimretrieval.training.watching.watch import WatchConfig
from groundwork import progress as progress_module


class Stop(Exception):
    pass


def _run(collection, folder, trace=None, **journal):
    config = LoopConfig.model_validate(
        {"image_size": 64, "epochs": 2, "tuples_per_epoch": 5, "batch_tuples": 2, "margin": 1.2}
        | {"learning_rate": 1e-3, "negatives": {"num_negatives": 1}}
    )
    training = Training(
        network=build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3),
        collection=collection,
        config=config,
        seed=1,
        watch=WatchConfig(checkpoint_minutes=0),
        journal=Journal(folder, **journal),
        trace=trace or StepTrace(),
    )
    return training, run_loop(training, folder / "c.pt", "key", lambda network: {"map_whole": 0.25})


def _told(folder):
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def _without_seconds(told):
    return [{name: value for name, value in line.items() if name != "seconds"} for line in told]


def test_each_step_and_each_epoch_is_a_line(collection, tmp_path):
    training, progress = _run(collection, tmp_path)
    told = _told(tmp_path)
    assert [(line["epoch"], line.get("step")) for line in told] == [
        *((1, step) for step in (1, 2, 3, None)),
        *((2, step) for step in (1, 2, 3, None)),
    ]
    for number, log in enumerate(progress.logs[1:]):
        *steps, epoch = told[4 * number : 4 * number + 4]
        assert epoch == log.model_dump(mode="json", exclude_none=True)
        assert [step["examples"] for step in steps] == [2, 2, 1]
        mean = sum(step["loss"] * step["examples"] for step in steps) / 5
        assert mean == pytest.approx(log.loss)
        assert {step["rate"] for step in steps} == {log.learning_rate}
        for step in steps:
            assert {"read", "forward", "backward", "move", "keep"} <= set(step["seconds"])
        assert "mine" in steps[0]["seconds"]
        assert "mine" not in steps[1]["seconds"]
    spent = training.clock.read()
    in_steps = sum(line["seconds"]["backward"] for line in told if "step" in line)
    assert in_steps == pytest.approx(spent["backward"].wall_s, abs=0.01)


def test_what_a_stopped_training_tells_again_stands_there_once(collection, tmp_path, monkeypatch):
    _run(collection, tmp_path / "whole")
    real, count = Learner.step, 0

    def step(self, batch):
        nonlocal count
        count += 1
        if count in (3, 6):
            # A step that was told and not kept, and a line that a kill cut short.
            with (tmp_path / "broken" / "steps.jsonl").open("a") as file:
                again = {"epoch": 1 + count // 5, "step": 3, "loss": 5.0}
                file.write(json.dumps(again) + '\n{"epoch": 2, "st')
            raise Stop
        return real(self, batch)

    monkeypatch.setattr(Learner, "step", step)
    for _ in range(2):
        with pytest.raises(Stop):
            _run(collection, tmp_path / "broken")
    _run(collection, tmp_path / "broken")
    assert count == 8
    whole, broken = (_without_seconds(_told(tmp_path / name)) for name in ("whole", "broken"))
    assert broken == whole


def test_another_training_begins_a_new_journal(tmp_path):
    journal = Journal(tmp_path)
    journal.step(1, 1, 1, {"loss": 0.5})
    journal.epoch(EpochLog(epoch=1, loss=0.5), 1)
    journal.go_on(1, 0, 1)
    assert len(_told(tmp_path)) == 2
    journal.go_on(-1, 0, 0)
    assert _told(tmp_path) == []


def test_tensorboard_has_what_the_lines_have(collection, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _run(collection, tmp_path, tensorboard=True)
    seen = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    seen.Reload()
    told = _told(tmp_path)
    losses = [line["loss"] for line in told if "step" in line]
    assert [event.step for event in seen.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.value for event in seen.Scalars("loss")] == pytest.approx(losses)
    assert [event.step for event in seen.Scalars("epoch/validation/map_whole")] == [3, 6]
    assert "seconds/forward" in seen.Tags()["scalars"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_told_in_photos_of_each_part(collection, tmp_path, monkeypatch):
    # A handler of an earlier command, whose stream is closed by now, would complain between the bars.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress_module.logger, "isEnabledFor", lambda level: True)
    _run(collection, tmp_path)
    bars = [bar.split("\r")[-1] for bar in sys.stderr.getvalue().split("\n")[:-1]]
    told = [re.fullmatch(r"(.+): 100%\|.*\| (\d+)/(\d+) \[.*<(?:00:00|\?), .*photo.*\]", bar) for bar in bars]
    assert all(told), bars
    # Of two epochs: 5 queries with a pool of 9 photos; 5 tuples of 3 photos.
    assert [(bar[1], bar[2], bar[3]) for bar in told] == 2 * [
        ("describe queries and pool", "14", "14"),
        ("learn", "15", "15"),
    ]


def _traced(folder):
    with gzip.open(folder / "trace.json.gz", "rt") as file:
        return [event["name"] for event in json.load(file)["traceEvents"]]


def test_a_trace_has_the_operations_of_two_steps_in_all_threads_and_the_parts(
    collection, tmp_path, monkeypatch
):
    monkeypatch.setattr(gradients, "_TOGETHER", 1)
    with StepTrace(tmp_path) as trace:
        _run(collection, tmp_path, trace=trace)
    names = _traced(tmp_path)
    # Of three steps, of 2, 2 and 1 tuples of 3 pictures; the third, and the first after it.
    for part, count in {"forward": 3, "backward": 3, "move": 2, "read": 3, "mine": 1}.items():
        assert names.count(part) == count, part
    assert names.count("aten::conv2d") > 9 * 26  # SqueezeNet has 26
    assert "ConvolutionBackward0" in names
    assert not (tmp_path / ".unfinished").exists()


def test_a_training_that_ends_inside_a_trace_leaves_what_there_was(tmp_path):
    for steps, there in ((0, False), (1, False), (2, True), (3, True)):
        folder = tmp_path / str(steps)
        with suppress(Stop), StepTrace(folder) as trace:
            for _ in range(steps):
                trace.step()
            raise Stop
        assert (folder / "trace.json.gz").is_file() == there, steps


def test_without_a_folder_nothing_is_traced():
    with StepTrace() as trace:
        for _ in range(5):
            trace.step()
            assert trace._profile is None


def test_without_the_package_it_is_said_what_to_do(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        Journal(tmp_path, tensorboard=True)
    assert str(error.value) == (
        "train.watch.tensorboard: expected the package tensorboard, got none installed; "
        "pip install 'cnnimretrieval[tensorboard]', or leave it out"
    )


def test_seconds_of_an_inner_part_do_not_count_for_the_outer_one(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(time, "process_time", lambda: 2 * now)
    clock = Clock()
    now = 1.0
    with clock.part("mine"):
        now = 3.0
        with clock.part("read"):
            now = 7.0
        with suppress(Stop), clock.part("read"):
            now = 8.0
            raise Stop
        now = 8.5
    now = 10.0
    assert clock.read() == {"other": Spent(2.5, 5.0), "mine": Spent(2.5, 5.0), "read": Spent(5.0, 10.0)}


def test_a_profile_is_written_read_and_shown_longest_first(tmp_path):
    assert read_profile(tmp_path) == {}
    spent = {"read": Spent(1.0, 0.5), "forward": Spent(3.0, 5.25)}
    write_profile(tmp_path, spent)
    assert read_profile(tmp_path) == spent
    assert as_table(spent).splitlines() == [
        "part                 seconds   share   processor",
        "forward                  3.0   75.0%         5.2",
        "read                     1.0   25.0%         0.5",
    ]
