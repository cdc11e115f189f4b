"""The loss of the trunk's local activations where photos see the same 3D points."""

from copy import deepcopy
from dataclasses import replace
from math import exp, floor, log

import numpy as np
import pytest
import torch
from torch.optim import SGD

from cnnimretrieval.descriptors.inputs import KeepConfig, keep_inputs
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.networks.trunk_stages import find_stage, layer_of, run_to, watch
from cnnimretrieval.training.auxiliary_losses.tracks import TrackLossConfig, Tracks, track_loss, track_models
from cnnimretrieval.training.fine_tune import fine_tune
from cnnimretrieval.training.learning.batches import load_batches
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.mining import draw_epoch, examples_of_part
from cnnimretrieval.training.learning.optimiser import frozen_layers
from cnnimretrieval.training.learning.step import Learner
from cnnimretrieval.training.local.supervision import Observations, model_files
from cnnimretrieval.training.settings.loop_config import LoopConfig
from cnnimretrieval.training.settings.train_config import TrainConfig
from sfm.model import load_model, save_model

RNG = np.random.default_rng
LOOP = {
    "image_size": 64,
    "epochs": 2,
    "tuples_per_epoch": 6,
    "batch_tuples": 3,
    "negatives": {"num_negatives": 2},
    "margin": 1.2,
    "learning_rate": 1e-4,
}


def _tracks(collection, sfm_dir, network, num_layers=0, **config) -> Tracks:
    """The tracks of the made-up models, drawn out over the whole width, so that some are far from others."""
    config = TrackLossConfig(weight=1.0, **config)
    found = Tracks.of(collection, model_files(sfm_dir), config, network.trunk, num_layers)
    assert found is not None
    seen = {row: replace(one, xy=one.xy * (2.0, 1.0)) for row, one in found.seen.items()}
    return replace(found, seen=seen)


def test_a_pair_has_the_points_that_both_photos_see(collection, sfm_dir, network):
    tracks = _tracks(collection, sfm_dir, network, points=5)
    pair = tracks.pair(0, 2, RNG(0))
    assert pair.requests == (collection.whole(0), collection.whole(2))
    assert pair.xy.shape == (5, 2, 2)
    # In the made-up models a point lies a pixel further down in each photo, of 64 x 48 px.
    one, two = pair.xy.transpose(1, 0, 2) * (64, 48)
    np.testing.assert_allclose(two - one, np.tile((0.0, 2.0), (5, 1)), atol=1e-9)
    seen = {tuple(xy) for xy in tracks.seen[0].xy.round(6).tolist()}
    assert {tuple(xy) for xy in one.round(6).tolist()} <= seen
    assert tracks.pair(0, 6, RNG(0)) is None  # of another place
    assert tracks.pair(0, 15, RNG(0)) is None  # in no model


def test_two_points_are_the_least(collection, sfm_dir, network):
    tracks = _tracks(collection, sfm_dir, network)
    own = tracks.seen[0]
    for count in (1, 2):
        few = Observations(xy=own.xy[:count], point=own.point[:count], length=own.length[:count])
        found = replace(tracks, seen={**tracks.seen, 0: few}).pair(0, 1, RNG(0))
        assert (found is None) == (count < 2)


def _plain_loss(maps, xy, temperature):
    """The loss by loops over points."""
    vectors, cells = [], []
    for side, one in enumerate(maps):
        _, channels, height, width = one.shape
        numbers, found, inside = one[0].double().numpy(), [], []
        for x, y in xy[:, side].tolist():
            across, down = x * width - 0.5, y * height - 0.5
            vector = np.zeros(channels)
            for row in (floor(down), floor(down) + 1):
                for column in (floor(across), floor(across) + 1):
                    share = (1 - abs(down - row)) * (1 - abs(across - column))
                    at = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
                    vector += share * numbers[:, at[0], at[1]]
            found.append(vector / np.linalg.norm(vector))
            inside.append((floor(x * width), floor(y * height)))
        vectors.append(found)
        cells.append(inside)
    total, count = 0.0, len(xy)
    for one, other in ((0, 1), (1, 0)):
        for i in range(count):
            others = [
                j
                for j in range(count)
                if j == i
                or all(
                    max(abs(a - b) for a, b in zip(cells[side][i], cells[side][j], strict=True)) > 1
                    for side in (0, 1)
                )
            ]
            scores = {j: float(vectors[one][i] @ vectors[other][j]) / temperature for j in others}
            total += log(sum(exp(score) for score in scores.values())) - scores[i]
    return total / (2 * count)


