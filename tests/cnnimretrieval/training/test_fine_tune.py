import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.tensors import normalise, to_levels
from cnnimretrieval.networks.network import NetworkConfig
from cnnimretrieval.networks.open import load
from cnnimretrieval.training import fine_tune as stage
from cnnimretrieval.training import sources
from cnnimretrieval.training.fine_tune import fine_tune
from cnnimretrieval.training.learning import loop as loop_module
from cnnimretrieval.training.learning.loop import run_loop
from cnnimretrieval.training.photos.collection import QueryConfig
from cnnimretrieval.training.proof import collection_whitening as whitenings
from cnnimretrieval.training.proof import rows
from cnnimretrieval.training.proof.collection_whitening import WhiteningConfig
from cnnimretrieval.training.proof.whitening_layers import LayersConfig
from cnnimretrieval.training.settings.loop_config import LoopConfig
from cnnimretrieval.training.settings.train_config import TrainConfig
from cnnimretrieval.training.sources import read_sources
from cnnimretrieval.whitening.estimates import pca_whitening
from groundwork.files import read_table, write_json
from groundwork.records import mark_done
from pairs.heldout import write_heldout
from pairs.pair_table import write_pair_table
from pairs.same_place_negatives import ApartPairs

ROWS = ["off_the_shelf", "off_the_shelf_pca", "off_the_shelf_whitened", "fine_tuned", "fine_tuned_whitened"]
CONFIG = TrainConfig(
    network=NetworkConfig(backbone="squeezenet1_1"),
    loop=LoopConfig(
        image_size=64,
        epochs=1,
        tuples_per_epoch=6,
        learning_rate=1e-4,
        query=QueryConfig(distorted_share=0.5),
    ),
    whitening=WhiteningConfig(
        dim=12, shrinkage=0.5, collection_share=0.6, pairs_per_query=2, distorted_share=1
    ),
)


def test_the_folder_holds_the_best_row_and_the_proof(pairs_dir, collection, tmp_path):
    out = tmp_path / "model"
    result = fine_tune(pairs_dir, out, CONFIG, weights="random")
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(result.evaluation) == ROWS
    assert metrics == result.model_dump(mode="json")
    # All of the stage, not its epochs alone.
    assert result.train.seconds > sum(log.seconds for log in result.train.epochs) > 0
    means = {
        row: np.mean([one.crop.map for one in result.evaluation[row].situations.values()]) for row in ROWS
    }
    assert result.kept == max(ROWS, key=means.__getitem__)
    for row in ROWS:
        scores = result.evaluation[row]
        assert scores.map == scores.crop.map
        assert 0 <= scores.whole.map <= 1
        assert scores.crop.places == 2
        assert metrics["evaluation"][row]["map"] == metrics["evaluation"][row]["crop"]["map"] == scores.map
    network = load(out)
    assert (network.whitening is None) == (result.kept in ("off_the_shelf", "fine_tuned"))
    picture = normalise(to_levels(Image.open(collection.whole(0).path)), (0, 0, 0), (1, 1, 1))
    assert network(picture[None]).shape == (1, network.dim)
    rankings = read_table(out / "rankings.parquet")
    assert rankings.groupby("row").size().to_dict() == dict.fromkeys(ROWS, 12)
    tuples = read_table(out / "tuples.parquet")
    assert len(tuples) == 6
    assert not set(tuples["query"]) & {q for q in rankings["query"]}


def test_the_settings_may_say_which_network_is_kept(pairs_dir, tmp_path):
    best = fine_tune(pairs_dir, tmp_path / "model", CONFIG, weights="random")
    other = next(row for row in ROWS if row != best.kept)
    chosen = CONFIG.model_copy(update={"keep": other})
    kept = fine_tune(pairs_dir, tmp_path / "model", chosen, weights="random")
    assert kept.kept == other
    assert kept.evaluation == best.evaluation
    assert (load(tmp_path / "model").whitening is None) == (other in ("off_the_shelf", "fine_tuned"))
    if other != "fine_tuned_whitened":
        assert kept.train.verdict.endswith(f"; as the settings say, {other.replace('_', ' ')}, is kept")


