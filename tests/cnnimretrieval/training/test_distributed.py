"""Two processes that train together, against one that trains alone."""

import json
import os
import pickle
import socket
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from cnnimretrieval import distributed
from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.inputs import KeepConfig, keep_inputs
from cnnimretrieval.descriptors.together import describe_together
from cnnimretrieval.evaluation.queries import QuerySet
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.networks.trunk_stages import find_stage
from cnnimretrieval.training.auxiliary_losses.distillation import Teacher
from cnnimretrieval.training.auxiliary_losses.tracks import Tracks
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.loop import run_loop
from cnnimretrieval.training.learning.optimiser import frozen_layers
from cnnimretrieval.training.local.supervision import Observations
from cnnimretrieval.training.photos.descriptions import Descriptions
from cnnimretrieval.training.settings.loop_config import LoopConfig
from cnnimretrieval.training.watching.journal import Journal

TUPLES = {"negatives": {"num_negatives": 2}, "query": {"distorted_share": 0.5}, "batch_tuples": 3}
SETTINGS = {
    "tuples": TUPLES | {"optimizer": "sgd"},
    "parts": TUPLES | {"pictures_at_once": 2, "gradient": "per_pair"},
    "frozen": TUPLES | {"frozen_share": 0.5, "average_decay": 0.9},
    "memory": {"loss": "supcon", "sampling": "clusters", "clusters_per_batch": 2, "memory_size": 9},
    "classes": TUPLES | {"loss": "arcface", "learning_rate": 1e-5},
    "beside": TUPLES
    | {"optimizer": "sgd", "distillation": {"weight": 1.0, "details": True}, "tracks": {"weight": 1.0}},
}


def train(kind: str, collection, folder: Path):
    """What a training ends with; under torchrun on all ranks."""
    config = LoopConfig.model_validate(
        {"image_size": 64, "epochs": 2, "tuples_per_epoch": 5, "margin": 1.2, "learning_rate": 1e-4}
        | SETTINGS[kind]
    )
    network = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)
    layers = frozen_layers(network, config)
    inputs = keep_inputs(folder / f"inputs-{distributed.rank()}", network, layers, KeepConfig())
    journal = Journal(folder) if distributed.is_first() else Journal()
    training = Training(
        network=network,
        collection=collection,
        config=config,
        seed=1,
        inputs=inputs,
        journal=journal,
        **(_beside(network, collection, config, folder) if kind == "beside" else {}),
    )
    progress = run_loop(training, folder / "c.pt", "key", lambda network: {})
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    return weights, [log.loss for log in progress.logs[1:]], [log.negative_distance for log in progress.logs]


def _beside(network, collection, config, folder: Path):
    """A teacher, and points that photos of a place share."""
    descriptions = Descriptions(
        collection=collection,
        queries=QuerySet(queries=(), requests=(), table=collection.table),
        folder=folder / "descriptors",
        content="k",
        image_size=64,
        device="cpu",
        workers=0,
    )
    rng, seen = np.random.default_rng(0), {}
    for row in np.flatnonzero(collection.table.place >= 0).tolist():
        point = 12 * int(collection.table.place[row]) + np.arange(12)
        seen[row] = Observations(xy=rng.uniform(0, 48, (12, 2)), point=point, length=np.full(12, 3))
    stage = find_stage(network.trunk)
    teacher = Teacher.of(deepcopy(network), descriptions, config.distillation, config.query)
    tracks = Tracks(collection=collection, seen=seen, config=config.tracks, stage=stage)
    return {"descriptions": descriptions, "teacher": teacher, "tracks": tracks}


def together(kinds, data: Path, out: Path) -> None:
    """What each of two processes of these tests does: `data` has the photos, `out` gets what they found."""
    torch.set_num_threads(1)
    collection = pickle.loads(data.read_bytes())
    found = {}
    with distributed.joined("cpu") as device:
        assert device == "cpu"
        for kind in kinds:
            (out / kind).mkdir(exist_ok=True)
            found[kind] = train(kind, collection, out / kind)
        network = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)
        requests = [collection.whole(row) for row in range(7)]
        (collection.photos / "0-2.png").unlink(missing_ok=True)
        distributed.wait()
        config = ExtractConfig(image_size=64)
        found["described"] = describe_together(
            network, requests, config, device="cpu", workers=0, inputs=None
        )
        found["ranks"] = (distributed.rank(), distributed.num_ranks(), distributed.is_first())
        found["said"] = distributed.first_says(distributed.rank() + 5), distributed.of_all(distributed.rank())
    (out / f"found-{found['ranks'][0]}").write_bytes(pickle.dumps(found))


