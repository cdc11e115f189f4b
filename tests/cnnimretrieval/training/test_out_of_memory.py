"""More memory is needed than the device has: what is said, and which settings would fit."""

import weakref

import numpy as np
import pytest
import torch

from cnnimretrieval.descriptors import extract as extract_module
from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.halves import above
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.passes import in_batches
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.training.learning import gradients, step
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.loop import run_loop
from cnnimretrieval.training.settings.loop_config import LoopConfig
from cnnimretrieval.training.watching.watch import WatchConfig

SAID = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which "
    "1.00 GiB is free. Process 1 has 78.11 GiB memory in use. If reserved"
)


class Memory:
    """Holds the activations of so many pictures; those that are made again on the way back take a half."""

    def __init__(self, pictures: float) -> None:
        self.free = pictures

    def above(self, network, num_layers, given, look, *, recompute=False):
        size = len(given) * (0.5 if recompute else 1.0) if torch.is_grad_enabled() else 0.0
        if size > self.free:
            raise torch.OutOfMemoryError(SAID)
        made = above(network, num_layers, given, look, recompute=recompute)
        self.free -= size
        weakref.finalize(made, self.let_go, size)
        return made

    def let_go(self, size):
        self.free += size


def _run(collection, folder, **settings):
    config = LoopConfig.model_validate(
        {"image_size": 64, "epochs": 2, "tuples_per_epoch": 7, "batch_tuples": 2, "margin": 1.2}
        | {"learning_rate": 1e-3, "negatives": {"num_negatives": 2}}
        | settings
    )
    network = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)
    watch = WatchConfig(checkpoint_minutes=0)
    training = Training(network=network, collection=collection, config=config, seed=1, watch=watch)
    return network, run_loop(training, folder / "c.pt", "key", lambda network: {})


@pytest.mark.parametrize(
    ("pictures", "settings", "asked", "advice"),
    [
        (3, {}, 4, "set train.loop.pictures_at_once=2, with which this step fits"),
        (1, {}, 4, "set train.loop.pictures_at_once=1, with which this step fits"),
        (3, {"pictures_at_once": 6}, 4, "set train.loop.pictures_at_once=2, with which this step fits"),
        (3, {"loss": "supcon"}, 8, "set train.loop.pictures_at_once=2, with which this step fits"),
        (3, {"loss": "arcface"}, 8, "set train.loop.pictures_at_once=2, with which this step fits"),
        (
            0.5,
            {"pictures_at_once": 1},
            1,
            "set train.loop.pictures_at_once=1 and train.loop.recompute=true, with which this step fits",
        ),
        (
            0.4,
            {},
            4,
            "lower train.loop.image_size: not even one picture with train.loop.recompute=true fits",
        ),
    ],
)
def test_what_would_fit_is_found_by_trying(
    collection, tmp_path, monkeypatch, pictures, settings, asked, advice
):
    # What is made before there is no room for more has to be let go of, or nothing would fit.
    monkeypatch.setattr(gradients, "_TOGETHER", 1)
    monkeypatch.setattr(gradients, "above", Memory(pictures).above)
    with pytest.raises(RuntimeError) as error:
        _run(collection, tmp_path, **settings)
    assert str(error.value) == (
        f"training, epoch 1, step 1: expected memory for {asked} pictures at once on cpu, got 'CUDA out of "
        f"memory. Tried to allocate 2.00 GiB'; {advice} (weights inside epoch 1, the last that were kept, "
        f"are in {tmp_path / 'c.pt'})"
    )


def test_with_what_fits_it_goes_on_at_the_weights_that_were_kept(collection, tmp_path, monkeypatch):
    sgd = {"optimizer": "sgd"}
    whole, expected = _run(collection, tmp_path / "whole", **sgd)
    real, steps = gradients.add_gradient, 0

    def short_of_memory(*given, **options):
        nonlocal steps
        steps += 1
        if steps == 7:
            monkeypatch.setattr(gradients, "above", Memory(3).above)
        return real(*given, **options)

    monkeypatch.setattr(gradients, "_TOGETHER", 100)
    monkeypatch.setattr(step, "add_gradient", short_of_memory)
    with pytest.raises(RuntimeError, match=r"^training, epoch 1, step 4: .*=2, with .* inside epoch 1"):
        _run(collection, tmp_path / "short", **sgd)
    found, progress = _run(collection, tmp_path / "short", **sgd, pictures_at_once=2)
    assert [log.loss for log in progress.logs[1:]] == pytest.approx(
        [log.loss for log in expected.logs[1:]], rel=1e-4
    )
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, msg=name)


@pytest.fixture
def limited(monkeypatch):
    """Descriptions are made of batches, as on a GPU, and there is memory for so many photos of one."""

    def limit(photos):
        real = extract_module.describe_batch

        def describe_batch(network, levels, config):
            if len(levels) > photos:
                raise torch.OutOfMemoryError(SAID)
            return real(network, levels, config)

        monkeypatch.setattr(extract_module, "one_by_one", lambda inputs: in_batches(inputs, 8))
        monkeypatch.setattr(extract_module, "describe_batch", describe_batch)

    return limit


def test_photos_that_do_not_fit_together_are_described_alone(network, photos, limited):
    requests, config = [ImageRequest(path=path) for path in photos], ExtractConfig(image_size=64)
    expected = describe(network, requests, config).require_all()
    limited(1)
    np.testing.assert_array_equal(describe(network, requests, config).require_all(), expected)


def test_a_photo_that_does_not_fit_alone_is_one_line(network, photos, limited):
    limited(0)
    with pytest.raises(RuntimeError) as error:
        describe(network, [ImageRequest(path=path) for path in photos], ExtractConfig(image_size=64))
    assert str(error.value) == (
        "describe: expected memory for one photo of 64 px on cpu, got 'CUDA out of memory. Tried to allocate "
        "2.00 GiB'; choose a smaller image size, or another device"
    )