def test_the_loss_is_that_of_a_plain_loop():
    torch.manual_seed(2)
    maps = [torch.randn(1, 6, 7, 9), torch.randn(1, 6, 5, 8)]
    xy = torch.rand(12, 2, 2)
    found = float(track_loss(maps, xy, 0.3))
    assert found == pytest.approx(_plain_loss(maps, xy.double().numpy(), 0.3), rel=1e-4)
    assert found > 0.1
    # A map of another size that shows the same gives nothing to lose but what competes.
    assert float(track_loss([maps[0], maps[0]], xy[:, :1].expand(-1, 2, -1), 0.01)) < 1e-3


def _training(collection, tracks, network, inputs=None, **settings) -> Training:
    config = LoopConfig.model_validate(
        LOOP | settings | {"tracks": tracks.config} if tracks else LOOP | settings
    )
    facts = {} if inputs is None else {"inputs": inputs}
    return Training(network=network, collection=collection, config=config, seed=1, tracks=tracks, **facts)


def _batch(training):
    rng = RNG(4)
    (drawn,) = draw_epoch(training, rng)
    return next(load_batches(examples_of_part(training, drawn, rng), training))


def _moved(training, batch):
    """The loss of a step, and the gradient of every weight that learns."""
    before = {name: value.detach().clone() for name, value in training.network.named_parameters()}
    learned = [weight for weight in training.network.parameters() if weight.requires_grad]
    total = Learner(training, SGD(learned, lr=1.0)).step(batch)
    return total, {name: before[name] - value.detach() for name, value in training.network.named_parameters()}


def test_a_step_adds_the_gradient_of_all_pairs(collection, sfm_dir, network):
    tracks = _tracks(collection, sfm_dir, network)
    watch(network.trunk, tracks.stage)
    both = _training(collection, tracks, deepcopy(network))
    batch = _batch(both)
    assert sum(example.xy is not None for example in batch) == 3
    with_tracks, without = _moved(both, batch), _moved(_training(collection, None, deepcopy(network)), batch)
    # The slow way: levels through the whole trunk, one pair after the other.
    plain = deepcopy(network)
    total = torch.zeros(())
    for example in batch:
        maps = []
        for picture in example.pair:
            images = (
                picture[None].float() / 255 - torch.tensor(plain.trunk.mean)[:, None, None]
            ) / torch.tensor(plain.trunk.std)[:, None, None]
            maps.append(run_to(plain.trunk, images, tracks.stage))
        total = total + track_loss(maps, torch.from_numpy(example.xy).float(), tracks.config.temperature)
    total.backward()
    assert total.item() > 0.1
    assert with_tracks[0] - without[0] == pytest.approx(total.item(), rel=1e-4)
    moved = 0
    for name, weight in plain.named_parameters():
        expected = torch.zeros_like(weight) if weight.grad is None else weight.grad
        difference = with_tracks[1][name] - without[1][name]
        torch.testing.assert_close(difference, expected, rtol=1e-3, atol=1e-5)
        moved += int(expected.abs().max() > 1e-4)
    assert moved > 10