def start(call: str, rank: int, port: int, **options) -> subprocess.Popen[str]:
    here = str(Path(__file__))
    code = (
        "import importlib.util; from pathlib import Path\n"
        f"spec = importlib.util.spec_from_file_location('t', {here!r})\n"
        f"t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t)\nt.{call}"
    )
    shared = {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | shared | {"OMP_NUM_THREADS": "1"}, text=True, **options
    )


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.fixture
def data(collection, tmp_path) -> Path:
    path = tmp_path / "collection.pickle"
    path.write_bytes(pickle.dumps(collection))
    return path


@pytest.mark.parametrize(
    "kinds", [["frozen", "memory"], pytest.param(list(SETTINGS), marks=pytest.mark.slow)], ids=["two", "all"]
)
def test_two_processes_learn_what_one_learns(collection, data, tmp_path, kinds):
    alone = {}
    for kind in kinds:
        (tmp_path / "alone" / kind).mkdir(parents=True)
        alone[kind] = train(kind, collection, tmp_path / "alone" / kind)
    out, port = tmp_path / "together", free_port()
    out.mkdir()
    call = f"together({kinds!r}, Path({str(data)!r}), Path({str(out)!r}))"
    children = [start(call, rank, port) for rank in (0, 1)]
    assert [child.wait() for child in children] == [0, 0]
    first, second = (pickle.loads((out / f"found-{rank}").read_bytes()) for rank in (0, 1))
    for kind, (weights, losses, distances) in alone.items():
        for found in (first, second):
            np.testing.assert_allclose(found[kind][1], losses, rtol=1e-4, err_msg=kind)
            # None, where nothing was mined, becomes NaN.
            np.testing.assert_allclose(np.array(found[kind][2], float), np.array(distances, float), rtol=1e-5)
            for name, value in weights.items():
                np.testing.assert_allclose(found[kind][0][name], value, atol=2e-6, err_msg=f"{kind} {name}")
        for name in weights:
            np.testing.assert_array_equal(first[kind][0][name], second[kind][0][name])
        told = [(tmp_path / folder / kind / "steps.jsonl").read_text() for folder in ("alone", "together")]
        steps = [[json.loads(line).get("loss") for line in text.splitlines()] for text in told]
        np.testing.assert_allclose(steps[0], steps[1], rtol=1e-4)
    assert [found["ranks"] for found in (first, second)] == [(0, 2, True), (1, 2, False)]
    assert [found["said"] for found in (first, second)] == [(5, [0, 1])] * 2
    network = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)
    requests = [collection.whole(row) for row in range(7)]
    expected = describe(network, requests, ExtractConfig(image_size=64))
    for found in (first["described"], second["described"]):
        np.testing.assert_array_equal(found.vectors, expected.vectors)
        assert found.positions.tolist() == [0, 1, 3, 4, 5, 6]
        assert found.failures == expected.failures


def test_alone_rank_0_does_all_itself():
    with distributed.led("cpu") as own:
        told = distributed.on_all(lambda device: (device, distributed.num_ranks(), distributed.rank()), own)
    assert told == ("cpu", 1, 0)


def lose(data: Path, out: Path) -> None:
    """Train until the other rank is gone, and print what is said of that."""
    try:
        with distributed.joined("cpu"):
            print("ready", flush=True)
            distributed.wait()
            distributed.wait()
    except distributed.OtherRanksGone as error:
        print(error, flush=True)


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_other_one_with_a_line(data, tmp_path):
    port = free_port()
    call = f"lose(Path({str(data)!r}), Path({str(tmp_path)!r}))"
    first = start(call, 0, port, stdout=subprocess.PIPE)
    second = start(call.replace("lose", "hang"), 1, port, stdout=subprocess.PIPE)
    assert [child.stdout.readline() for child in (first, second)] == ["ready\n", "ready\n"]
    time.sleep(1.0)
    second.kill()
    said, _ = first.communicate()
    assert said.startswith("rank 0 of 2: expected all ranks to go on, got '")
    assert said.endswith("see what the others said, and run the same command again to continue\n")
    assert said.count("\n") == 1
    second.communicate()


def hang(data: Path, out: Path) -> None:
    """Join, and take part in nothing but the first exchange."""
    with distributed.joined("cpu"):
        print("ready", flush=True)
        distributed.wait()
        time.sleep(600)
