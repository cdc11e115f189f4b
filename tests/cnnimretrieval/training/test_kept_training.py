"""Training with what is kept of photos, against training that reads and computes all of it each time."""

from dataclasses import replace

import numpy as np
import pytest

from cnnimretrieval.descriptors import together
from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.images import PIXELS_VERSION
from cnnimretrieval.descriptors.inputs import Inputs, KeepConfig, keep_inputs
from cnnimretrieval.evaluation.queries import query_set
from cnnimretrieval.networks.local_head import LocalConfig
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.training.fine_tune import fine_tune
from cnnimretrieval.training.learning import mining
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.loop import run_loop
from cnnimretrieval.training.learning.optimiser import frozen_layers
from cnnimretrieval.training.photos.collection import QueryConfig
from cnnimretrieval.training.photos.descriptions import Descriptions
from cnnimretrieval.training.settings.loop_config import LoopConfig
from cnnimretrieval.training.settings.train_config import TrainConfig
from pairs.negatives import NegativesConfig

LOOP = LoopConfig(
    image_size=64,
    epochs=2,
    tuples_per_epoch=7,
    negatives=NegativesConfig(num_negatives=2),
    query=QueryConfig(distorted_share=0.5),
    batch_tuples=3,
    learning_rate=1e-3,
    margin=1.2,
    frozen_share=0.5,
)


def _learned(collection, folder, config=LOOP, inputs=None, **options):
    """Network, progress and tuples of a training; `inputs` makes those that it has."""
    network = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)
    made = inputs(network) if inputs else Inputs()
    training = Training(network=network, collection=collection, config=config, seed=1, inputs=made, **options)
    tuples = []
    progress = run_loop(
        training, folder / "c.pt", "key", lambda one: {}, lambda epoch, examples: tuples.append(examples.rows)
    )
    return network, progress, tuples


def _keeping(folder, config=LOOP, **settings):
    def made(network):
        layers = frozen_layers(network, config)
        return keep_inputs(folder, network, layers, KeepConfig(**settings))

    return made


@pytest.mark.parametrize("frozen_share", [0.0, 0.5])
@pytest.mark.parametrize(
    # In bfloat16 an epoch leaves other weights, which may find other negatives next.
    "settings",
    [{}, {"precision": "bfloat16", "epochs": 1}, {"loss": "supcon"}],
)
def test_the_same_is_learned_with_what_is_kept(collection, tmp_path, frozen_share, settings):
    # Adam, which divides by the size of a gradient, would make something of the rounding of tiny ones.
    sgd = {"optimizer": "sgd", "learning_rate": 1e-2}
    config = LOOP.model_copy(update={"frozen_share": frozen_share, **sgd, **settings})
    expected, logs, tuples = _learned(collection, tmp_path / "a", config)
    found, same_logs, same_tuples = _learned(
        collection, tmp_path / "b", config, _keeping(tmp_path / "kept", config)
    )
    np.testing.assert_array_equal(np.concatenate(same_tuples), np.concatenate(tuples))
    losses = [[log.loss for log in one.logs[1:]] for one in (same_logs, logs)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=3e-2 if "precision" in settings else 1e-4)
    if frozen_share == 0.0:
        assert found.fingerprint() == expected.fingerprint()
    start = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)
    moved, apart = _largest_difference(start, expected), _largest_difference(found, expected)
    assert apart < moved * (0.2 if "precision" in settings else 1e-3)