@pytest.mark.parametrize(
    ("keep", "kind"), [("off_the_shelf_pca", "pca"), ("fine_tuned_whitened", "learned"), ("fine_tuned", None)]
)
def test_a_whitening_of_several_scales_is_estimated_too_where_asked(
    pairs_dir, collection, tmp_path, keep, kind
):
    scales = (1.0, 0.6)
    whitening = CONFIG.whitening.model_copy(update={"scales": scales})
    loop = CONFIG.loop.model_copy(update={"epochs": 0})
    config = CONFIG.model_copy(update={"whitening": whitening, "loop": loop, "keep": keep})
    fine_tune(pairs_dir, tmp_path / "model", config, weights="random")
    network = load(tmp_path / "model")
    several = network.whitening_for(scales)
    if kind is None:
        assert several is network.whitening is None
        return
    assert several.kind == network.whitening.kind == kind
    assert network.whitening_for((1.0,)) is network.whitening is not several
    if kind == "pca":
        rows = np.flatnonzero(~collection.table.is_val)
        requests = [collection.whole(row) for row in rows]
        found = describe(network, requests, ExtractConfig(image_size=64, scales=scales))
        expected = pca_whitening(found.require_all(), dim=12, shrinkage=0.5)
        np.testing.assert_allclose(several.mean, expected.mean, atol=1e-7)
        np.testing.assert_allclose(several.projection, expected.projection, atol=1e-3)


@pytest.mark.parametrize(
    ("scales", "expected"),
    [((0.5,), "1 alone, or several factors"), ((1.0, 0.0), "factors from 0.01 to 4")],
)
def test_scales_of_a_whitening_are_checked(scales, expected):
    with pytest.raises(ValidationError) as error:
        WhiteningConfig(scales=scales)
    assert error.value.errors()[0]["msg"] == (
        f"Value error, scales: expected {expected}, got {scales}; 1,0.7071,0.5 is common"
    )


EVERY_LAYER = {"local_whitening": True, "regional": True, "region_whitening": True, "projection": 16}


def _layer(path, outputs, seed):
    generator = torch.Generator().manual_seed(seed)
    state = {"weight": torch.randn(outputs, 512, generator=generator), "bias": torch.ones(outputs)}
    torch.save(state, path)
    return state["weight"]


def test_training_starts_from_files_of_layers(pairs_dir, tmp_path):
    sizes = {"local_whitening": 512, "region_whitening": 512, "projection": 16}
    files = {name: tmp_path / f"{name}.pth" for name in sizes}
    weights = {name: _layer(files[name], size, seed) for seed, (name, size) in enumerate(sizes.items())}
    config = CONFIG.model_copy(
        update={
            "network": CONFIG.network.model_copy(update=EVERY_LAYER),
            "layers": LayersConfig(**files),
            "keep": "off_the_shelf",
        }
    )
    fine_tune(pairs_dir, tmp_path / "model", config, weights="random")
    network = load(tmp_path / "model")
    assert torch.equal(network.local_whitening.weight, weights["local_whitening"])
    assert torch.equal(network.pool.whitening.weight, weights["region_whitening"])
    assert torch.equal(network.projection.weight, weights["projection"])


def test_layers_without_a_file_start_as_the_settings_say(pairs_dir, tmp_path):
    weight = _layer(tmp_path / "local.pth", 512, 3)
    network = CONFIG.network.model_copy(update={"local_whitening": True, "projection": 5})
    config = CONFIG.model_copy(
        update={
            "network": network,
            "layers": LayersConfig(start="pca", local_whitening=tmp_path / "local.pth"),
            "whitening": CONFIG.whitening.model_copy(update={"dim": 3}),
            "keep": "off_the_shelf",
        }
    )
    fine_tune(pairs_dir, tmp_path / "model", config, weights="random")
    found = load(tmp_path / "model")
    assert torch.equal(found.local_whitening.weight, weight)
    assert not torch.equal(found.projection.weight.detach(), torch.eye(5, 512))