# The stage of a ResNet is several layers in a row, that of a SqueezeNet one.
@pytest.mark.parametrize("backbone", ["squeezenet1_1", "resnet18"])
def test_what_is_kept_of_layers_that_stay_changes_nothing(collection, sfm_dir, backbone, tmp_path):
    losses = []
    for kept in (False, True):
        own = build(NetworkConfig(backbone=backbone), "random", seed=3)
        config = LoopConfig.model_validate(LOOP | {"frozen_share": 0.5})
        layers = frozen_layers(own, config)
        assert layers > 0
        tracks = _tracks(collection, sfm_dir, own, layers)
        inputs = keep_inputs(tmp_path / "kept", own, layers, KeepConfig()) if kept else None
        training = _training(collection, tracks, own, inputs, frozen_share=0.5)
        losses.append(_moved(training, _batch(training))[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    plain = _training(
        collection, None, build(NetworkConfig(backbone=backbone), "random", seed=3), frozen_share=0.5
    )
    assert losses[0] > _moved(plain, _batch(plain))[0] + 0.1


def test_points_are_told_apart_better_after_some_steps(collection, sfm_dir, network):
    # A loss of tuples with a margin of almost nothing leaves the tracks to move the weights.
    tracks = _tracks(collection, sfm_dir, network)
    training = _training(collection, tracks, network, loss="triplet", margin=1e-6)
    batch = _batch(training)
    learner = Learner(training, torch.optim.Adam(network.parameters(), lr=1e-3))
    losses = [learner.step(batch) for _ in range(8)]
    assert losses[-1] < 0.7 * losses[0]


def test_a_stage_with_tracks_goes_on_after_a_kill_and_knows_its_models(
    pairs_dir, sfm_dir, tmp_path, trained_with_a_kill
):
    loop = LoopConfig.model_validate(LOOP | {"tracks": {"weight": 1.0}, "frozen_share": 0.5})
    config = TrainConfig.model_validate(
        {"network": {"backbone": "squeezenet1_1"}, "loop": loop, "watch": {"checkpoint_minutes": 0}}
    )
    whole, again, begun = trained_with_a_kill(config)
    assert [epoch.loss for epoch in again.train.epochs] == [epoch.loss for epoch in whole.train.epochs]
    one, other = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "broken"))
    assert one == other
    # Where the models lie does not matter, what they hold does.
    moved = tmp_path / "elsewhere"
    sfm_dir.rename(moved)
    elsewhere = config.model_copy(
        update={"loop": loop.model_copy(update={"tracks": TrackLossConfig(weight=1.0, sfm=moved)})}
    )
    steps = len(begun)
    fine_tune(pairs_dir, tmp_path / "whole", elsewhere, weights="random")
    assert len(begun) == steps
    save_model(load_model(moved / "models" / "0" / "arrays.npz"), moved / "models" / "5" / "arrays.npz")
    fine_tune(pairs_dir, tmp_path / "whole", elsewhere, weights="random")
    assert len(begun) > steps


def test_what_cannot_teach_is_told(collection, tmp_path, network):
    config = TrackLossConfig(weight=1.0)
    with pytest.raises(
        FileNotFoundError, match=r"train\.loop\.tracks: expected a reconstruction.*got none in .*sfm"
    ):
        track_models(tmp_path / "pairs", config)
    assert track_models(tmp_path / "pairs", TrackLossConfig()) == []
    with pytest.raises(
        ValueError, match=r"train\.loop\.tracks: expected weights that learn below .*got none"
    ):
        Tracks.of(collection, [], config, network.trunk, len(network.trunk.layers))
    resnet = build(NetworkConfig(backbone="resnet18"), "random", seed=3).trunk
    last_of_stage = [layer is layer_of(resnet, find_stage(resnet)) for layer in resnet.layers].index(True) + 1
    assert Tracks.of(collection, [], config, resnet, last_of_stage - 1) is not None
    with pytest.raises(ValueError, match=r"expected weights that learn below .* of resnet18, got none"):
        Tracks.of(collection, [], config, resnet, last_of_stage)


def test_no_tracks_leave_no_trace_in_what_is_written():
    assert "tracks" not in LoopConfig().model_dump()
