"""Steps that need less memory: layers that work again on the way back, gradients in float16."""

import math

import pytest
import torch

from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.gradients import add_gradient
from cnnimretrieval.training.learning.loop import run_loop
from cnnimretrieval.training.safeguards.divergence import Diverged, check_scale
from cnnimretrieval.training.settings.loop_config import LoopConfig
from cnnimretrieval.training.watching.watch import WatchConfig
from experiments.benchmarks.training_memory import count


def _training(collection, backbone="squeezenet1_1", **settings) -> Training:
    config = LoopConfig.model_validate(
        {"image_size": 64, "epochs": 2, "tuples_per_epoch": 6, "batch_tuples": 2, "margin": 1.2}
        | {"learning_rate": 1e-4, "negatives": {"num_negatives": 1}}
        | settings
    )
    network = build(NetworkConfig(backbone=backbone), "random", seed=3).eval()
    watch = WatchConfig(checkpoint_minutes=0)
    return Training(network=network, collection=collection, config=config, seed=1, watch=watch)


# With layers that write over their input: alone in a row, and inside blocks.
@pytest.mark.parametrize("backbone", ["vgg11", "resnet18", "squeezenet1_1"])
@pytest.mark.parametrize("at_once", [None, 1])
def test_layers_that_work_again_give_the_same_gradients(collection, backbone, at_once):
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.randint(0, 256, (3, 64, 48), generator=generator, dtype=torch.uint8) for _ in range(3)]
    gradients = []
    for recompute in (False, True):
        training = _training(collection, backbone, recompute=recompute, pictures_at_once=at_once)
        add_gradient(training, pictures, lambda vectors: (vectors[0] * vectors[1:]).sum(dim=1))
        gradients.append([weight.grad for weight in training.network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert max(float(one.abs().max()) for one in gradients[0]) > 1e-4


def test_what_is_counted_of_a_step_is_what_it_takes_when_it_is_computed():
    for recompute in (False, True):
        counted, computed = (
            count("resnet18", 96, 3, computed=one, at_once=None, recompute=recompute) for one in (False, True)
        )
        assert counted == computed


def test_working_again_and_parts_take_less_memory():
    whole, again, parts = (
        count("resnet18", 512, 4, computed=False, at_once=at_once, recompute=recompute)
        for at_once, recompute in ((None, False), (None, True), (1, False))
    )
    assert again < 0.8 * whole
    assert parts < 0.8 * whole


def test_a_backbone_that_is_no_row_of_layers_cannot_work_again(collection, tmp_path):
    training = _training(collection, "timm:test_resnet", recompute=True)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        run_loop(training, tmp_path / "c.pt", "key", lambda network: {})
    assert str(error.value) == (
        "train.loop.recompute: expected a backbone of layers in a row, got timm:test_resnet; "
        "set train.loop.pictures_at_once to 1 instead"
    )


@pytest.mark.slow  # processors without instructions for it take a second for a small picture
def test_float16_learns_what_float32_learns_and_goes_on(collection, tmp_path):
    losses, networks = {}, {}
    for precision in ("float32", "float16"):
        training = _training(
            collection, precision=precision, epochs=1, tuples_per_epoch=4, pool_size=4, pool_holds_pairs=True
        )
        progress = run_loop(training, tmp_path / precision, "key", lambda network: {})
        losses[precision], networks[precision] = [log.loss for log in progress.logs[1:]], training.network
    assert losses["float16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["float16"] != losses["float32"]
    state = torch.load(tmp_path / "float16", weights_only=True)
    assert state["scaler"]["scale"] > 1.0
    assert state["scaler"]["_growth_tracker"] > 0
    # Weights are kept, and moved, in float32.
    weights = dict(networks["float16"].named_parameters())
    for name, weight in networks["float32"].named_parameters():
        assert weights[name].dtype == torch.float32
        torch.testing.assert_close(weights[name], weight, atol=2e-3, rtol=0.0)


def test_no_scale_at_which_gradients_fit_ends_the_training():
    check_scale(1.0, 0.5, ["a.jpg"])
    with pytest.raises(Diverged) as error:
        check_scale(math.ldexp(1.0, -11), 0.5, ["a.jpg"])
    assert str(error.value) == (
        "expected gradients that float16 holds, got none down to a scale of 0.000488281 "
        "at a loss of 0.5 for a.jpg"
    )