def test_what_a_file_holds_decides_and_not_its_place(pairs_dir, tmp_path, monkeypatch):
    network = CONFIG.network.model_copy(update={"projection": 16})

    def start(path):
        return CONFIG.model_copy(update={"network": network, "layers": LayersConfig(projection=path)})

    _layer(tmp_path / "a.pth", 16, 3)
    (tmp_path / "moved.pth").write_bytes((tmp_path / "a.pth").read_bytes())
    _layer(tmp_path / "other.pth", 16, 4)
    first = fine_tune(pairs_dir, tmp_path / "model", start(tmp_path / "a.pth"), weights="random")
    with monkeypatch.context() as patched:
        patched.setattr(stage, "run_loop", None)
        assert (
            fine_tune(pairs_dir, tmp_path / "model", start(tmp_path / "moved.pth"), weights="random") == first
        )
    again = fine_tune(pairs_dir, tmp_path / "model", start(tmp_path / "other.pth"), weights="random")
    assert again.evaluation != first.evaluation


@pytest.mark.parametrize("start", ["pca", "learned"])
def test_training_starts_from_a_projection_by_whitening(pairs_dir, tmp_path, start):
    config = CONFIG.model_copy(
        update={
            "network": CONFIG.network.model_copy(update={"projection": 5}),
            "layers": LayersConfig(start=start),
            "whitening": CONFIG.whitening.model_copy(update={"dim": 3}),
            "keep": "off_the_shelf",
        }
    )
    fine_tune(pairs_dir, tmp_path / "a", config, weights="random")
    weight = load(tmp_path / "a").projection.weight.detach()
    # Axes of a whitening, not the identity, and the fine-tuned network started from them.
    assert not torch.equal(weight, torch.eye(5, 512))
    tuned = config.model_copy(update={"keep": "fine_tuned"})
    fine_tune(pairs_dir, tmp_path / "b", tuned, weights="random")
    after = load(tmp_path / "b").projection.weight.detach()
    assert 0 < (after - weight).abs().max() < 0.01 * weight.abs().max()


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (
            {"start": "pca"},
            "layers.start: expected identity for a network without whitening layers, got pca; "
            "set network.local_whitening, region_whitening or projection",
        ),
        (
            {"projection": "layer.pth"},
            "layers.projection: expected no file for a network without that layer, got layer.pth; "
            "set network.projection, or leave it out",
        ),
        (
            {"local_whitening": "layer.pth"},
            "layers.local_whitening: expected no file for a network without that layer, got layer.pth; "
            "set network.local_whitening, or leave it out",
        ),
    ],
)
def test_there_must_be_layers_to_start(layers, said):
    with pytest.raises(ValidationError) as wrong:
        TrainConfig(layers=LayersConfig(**layers))
    assert wrong.value.errors()[0]["msg"] == f"Value error, {said}"


def test_a_second_call_returns_at_once(pairs_dir, tmp_path, monkeypatch):
    out = tmp_path / "model"
    first = fine_tune(pairs_dir, out, CONFIG, weights="random")
    monkeypatch.setattr(stage, "run_loop", None)
    assert fine_tune(pairs_dir, out, CONFIG, weights="random") == first


def test_another_setting_trains_again(pairs_dir, tmp_path):
    out = tmp_path / "model"
    first = fine_tune(pairs_dir, out, CONFIG, weights="random")
    other = CONFIG.model_copy(update={"seed": 5})
    assert fine_tune(pairs_dir, out, other, weights="random").train.epochs != first.train.epochs


def test_only_what_the_weights_hang_on_starts_a_training_anew(pairs_dir):
    def key(watch=None, **loop):
        config = CONFIG.model_dump() | {"watch": watch or {}, "loop": CONFIG.loop.model_dump() | loop}
        return read_sources(pairs_dir, TrainConfig.model_validate(config), "random").loop_key("photos")

    assert key(epochs=4) == key() == key({"checkpoint_minutes": 0})
    assert key(pictures_at_once=2) == key(recompute=True) == key()
    cosine = {"schedule": {"kind": "cosine"}}
    assert len({key(), key(**cosine), key(**cosine, epochs=4), key(average_decay=0.9), key(patience=3)}) == 5


