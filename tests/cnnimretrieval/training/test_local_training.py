import json
from dataclasses import replace
from math import exp, log

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cnnimretrieval.local.store import read_local
from cnnimretrieval.networks.local_head import LocalConfig
from cnnimretrieval.networks.model_folder import read_folder, save
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.networks.open import load
from cnnimretrieval.training.fine_tune import TrainConfig, fine_tune
from cnnimretrieval.training.local.losses import (
    attended_loss,
    correspondence_loss,
    pooled_loss,
    surely_apart,
)
from cnnimretrieval.training.local.maps import photo_maps
from cnnimretrieval.training.local.settings import LocalTrainingConfig, LocalWeights
from cnnimretrieval.training.local.supervision import (
    Observations,
    observations,
    pseudo_classes,
    shared_places,
    worth_attending,
)
from cnnimretrieval.training.local.training import Lessons, learn_local, read_lessons, teaching_models
from cnnimretrieval.training.settings.loop_config import LoopConfig
from experiments.benchmarks import attention, heads
from groundwork.files import read_json
from groundwork.orientation import upright_xy
from pairs.heldout import write_heldout
from pairs.image_pairs import Candidates
from pairs.pair_table import write_candidates
from sfm.model import load_model, save_model

SMALL = LocalTrainingConfig(photos=20, image_size=64, scales=(1.0,), epochs=2, batch_pairs=3, long_track=2)


def candidates_of(table) -> Candidates:
    positives = table.positives
    ones = np.ones(len(positives))
    return Candidates(
        query=positives.query,
        positive=positives.positive,
        shared_points=positives.shared_points,
        overlap=ones,
        scale_change=ones,
        angle_deg=ones,
        baseline=ones,
        frustum_overlap=ones,
    )


@pytest.fixture
def sfm_dir(collection, pairs_dir, sfm_dir):
    write_candidates(candidates_of(collection.table), collection.table.names, pairs_dir)
    return sfm_dir


@pytest.fixture
def lessons(collection, sfm_dir):
    files = [sfm_dir / "models" / str(place) / "arrays.npz" for place in range(5)]
    return Lessons(
        collection=collection,
        candidates=candidates_of(collection.table),
        seen=observations(files, collection.table),
    )


def headed(local=LocalConfig(dim=8, hidden=16)):  # noqa: B008
    return build(NetworkConfig(backbone="squeezenet1_1", local=local), "random", seed=3)


def test_attended_loss_by_hand():
    scores = torch.tensor([log(2), 3.0, 0.5, 9.0])
    worth, worthless = (
        torch.tensor(mask) for mask in ([True, False, False, False], [False, True, True, False])
    )
    # 1 - exp(-log 2) = 1/2; exp(-3) and exp(-0.5) are the probabilities of not attending.
    assert float(attended_loss(scores, worth, worthless)) == pytest.approx(0.5 * (log(2) + 1.75))
    z = torch.tensor([0.3, -2.0], requires_grad=True)
    both = attended_loss(
        torch.nn.functional.softplus(z), torch.tensor([True, False]), torch.tensor([False, True])
    )
    expected = torch.nn.functional.binary_cross_entropy_with_logits(z, torch.tensor([1.0, 0.0]))
    assert torch.allclose(both, expected)
    zeros = torch.zeros(2, requires_grad=True)
    attended_loss(zeros, torch.tensor([True, False]), torch.tensor([False, True])).backward()
    assert zeros.grad.isfinite().all()
    assert float(attended_loss(scores, worth, ~worth & worth)) == 0.0


def test_pooled_loss_by_hand():
    pooled = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    matching = torch.tensor([[False, True, False], [True, False, False], [False] * 3])
    apart = torch.tensor([[False, False, True], [False] * 3, [True, False, False]])
    found = pooled_loss(pooled, matching, apart, margin=0.8)
    assert float(found) == pytest.approx(0.5 * 2.0 + 0.5 * 0.8**2, abs=1e-5)


def test_correspondence_loss_is_that_of_a_plain_loop():
    torch.manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(5, 4), dim=1) for _ in range(2))
    competes = torch.rand(5, 5) > 0.4
    scores, slow = (a @ b.T / 0.1).tolist(), []
    for i in range(5):
        row = [exp(scores[i][j]) for j in range(5) if j == i or competes[i, j]]
        column = [exp(scores[j][i]) for j in range(5) if j == i or competes[j, i]]
        slow += [log(sum(row)) - scores[i][i], log(sum(column)) - scores[i][i]]
    assert float(correspondence_loss(a, b, competes, 0.1)) == pytest.approx(float(np.mean(slow)), rel=1e-5)
    assert float(correspondence_loss(a[:0], b[:0], competes[:0, :0], 0.1)) == 0.0


