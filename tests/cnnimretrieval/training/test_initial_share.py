import logging

import torch

from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.training.initial_share import settle


def _network(seed: int):
    return build(NetworkConfig(backbone="squeezenet1_1"), "random", seed)


def _weight(network) -> torch.Tensor:
    return network.trunk.features[0].weight.detach().clone()


def test_the_initial_weights_have_their_share_of_the_average():
    initial, tuned = _network(0), _network(1)
    start, end = _weight(initial), _weight(tuned)
    assert settle(tuned, initial, 0.3, lambda network: 0.0) == 0.3
    torch.testing.assert_close(_weight(tuned), 0.7 * end + 0.3 * start)
    torch.testing.assert_close(_weight(initial), start)


def test_the_share_with_the_highest_score_is_taken_and_said(caplog):
    initial, tuned = _network(0), _network(1)
    start, end = _weight(initial), _weight(tuned)
    goal = 0.5 * end + 0.5 * start

    def score(network) -> float:
        return -float((_weight(network) - goal).abs().max())

    with caplog.at_level(logging.INFO):
        assert settle(tuned, initial, "chosen", score) == 0.5
    torch.testing.assert_close(_weight(tuned), goal)
    assert caplog.messages[0].startswith("share of the initial weights: 0.5 is taken, by mAP of 0: -")


def test_of_equal_shares_the_smallest_is_taken():
    initial, tuned = _network(0), _network(1)
    end = _weight(tuned)
    assert settle(tuned, initial, "chosen", lambda network: 0.5) == 0.0
    assert torch.equal(_weight(tuned), end)