def test_the_best_is_that_of_the_places_set_aside(pairs_dir, collection, heldout, tmp_path, monkeypatch):
    split = replace(collection.table, is_choosing=collection.table.place == 3)
    write_pair_table(split, pairs_dir)
    drawn = [replace(query, purpose="choose" if query.place == 3 else "report") for query in heldout]
    write_heldout(drawn, pairs_dir / "heldout.parquet")
    real = rows.choosing_score
    seen = []

    def pretend(proofs):
        seen.append({place for proof in proofs for place in proof.kinds["crop"].place.tolist()})
        return [0.5, 0.7, 0.65, 0.6, 0.4][(len(seen) - 1) % 5] + 0 * real(proofs)

    monkeypatch.setattr(rows, "choosing_score", pretend)
    result = fine_tune(pairs_dir, tmp_path / "model", CONFIG, weights="random")
    assert seen == [{3}] * 5
    assert result.kept == "off_the_shelf_pca"
    assert result.train.chosen_on == "places set aside"
    assert result.train.verdict.endswith(
        "; the best of all rows on the places set aside for choosing, off the shelf pca, is kept"
    )
    assert result.evaluation["off_the_shelf_pca"].places == 1
    assert load(tmp_path / "model").whitening.kind == "pca"


def test_without_places_set_aside_the_reported_ones_choose(pairs_dir, tmp_path):
    result = fine_tune(pairs_dir, tmp_path / "model", CONFIG, weights="random")
    assert result.train.chosen_on == "reported places"
    for scores in result.evaluation.values():
        assert list(scores.situations) == ["unseen_database", "own_collection"]
        assert scores.situations["unseen_database"].crop.map == scores.map


def test_the_whitening_that_is_handed_out_sees_no_held_out_image(
    pairs_dir, collection, tmp_path, monkeypatch
):
    seen = []
    real_pca, real_gather = rows.pca_whitening, whitenings.gather

    def pca(vectors, **options):
        seen.append(("pca", len(vectors)))
        return real_pca(vectors, **options)

    def gather(vectors, queries, positives, **options):
        seen.append(("learned", len(vectors)))
        searched = np.arange(16) if len(vectors) == 16 else np.flatnonzero(~collection.table.is_val)
        assert not collection.table.is_val[searched[positives]].any()
        assert (collection.table.place[searched[positives]] >= 0).all()
        return real_gather(vectors, queries, positives, **options)

    monkeypatch.setattr(rows, "pca_whitening", pca)
    monkeypatch.setattr(whitenings, "gather", gather)
    kept = CONFIG.model_copy(update={"keep": "fine_tuned_whitened"})
    fine_tune(pairs_dir, tmp_path / "model", kept, weights="random")
    # Each once without what is held out, and once with the whole collection, for the situation of that name.
    assert seen == [(kind, count) for kind in ("learned", "pca", "learned") for count in (10, 16)]
    assert "and 10 descriptors" in load(tmp_path / "model").whitening.note


def test_what_follows_the_loop_may_change_and_epochs_be_added(pairs_dir, tmp_path, monkeypatch):
    out, learned = tmp_path / "model", []
    real = loop_module._next_epoch

    def watch(training, state, progress):
        learned.append(progress.epoch + 1)
        return real(training, state, progress)

    monkeypatch.setattr(loop_module, "_next_epoch", watch)
    fine_tune(pairs_dir, out, CONFIG, weights="random")
    whitening = CONFIG.whitening.model_copy(update={"dim": 8, "scales": (1.0, 0.5)})
    loop = CONFIG.loop.model_copy(update={"initial_share": 0.5, "validation_epochs": 3})
    other = CONFIG.model_copy(update={"whitening": whitening, "loop": loop, "keep": "fine_tuned_whitened"})
    fine_tune(pairs_dir, out, other, weights="random")
    assert learned == [1]
    more = CONFIG.model_copy(update={"loop": CONFIG.loop.model_copy(update={"epochs": 2})})
    result = fine_tune(pairs_dir, out, more, weights="random")
    assert learned == [1, 2]
    assert result.evaluation == fine_tune(pairs_dir, tmp_path / "anew", more, weights="random").evaluation
    learned.clear()
    fewer = CONFIG.model_copy(update={"loop": CONFIG.loop.model_copy(update={"epochs": 0})})
    fine_tune(pairs_dir, out, fewer, weights="random")
    fine_tune(pairs_dir, out, CONFIG, weights="random")
    assert learned == [1]


