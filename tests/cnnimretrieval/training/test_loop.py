from dataclasses import replace

import numpy as np
import pytest
import torch

from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.gradients import describe_with_gradient
from cnnimretrieval.training.learning.loop import run_loop
from cnnimretrieval.training.learning.mining import draw_tuples, mine_tuples
from cnnimretrieval.training.losses.registry import contrastive, triplet
from cnnimretrieval.training.settings.loop_config import LoopConfig
from cnnimretrieval.whitening.apply import Whitening, apply
from pairs.negatives import NegativesConfig

CONFIG = LoopConfig(
    image_size=64,
    epochs=2,
    tuples_per_epoch=7,
    negatives=NegativesConfig(num_negatives=2),
    batch_tuples=3,
    learning_rate=1e-3,
    margin=1.2,
)


def _network(backbone: str = "squeezenet1_1"):
    return build(NetworkConfig(backbone=backbone), "random", seed=3)


def _nothing(network):
    return {}


def _run(collection, folder, config=CONFIG, network=None, workers=0, **options):
    network = network or _network()
    training = Training(network=network, collection=collection, config=config, seed=1, workers=workers)
    return network, run_loop(training, folder / "c.pt", "key", _nothing, **options)


def test_learning_lowers_the_loss_and_moves_weights_and_p(collection, tmp_path):
    network, progress = _run(collection, tmp_path, CONFIG.model_copy(update={"epochs": 6}))
    losses = [log.loss for log in progress.logs[1:]]
    assert losses[-1] < 0.8 * losses[0]
    assert network.pool.p.item() != 3.0
    assert [log.epoch for log in progress.logs] == [0, 1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(progress.logs[2].learning_rate, 1e-3 * np.exp(-0.02))


def test_the_same_seed_gives_the_same_weights_bit_for_bit(collection, tmp_path):
    (tmp_path / "a").mkdir()
    first, _ = _run(collection, tmp_path / "a")
    again, _ = _run(collection, tmp_path / "b", workers=1)
    assert first.fingerprint() == again.fingerprint()


def test_an_interrupted_training_ends_with_the_weights_of_an_unbroken_one(collection, tmp_path):
    unbroken, expected = _run(collection, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop_in_second(epoch, tuples):
        if epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        _run(collection, tmp_path / "broken", keep_examples=stop_in_second)
    resumed, progress = _run(collection, tmp_path / "broken")
    assert resumed.fingerprint() == unbroken.fingerprint()
    assert [log.loss for log in progress.logs] == [log.loss for log in expected.logs]


def test_held_out_places_are_scored_every_so_many_epochs_and_after_the_last(collection, tmp_path):
    config = CONFIG.model_copy(update={"epochs": 5, "tuples_per_epoch": 2, "validation_epochs": 2})
    training = Training(network=_network(), collection=collection, config=config, seed=1)
    progress = run_loop(training, tmp_path / "c.pt", "key", lambda network: {"map_whole": 0.5})
    scored = [log.epoch for log in progress.logs if log.validation]
    assert scored == [0, 2, 4, 5]


def test_a_checkpoint_of_another_training_is_not_used(collection, tmp_path):
    _run(collection, tmp_path)
    seen = []
    training = Training(network=_network(), collection=collection, config=CONFIG, seed=1)
    run_loop(training, tmp_path / "c.pt", "other", _nothing, lambda epoch, tuples: seen.append(epoch))
    assert seen == [1, 2]


def test_frozen_tensors_stay_and_the_others_learn(collection, tmp_path):
    before = [weight.clone() for weight in _network().trunk.parameters()]
    network, _ = _run(collection, tmp_path, CONFIG.model_copy(update={"frozen_share": 0.5}))
    after = list(network.trunk.parameters())
    half = len(before) // 2
    assert all(torch.equal(a, b) for a, b in zip(after[:half], before[:half], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(after[half:], before[half:], strict=True))


def test_running_statistics_of_batch_normalisation_stay(collection, tmp_path):
    initial = _network("resnet18").state_dict()
    network, _ = _run(
        collection, tmp_path, CONFIG.model_copy(update={"epochs": 1}), network=_network("resnet18")
    )
    for name, value in network.state_dict().items():
        same = torch.equal(value, initial[name])
        assert same == ("running" in name or "num_batches" in name), name


def _pictures() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(64, 80), (80, 64), (64, 80), (64, 64)]
    return [torch.randint(0, 256, (3, *s), generator=generator, dtype=torch.uint8) for s in shapes]


def _one_by_one(network) -> torch.Tensor:
    mean, std = (torch.tensor(v)[:, None, None] for v in (network.trunk.mean, network.trunk.std))
    return torch.cat([network(((picture / 255 - mean) / std)[None]) for picture in _pictures()])


def test_the_loss_of_a_tuple_is_that_of_its_pictures_one_by_one(collection):
    training = Training(network=_network(), collection=collection, config=CONFIG, seed=1)
    rows = _one_by_one(training.network)
    described = describe_with_gradient(training, _pictures())
    torch.testing.assert_close(contrastive(described[None], 1.2), contrastive(rows[None], 1.2))


def test_with_a_whitening_the_loss_sees_whitened_descriptors(collection):
    network = _network()
    basis = np.random.default_rng(0).normal(size=(9, network.dim))
    whitening = Whitening(mean=np.full(network.dim, 0.02), projection=basis, kind="learned", note="")
    config = CONFIG.model_copy(update={"loss": "triplet", "margin": 0.4})
    training = Training(network=network, collection=collection, config=config, seed=1, whitening=whitening)
    loss = triplet(describe_with_gradient(training, _pictures())[None], 0.4).sum()
    rows = torch.from_numpy(apply(whitening, _one_by_one(network).detach().numpy()))
    torch.testing.assert_close(loss.detach(), triplet(rows[None], 0.4).sum(), rtol=1e-4, atol=1e-5)
    loss.backward()
    assert all(weight.grad is not None for weight in network.trunk.parameters())


def test_with_a_whitening_negatives_are_the_nearest_of_the_whitened(collection):
    network = _network()
    # One direction alone decides: negatives are those on the query's side of it.
    axis = np.random.default_rng(1).normal(size=(1, network.dim))
    whitening = Whitening(mean=np.full(network.dim, 0.04), projection=axis, kind="learned", note="")
    plain = Training(network=network, collection=collection, config=CONFIG, seed=1)
    whitened = replace(plain, whitening=whitening)
    drawn = draw_tuples(plain, 7, np.random.default_rng(3))
    one, other = (mine_tuples(t, drawn, np.random.default_rng(3)) for t in (plain, whitened))
    np.testing.assert_array_equal(one.rows[:, 0], other.rows[:, 0])
    assert not np.array_equal(one.negatives, other.negatives)


def test_missing_negatives_are_counted(collection, tmp_path):
    config = CONFIG.model_copy(update={"epochs": 1, "negatives": NegativesConfig(num_negatives=4)})
    _, progress = _run(collection, tmp_path, config)
    # Three training places: two others for each of seven queries, where four were asked for.
    assert progress.logs[1].missing_negatives == 14


def test_a_photo_that_went_away_is_named(collection, tmp_path):
    (collection.photos / "0-1.png").unlink()
    with pytest.raises(OSError, match=r"0-1\.png"):
        _run(collection, tmp_path)