def test_points_compete_when_they_are_surely_different():
    photos = torch.tensor([[1, 2], [1, 2], [1, 2], [1, 3], [7, 8]])
    cells = torch.tensor(
        [[[0, 0], [0, 0]], [[0, 1], [5, 5]], [[3, 3], [0, 4]], [[6, 6], [6, 6]], [[0, 0], [0, 0]]]
    )
    found = surely_apart(photos, cells, torch.tensor([4, 4, 4, 4, 9]))
    # 0 and 1 are neighbours in the first photo; 3 is of another photo of the place; 4 of another place.
    expected = torch.zeros(5, 5, dtype=torch.bool)
    for i, j in ((0, 2), (1, 2), (0, 4), (1, 4), (2, 4), (3, 4)):
        expected[i, j] = expected[j, i] = True
    assert torch.equal(found, expected)


def test_places_of_long_tracks_are_worth_attending_and_those_without_points_are_not():
    worth, worthless = worth_attending(np.array([6, 8, -1]), np.array([3, 2, 9]), 4, 5, long_track=3)
    assert worth.reshape(4, 5).nonzero()[0].tolist() == [1]
    assert worth[6]
    # Around places (1, 1) and (1, 3): all of the first three rows.
    assert np.flatnonzero(worthless).tolist() == [15, 16, 17, 18, 19]


def test_shared_places_are_those_of_common_points():
    a = Observations(xy=np.zeros((4, 2)), point=np.array([5, 7, 9, 2]), length=np.full(4, 2))
    b = Observations(xy=np.zeros((3, 2)), point=np.array([9, 5, 2]), length=np.full(3, 2))
    assert shared_places(a, np.array([1, 3, 1, -1]), b, np.array([4, 4, 6])).tolist() == [[1, 4]]


def test_observations_are_upright_and_count_photos(collection, sfm_dir):
    table = replace(collection.table, orientation=np.full(collection.table.num_images, 6))
    path = sfm_dir / "models" / "0" / "arrays.npz"
    model = load_model(path)
    twice = replace(
        model,
        track_image=np.append(model.track_image, 0),
        track_point=np.append(model.track_point, 0),
        track_xy=np.append(model.track_xy, [[1.0, 1.0]], axis=0),
    )
    save_model(twice, path)
    seen = observations([path], table)
    assert sorted(seen) == [0, 1, 2]
    assert (seen[1].length == 3).all()
    width, height = model.sizes[1]
    assert np.allclose(seen[1].xy, upright_xy(model.track_xy[12:24], width, height, 6))
    assert len(seen[0].xy) == 13


def test_classes_are_clusters_split_by_covisibility_and_never_compete_within_a_place(collection):
    table = collection.table
    classes, competes = pseudo_classes(table, candidates_of(table), 10, seed=0)
    assert (classes[table.is_val | (table.cluster < 0)] == -1).all()
    assert len(set(classes[classes >= 0].tolist())) == len(competes) == 3
    assert np.array_equal(competes, ~np.eye(3, dtype=bool))
    # Two groups of images that see each other, tied by one weak pair.
    one_place = replace(
        table,
        place=np.append(np.zeros(15, np.int64), -1),
        cluster=np.append(np.zeros(15, np.int64), -1),
        is_val=np.zeros(table.num_images, bool),
    )
    pairs = [(i, j) for group in (range(7), range(7, 15)) for i in group for j in group if i < j] + [(6, 7)]
    query, positive = np.array(pairs).T
    ones = np.ones(len(query))
    graph = Candidates(
        query=query,
        positive=positive,
        shared_points=np.append(np.full(len(query) - 1, 40), 1),
        overlap=ones,
        scale_change=ones,
        angle_deg=ones,
        baseline=ones,
        frustum_overlap=ones,
    )
    classes, competes = pseudo_classes(one_place, graph, 10, seed=0)
    assert len(set(classes[:7].tolist())) == len(set(classes[7:15].tolist())) == 1
    assert classes[0] != classes[7]
    assert not competes.any()


def test_places_of_positions_are_those_whose_centres_are_nearest(collection):
    network = headed()
    with photo_maps(network, [collection.whole(0)], [64], device="cpu", workers=0) as maps:
        (one,) = maps
        assert one.activations.shape == (one.height * one.width, 512)
        assert one.places_of(one.centres).tolist() == list(range(one.height * one.width))
        near = one.places_of(one.centres + np.array([5.0, -5.0]))
        assert near.tolist() == list(range(one.height * one.width))
        assert one.places_of(np.array([[-50.0, 10.0], [500.0, 10.0]])).tolist() == [-1, -1]