@pytest.mark.parametrize("through", [True, False])
def test_training_goes_through_the_initial_networks_whitening_when_asked_to(
    pairs_dir, tmp_path, monkeypatch, through
):
    seen = []

    def watch(training, *args):
        seen.append(training.whitening)
        return run_loop(training, *args)

    monkeypatch.setattr(stage, "run_loop", watch)
    loop = CONFIG.loop.model_copy(update={"through_whitening": through, "epochs": 0})
    result = fine_tune(pairs_dir, tmp_path, CONFIG.model_copy(update={"loop": loop}), weights="random")
    first = result.train.epochs[0].validation["map_crop"]
    if through:
        assert seen[0].kind == "learned"
        # Without an epoch the fine-tuned network is the initial one, and so are its whitenings.
        for row in ("off_the_shelf_whitened", "fine_tuned_loss_whitening", "fine_tuned_whitened"):
            assert result.evaluation[row].map == first
    else:
        assert seen == [None]
        assert first == result.evaluation["off_the_shelf"].map
        assert "fine_tuned_loss_whitening" not in result.evaluation


def test_damaged_weights_are_told_before_anything_is_learned_or_written(pairs_dir, tmp_path, monkeypatch):
    real = sources.initial_network

    def damaged(config, weights):
        network = real(config, weights)
        network.trunk.features[0].bias.data.fill_(-1e6)
        return network

    monkeypatch.setattr(sources, "initial_network", damaged)
    with pytest.raises(
        ValueError,
        match=r"^network before training: expected finite descriptors, got NaN, infinity or 0",
    ) as error:
        fine_tune(pairs_dir, tmp_path / "model", CONFIG, weights="random")
    assert str(error.value).endswith(" more; its weights are damaged: start from others")
    assert not list((tmp_path / "model").rglob("*.npy"))


def test_pairs_that_were_not_mined_to_the_end_are_refused(pairs_dir, tmp_path):
    (pairs_dir / "done" / "mine.json").unlink()
    with pytest.raises(FileNotFoundError) as error:
        fine_tune(pairs_dir, tmp_path / "model", CONFIG, weights="random")
    assert str(error.value) == (
        f"pairs: expected a folder that mining finished, got {pairs_dir}; run mine first"
    )


def test_one_place_is_trained_with_negatives_of_its_own_and_the_verdict_says_what_it_is_worth(
    collection, heldout, tmp_path
):
    table = collection.table
    # All in one place; images of different patterns are proven apart, three of them for each image.
    different = [(q, n) for q in range(15) for n in range(15) if q // 3 != n // 3 and (n - q) % 5 == 1]
    one = replace(
        table,
        cluster=np.where(table.place >= 0, 0, -1),
        place=np.where(table.place >= 0, 0, -1),
        is_val=np.zeros(16, bool),
        is_choosing=np.zeros(16, bool),
        apart=ApartPairs(**dict(zip(("query", "negative"), np.array(different).T, strict=True))),
    )
    folder = tmp_path / "pairs"
    write_pair_table(one, folder)
    write_heldout([replace(query, place=0) for query in heldout], folder / "heldout.parquet")
    write_json(folder / "photos.json", {"version": 1, "photos": str(collection.photos), "content": "of it"})
    mark_done(folder, "mine", "key of mining")

    result = fine_tune(folder, tmp_path / "model", CONFIG, weights="random")

    assert "measured on the one place that was trained on: nothing was held out" in result.train.verdict
    place = {name: number // 3 for number, name in enumerate(table.names)}
    tuples = read_table(tmp_path / "model" / "tuples.parquet")
    pairs = [(row.query, name) for row in tuples.itertuples() for name in row.negatives]
    assert len(pairs) > 0
    known = {(table.names[q], table.names[n]) for q, n in different}
    assert set(pairs) <= known
    assert all(place[query] != place[negative] for query, negative in pairs)
