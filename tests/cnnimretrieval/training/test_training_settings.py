import math

import pytest
import torch

from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.training.learning.optimiser import build_optimizer, set_rate
from cnnimretrieval.training.settings.loop_config import LoopConfig


def _network(pooling="gem"):
    return build(NetworkConfig(backbone="squeezenet1_1", pooling=pooling), "random", seed=3)


def test_the_reference_decays_before_its_first_epoch():
    # Adam 5e-7, x exp(-0.01) an epoch, the scheduler stepped first: epoch 1 has 0.990 of the rate.
    config = LoopConfig()
    assert config.rate(1) == pytest.approx(5e-7 * math.exp(-0.01), rel=1e-15)
    assert config.rate(100) == pytest.approx(5e-7 * math.exp(-1.0), rel=1e-15)


def test_the_papers_schedules_begin_with_the_full_rate():
    adam = LoopConfig(learning_rate=1e-6, learning_rate_decay=0.1, decay_before_first=False)
    assert [adam.rate(epoch) for epoch in (1, 2, 30)] == pytest.approx(
        [1e-6, 1e-6 * math.exp(-0.1), 1e-6 * math.exp(-2.9)]
    )
    # A fifth every ten epochs.
    sgd = LoopConfig(
        learning_rate=1e-3, learning_rate_decay=math.log(5), decay_epochs=10, decay_before_first=False
    )
    assert [sgd.rate(epoch) for epoch in (1, 10, 11, 20, 21)] == pytest.approx([1e-3, 1e-3, 2e-4, 2e-4, 4e-5])


def test_p_learns_ten_times_faster_and_does_not_decay():
    network, config = _network(), LoopConfig(weight_decay=5e-4)
    optimizer = build_optimizer(network, config)
    assert isinstance(optimizer, torch.optim.Adam)
    trunk, p = optimizer.param_groups
    assert set_rate(optimizer, config, 3) == config.rate(3)
    assert (trunk["weight_decay"], p["weight_decay"]) == (5e-4, 0.0)
    assert p["lr"] == pytest.approx(10 * trunk["lr"])
    assert [id(x) for x in p["params"]] == [id(network.pool.p)]
    assert len(trunk["params"]) == len(list(network.parameters())) - 1


def test_exponents_of_channels_learn_a_hundred_times_faster():
    factors = {
        (pooling, given): build_optimizer(_network(pooling), LoopConfig(gem_rate_factor=given)).param_groups[
            1
        ]["factor"]
        for pooling in ("gem", "gemmp")
        for given in (None, 3.0)
    }
    assert factors == {("gem", None): 10, ("gem", 3.0): 3, ("gemmp", None): 100, ("gemmp", 3.0): 3}


def test_what_lies_behind_the_trunk_learns_as_the_trunk_does():
    network = _network("mac")
    network.whiten = torch.nn.Linear(4, 3)
    (group,) = build_optimizer(network, LoopConfig()).param_groups
    assert {id(network.whiten.weight), id(network.whiten.bias)} <= {id(x) for x in group["params"]}


def test_sgd_has_momentum():
    optimizer = build_optimizer(_network(), LoopConfig(optimizer="sgd", momentum=0.8, learning_rate=1e-3))
    assert isinstance(optimizer, torch.optim.SGD)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.8}


def test_a_loss_that_the_sampling_cannot_feed_is_refused():
    with pytest.raises(ValueError, match="loop") as error:
        LoopConfig(sampling="clusters")
    assert (
        "loop: expected a loss over batches with sampling by clusters, got contrastive; "
        "choose multi_similarity, supcon, smooth_ap or quantised_ap"
    ) in str(error.value)
    with pytest.raises(ValueError, match="loop") as error:
        LoopConfig(loss="triplet", memory_size=9)
    assert (
        "loop: expected memory_size 0 with a loss over tuples, got 9; "
        "choose a loss over batches, or no memory"
    ) in str(error.value)
    with pytest.raises(ValueError, match="loop") as error:
        LoopConfig(loss="supcon", unplaced_share=0.5)
    assert (
        "loop: expected unplaced_share 0 with supcon and sampling by tuples, got 0.5; photos without a place "
        "are learned from in tuples, by a loss over tuples"
    ) in str(error.value)