def _largest_difference(one, other):
    pairs = zip(one.trunk.parameters(), other.trunk.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


@pytest.mark.parametrize("kept_as", ["float32", "float16"])
def test_how_much_is_kept_changes_no_weight(collection, tmp_path, kept_as):
    def learned(name, **settings):
        return _learned(collection, tmp_path / name, inputs=_keeping(tmp_path / f"kept {name}", **settings))

    expected, _, _ = learned("all", kept_as=kept_as)
    for name, limit_gb in (("none", 0.0), ("some", 1e-4)):
        assert learned(name, kept_as=kept_as, limit_gb=limit_gb)[0].fingerprint() == expected.fingerprint()
    # Another training finds what the first one kept, and learns the same from it.
    again, _, _ = _learned(
        collection, tmp_path / "again", inputs=_keeping(tmp_path / "kept all", kept_as=kept_as)
    )
    assert again.fingerprint() == expected.fingerprint()


def _descriptions(collection, heldout, folder, **options) -> Descriptions:
    return Descriptions(
        collection=collection,
        queries=query_set(heldout, collection.table, collection.photos),
        folder=folder,
        image_size=64,
        device="cpu",
        workers=0,
        **{"content": "k", **options},
    )


def test_photos_as_they_are_are_described_once(collection, heldout, tmp_path, network, monkeypatch):
    described = []
    real = together.describe

    def counted(network, requests, *arguments, **options):
        described.extend(requests)
        return real(network, requests, *arguments, **options)

    monkeypatch.setattr(together, "describe", counted)
    made = _descriptions(collection, heldout, tmp_path / "d")
    queries = made.query_vectors(network)
    whole = [request for request in described if request.edit is None]
    assert len(whole) == collection.table.num_images
    assert len(described) == len(whole) + len(heldout) // 2
    plain = real(network, made.queries.requests, ExtractConfig(image_size=64)).vectors
    np.testing.assert_array_equal(queries, plain)

    described.clear()
    config = LOOP.model_copy(update={"query": QueryConfig(distorted_share=0.5)})
    training = Training(network=network, collection=collection, config=config, seed=1)
    rng = np.random.default_rng
    drawn = mining.draw_tuples(training, 7, rng(2))
    expected = mining.mine_tuples(training, drawn, rng(2))
    num_all, described[:] = len(described), []
    found = mining.mine_tuples(replace(training, descriptions=made), drawn, rng(2))
    np.testing.assert_array_equal(found.rows, expected.rows)
    assert found.negative_distance == expected.negative_distance
    assert described == [request for request in found.requests if request.edit is not None]
    assert 0 < len(described) < num_all


def test_a_local_head_has_nothing_described_again(collection, heldout, tmp_path, network):
    made = _descriptions(collection, heldout, tmp_path / "d")
    expected, files = made.query_vectors(network), sorted((tmp_path / "d").iterdir())
    headed = network.with_local(LocalConfig(dim=4))
    np.testing.assert_array_equal(made.query_vectors(headed), expected)
    assert made.known_database(headed) is not None
    assert sorted((tmp_path / "d").iterdir()) == files
    assert headed.fingerprint() != network.fingerprint() == headed.without_local().fingerprint()


def test_photos_that_were_decoded_by_an_earlier_rule_are_described_again(
    collection, heldout, tmp_path, network, monkeypatch
):
    made = _descriptions(collection, heldout, tmp_path / "d")
    made.database(network)
    assert made.known_database(network) is not None
    monkeypatch.setattr("cnnimretrieval.training.photos.descriptions.PIXELS_VERSION", PIXELS_VERSION + 1)
    assert made.known_database(network) is None


def test_mining_at_another_size_describes_itself(collection, heldout, tmp_path, network):
    made = _descriptions(collection, heldout, tmp_path / "d")
    made.database(network)
    training = Training(
        network=network,
        collection=collection,
        config=LOOP.model_copy(update={"image_size": 40}),
        seed=1,
    )
    drawn = mining.draw_tuples(training, 7, np.random.default_rng(2))
    expected = mining.mine_tuples(training, drawn, np.random.default_rng(2))
    found = mining.mine_tuples(replace(training, descriptions=made), drawn, np.random.default_rng(2))
    assert found.negative_distance == expected.negative_distance


def test_the_stage_gives_the_same_whatever_it_keeps_and_leaves_nothing_of_it(pairs_dir, tmp_path):
    config = TrainConfig(network=NetworkConfig(backbone="squeezenet1_1"), loop=LOOP)
    results = {}
    for name, keep in (("kept", KeepConfig()), ("none", KeepConfig(limit_gb=0))):
        out = tmp_path / name
        results[name] = fine_tune(
            pairs_dir, out, config.model_copy(update={"inputs": keep}), weights="random", workers=1
        )
        assert not (out / "inputs").exists()
    assert results["kept"].evaluation == results["none"].evaluation
    same = (tmp_path / "kept" / "weights.safetensors").read_bytes()
    assert (tmp_path / "none" / "weights.safetensors").read_bytes() == same
    # What changes nothing is in no key.
    otherwise = config.model_copy(update={"inputs": keep})
    again = fine_tune(pairs_dir, tmp_path / "kept", otherwise, weights="random")
    assert again == results["kept"]