@pytest.mark.parametrize(
    "weights",
    [
        LocalWeights(),
        LocalWeights(geometry=0, tracks=0, tuples=1),
        LocalWeights(geometry=0, tracks=0, classes=1),
        LocalWeights(geometry=0, tracks=1, reconstruction=0),
    ],
)
def test_each_way_teaches_the_head_and_nothing_else(lessons, weights):
    network = headed()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    config = SMALL.model_copy(update={"weights": weights, "epochs": 12, "learning_rate": 1e-2})
    result = learn_local(network, lessons, config, seed=1)
    assert set(result.losses) == {name for name, weight in weights if weight}
    assert all(len(values) == 12 for values in result.losses.values())
    assert sum(values[-1] for values in result.losses.values()) < sum(v[0] for v in result.losses.values())
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if not name.startswith("local."))
    assert (network.local.score_quantiles.diff() >= 0).all()
    assert not network.training
    again = headed()
    assert learn_local(again, lessons, config, seed=1).losses == result.losses
    assert again.fingerprint() == network.fingerprint()


@pytest.mark.parametrize("reduction", ["pca", "whitening"])
def test_reductions_without_learning_are_computed(lessons, reduction):
    network = headed(LocalConfig(reduction=reduction, attention="norm", dim=6))
    assert learn_local(network, lessons, SMALL, seed=1).losses == {}
    rows = [0, 1, 2, 6, 7, 8]
    requests = [lessons.collection.whole(row) for row in rows]
    with photo_maps(network, requests, [64] * 6, device="cpu", workers=0) as maps:
        found = []
        for one in maps:
            x = torch.from_numpy(one.activations.astype(np.float32)).T.reshape(1, 512, one.height, one.width)
            found.append(network.local.reduce(network.local.reducible(x)[0].flatten(1).T))
    projected = torch.cat(found).detach().numpy()
    covariance = np.cov(projected.T)
    off = covariance - np.diag(np.diag(covariance))
    weight = network.local.reduce.weight
    if reduction == "pca":
        assert torch.allclose(weight @ weight.T, torch.eye(6), atol=1e-4)
    assert np.abs(off).max() < 0.5 * np.diag(covariance).max()


def attention_ratios(network, lessons, rows):
    """Of each photo with points, the mean attention at places of them over that at all other places."""
    rows = [row for row in rows if row in lessons.seen]
    requests = [lessons.collection.whole(row) for row in rows]
    ratios = []
    with photo_maps(network, requests, [64] * len(rows), device="cpu", workers=0) as maps:
        for one, row in zip(maps, rows, strict=True):
            levels = torch.from_numpy(one.activations.astype(np.float32)).T
            with torch.inference_mode():
                found = network.local(levels.reshape(1, -1, one.height, one.width))
            scores = found.scores.flatten().numpy()
            places = np.unique(one.places_of(lessons.seen[row].xy))
            on = np.isin(np.arange(len(scores)), places[places >= 0])
            ratios.append(scores[on].mean() / scores[~on].mean())
    return np.array(ratios)


def test_geometry_teaches_attention_to_what_is_triangulated(lessons):
    network = headed()
    rows = [row for row in np.flatnonzero(~lessons.collection.table.is_val).tolist() if row in lessons.seen]
    untaught = attention_ratios(network, lessons, rows)
    config = SMALL.model_copy(update={"epochs": 40, "learning_rate": 1e-2})
    learn_local(network, lessons, config, seed=1)
    # Maps of 3 x 3 places, half of which see points: far from what a photo of a building gives.
    assert np.abs(untaught - 1.0).max() < 0.05
    taught = attention_ratios(network, lessons, rows)
    assert taught.min() > 1.0
    assert taught.mean() > 1.1


def test_a_finished_run_is_judged_by_what_its_head_attends_to(collection, sfm_dir, tmp_path, capsys):
    network = headed()
    save(network, tmp_path / "model")
    rows = attention.held_out_rows(collection.table, "report")
    assert {int(collection.table.place[row]) for row in rows} == {1, 3}
    code = attention.main([str(tmp_path), "--image-size", "64"])
    shown = capsys.readouterr().out
    assert code == int("MISSED" in shown)
    files = teaching_models(tmp_path / "pairs", LocalTrainingConfig())
    told = read_lessons(tmp_path / "pairs", collection, files, device="cpu", workers=0)
    ratios = attention_ratios(network, told, rows)
    assert f"| {tmp_path}/model | {len(rows)} | {np.median(ratios):.2f} | {ratios.mean():.2f} |" in shown
    assert attention.main([str(tmp_path), "--image-size", "64", "--every", "4"]) in (0, 1)
    assert f"model | {-(-len(rows) // 4)} |" in capsys.readouterr().out


def test_heads_are_taught_on_one_network_and_compared(heldout, sfm_dir, tmp_path, capsys):
    pytest.importorskip("cv2")
    save(headed(None), tmp_path / "model")
    retaken = [replace(query, kind="retaken") for query in heldout if query.kind == "crop"]
    write_heldout([*heldout, *retaken], tmp_path / "pairs" / "heldout.parquet")
    recipes = tmp_path / "recipes.toml"
    recipes.write_text(
        'all = ["train.network.local.dim=8", "train.local.epochs=1", "train.local.image_size=64"]\n'
        "[recipes]\nboth = []\ngeometry = ['train.local.weights.tracks=0']\n"
    )
    out = tmp_path / "out"
    words = [str(tmp_path), "--out", str(out), "--recipes", str(recipes), "--local-set", "image_size=64"]
    assert heads.main([*words, "--unseen"]) == 0
    header, *rows = read_json(out / "heads.json")
    assert [row[0] for row in rows] == ["none", "SIFT", "both", "geometry"]
    assert {len(row) for row in rows} == {len(header)}
    for name, *scores, _, size, attention_ratio, _ in rows:
        assert all(0.0 <= float(score) <= 1.0 for score in scores)
        if name in ("both", "geometry"):
            assert float(attention_ratio) > 0
            assert size == f"{read_local(out / name).bytes_a_photo:,.0f}" != "0"
    both, geometry = (load(out / name / "model") for name in ("both", "geometry"))
    assert both.without_local().fingerprint() == geometry.without_local().fingerprint()
    assert both.fingerprint() != geometry.fingerprint()
    shown = capsys.readouterr().out
    assert "| both |" in shown
    queries = sum(query.kind == "crop" for query in heldout)
    assert f"{queries} crop queries and {queries} retaken queries of 2 places" in shown


def test_a_network_without_a_head_attends_to_nothing(sfm_dir, tmp_path, capsys):
    save(build(NetworkConfig(backbone="squeezenet1_1"), "random"), tmp_path / "model")
    with pytest.raises(SystemExit) as stopped:
        attention.main([str(tmp_path)])
    assert stopped.value.code == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(
            "error: network: expected one with a local head, got squeezenet1_1:gem without; "
            "train one with train.network.local.reduction set"
        )
    )


def test_a_training_hands_out_one_folder_with_a_taught_head(pairs_dir, sfm_dir, tmp_path):
    loop = LoopConfig(image_size=64, epochs=1, tuples_per_epoch=6)
    plain = TrainConfig(network=NetworkConfig(backbone="squeezenet1_1"), loop=loop)
    local = LocalConfig(dim=8, hidden=16)
    config = TrainConfig(network=plain.network.model_copy(update={"local": local}), loop=loop, local=SMALL)
    alone = fine_tune(pairs_dir, tmp_path / "plain", plain, weights="random")
    both = fine_tune(pairs_dir, tmp_path / "both", config, weights="random")
    assert both.evaluation == alone.evaluation
    network = read_folder(tmp_path / "both")
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(network(images), read_folder(tmp_path / "plain")(images))
    assert network.local.dim == 8
    assert network.local.score_quantiles[-1] > 0
    taught = json.loads((tmp_path / "both" / "local.json").read_text())
    assert set(taught["losses"]) == {"geometry", "tracks", "reconstruction"}
    assert not (tmp_path / "plain" / "local.json").exists()
    assert "local" not in plain.model_dump(mode="json")
    written = (tmp_path / "both" / "weights.safetensors").stat().st_mtime_ns
    fine_tune(pairs_dir, tmp_path / "both", config, weights="random")
    assert (tmp_path / "both" / "weights.safetensors").stat().st_mtime_ns == written


def test_what_cannot_teach_is_told(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"^train\.local: expected a reconstruction, whose tracks teach, got none in "
    ):
        teaching_models(tmp_path / "pairs", SMALL)
    without = SMALL.model_copy(update={"weights": LocalWeights(geometry=0, tracks=0)})
    assert teaching_models(tmp_path / "pairs", without) == []
    with pytest.raises(
        ValidationError, match=r"local: expected a network with a local head to teach, got one without"
    ):
        TrainConfig(local=SMALL)


def test_losses_that_leave_the_finite_numbers_are_told(lessons):
    network = headed()
    network.local.reduce.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="epoch 1: expected a finite loss, got nan; lower"):
        learn_local(network, lessons, SMALL, seed=1)
