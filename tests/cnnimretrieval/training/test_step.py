from dataclasses import replace

import numpy as np
import pytest
import torch

from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.training.learning import gradients
from cnnimretrieval.training.learning.batches import Batch, load_batches
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.gradients import describe_with_gradient
from cnnimretrieval.training.learning.mining import draw_epoch, draw_tuples, examples_of_part, mine_tuples
from cnnimretrieval.training.learning.step import Learner
from cnnimretrieval.training.losses.cross_batch_memory import CrossBatchMemory
from cnnimretrieval.training.losses.pair_masks import PairMasks
from cnnimretrieval.training.losses.registry import LOSSES, BatchLossConfig, contrastive, mean_over_anchors
from cnnimretrieval.training.settings.loop_config import LoopConfig
from pairs.negatives import NegativesConfig

BATCH_LOSSES = ["multi_similarity", "supcon", "smooth_ap", "quantised_ap"]


def _training(collection, **settings) -> Training:
    loop = LoopConfig.model_validate(
        {"image_size": 64, "tuples_per_epoch": 6, "batch_tuples": 3, "margin": 1.2, "learning_rate": 1e-3}
        | {"negatives": NegativesConfig(num_negatives=2)}
        | settings
    )
    network = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)
    return Training(network=network, collection=collection, config=loop, seed=1)


def _batches(training, seed: int = 0) -> list[Batch]:
    rng = np.random.default_rng(seed)
    (drawn,) = draw_epoch(training, rng)
    examples = examples_of_part(training, drawn, rng)
    return list(load_batches(examples, training))


def _sgd(training) -> torch.optim.SGD:
    # Its step is the gradient itself.
    return torch.optim.SGD(training.network.parameters(), lr=1.0)


def test_masks_know_both_ways_and_what_nobody_knows(collection):
    masks = PairMasks(collection.table)
    rows = np.array([0, 1, 6, 15, 3])
    # Rows 0 and 1 are of place 0, 6 of place 2, 15 of none, 3 of a held-out place.
    assert masks.matching(rows, rows)[:2, :2].tolist() == [[False, True], [True, False]]
    assert not masks.matching(rows, rows)[2:].any()
    apart = masks.apart(rows, np.array([1, 7, 15]))
    assert apart.tolist() == [
        [False, True, True],
        [False, True, True],
        [True, False, True],
        [True, True, False],
        [True, True, True],
    ]
    # Held-out pairs are not known in training.
    assert not masks.matching(np.array([3]), np.array([4, 5])).any()


def test_gradients_of_tuples_add_up_or_are_divided_by_the_pairs(collection):
    summed, per_pair = _training(collection), _training(collection, gradient="per_pair")
    batch = _batches(summed)[0]
    before = {name: value.detach().clone() for name, value in summed.network.state_dict().items()}
    losses = [Learner(t, _sgd(t)).step(batch) for t in (summed, per_pair)]
    assert losses[0] == pytest.approx(losses[1])
    fresh = _training(collection)
    described = [describe_with_gradient(fresh, g.pictures) for g in batch]
    assert losses[0] == pytest.approx(sum(contrastive(d[None], 1.2).item() for d in described), rel=1e-5)
    pairs = sum(len(group.rows) - 1 for group in batch)
    name = "trunk.features.0.weight"
    one, other = (t.network.state_dict()[name] - before[name] for t in (summed, per_pair))
    assert pairs == 9
    torch.testing.assert_close(one, pairs * other, rtol=1e-3, atol=1e-6)
    assert one.abs().max() > 1e-4


def _gradients(training, batch):
    """Sum of the losses and the gradient of every weight, by name."""
    before = {name: value.detach().clone() for name, value in training.network.named_parameters()}
    total = Learner(training, _sgd(training)).step(batch)
    return total, {name: before[name] - value.detach() for name, value in training.network.named_parameters()}


@pytest.mark.parametrize(
    ("loss", "gradient"),
    [("contrastive", "summed"), ("contrastive", "per_pair"), ("triplet", "summed"), ("supcon", "summed")],
)
@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 100])
def test_gradients_do_not_depend_on_how_many_pictures_go_through_at_once(collection, loss, gradient, at_once):
    settings = {"loss": loss, "gradient": gradient, "margin": 0.05, "learning_rate": 1e-3}
    whole = _training(collection, **settings)
    batch = _batches(whole)[0]
    total, expected = _gradients(whole, batch)
    same_total, found = _gradients(_training(collection, pictures_at_once=at_once, **settings), batch)
    assert same_total == pytest.approx(total, rel=1e-5)
    largest = max(value.abs().max() for value in expected.values())
    assert largest > 1e-4
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4 * float(largest))


def test_pictures_that_the_loss_does_not_move_do_not_go_through_twice(collection, monkeypatch):
    training = _training(collection, loss="triplet")
    batch = _batches(training)[0]
    with torch.no_grad():
        vectors = [describe_with_gradient(training, example.pictures) for example in batch]
    further = [(q - n).square().sum() - (q - p).square().sum() for q, p, *others in vectors for n in others]
    margin = float(np.median(further))  # which half of the negatives keep
    near = (np.array(further).reshape(len(batch), -1) < margin).sum(axis=1)
    assert near.min() < near.max()
    training = _training(collection, loss="triplet", margin=margin, pictures_at_once=1)
    # A tuple without any near negative takes one picture along, for a gradient of zero.
    moved = int(np.where(near > 0, near + 2, 1).sum())
    sizes = []
    real = gradients._described

    def counted(training, pictures, group, with_graph):
        sizes.append(len(group) if with_graph else 0)
        return real(training, pictures, group, with_graph)

    monkeypatch.setattr(gradients, "_described", counted)
    Learner(training, _sgd(training)).step(batch)
    assert sum(sizes) == moved < sum(map(len, vectors))


@pytest.mark.parametrize("sampling", ["tuples", "clusters"])
@pytest.mark.parametrize("loss", BATCH_LOSSES)
def test_every_batch_loss_learns_with_either_sampling(collection, loss, sampling):
    settings = {"loss": loss, "sampling": sampling, "clusters_per_batch": 3, "images_per_cluster": 3}
    training = _training(collection, learning_rate=1e-4, **settings)
    batch = _batches(training)[0]
    optimizer = torch.optim.Adam(training.network.parameters(), lr=3e-4)
    learner = Learner(training, optimizer)
    losses = [learner.step(batch) for _ in range(6)]
    assert losses[-1] < losses[0]
    assert all(torch.isfinite(weight).all() for weight in training.network.parameters())


def test_a_batch_is_scored_as_one_with_what_is_known_of_its_pairs(collection):
    training = _training(collection, loss="supcon", sampling="clusters", clusters_per_batch=2)
    batch = _batches(training)[0]
    with torch.no_grad():
        vectors = describe_with_gradient(training, [p for g in batch for p in g.pictures])
    place = torch.from_numpy(collection.table.place[[row for g in batch for row in g.rows]])
    same = place[:, None] == place
    matching = same & ~torch.eye(len(place), dtype=bool)  # every two views of a place are positives here
    expected = mean_over_anchors(LOSSES["supcon"], vectors @ vectors.T, matching, ~same, BatchLossConfig())
    assert Learner(training, _sgd(training)).step(batch) / len(batch) == pytest.approx(
        float(expected), rel=1e-4
    )


def test_memory_keeps_the_latest_and_scores_them():
    memory = CrossBatchMemory(3)
    first, second = torch.eye(4)[:2], torch.eye(4)[1:3] * 2.0
    assert memory.scores(first).shape == (2, 0)
    memory.add(first, torch.tensor([5, 6]))
    memory.add(second, torch.tensor([7, 8]))
    assert memory.rows.tolist() == [6, 7, 8]
    assert memory.scores(torch.tensor([[0.0, 1.0, 0.5, 0.0]])).tolist() == [[1.0, 2.0, 1.0]]


def test_the_memory_adds_negatives_of_other_places_and_nothing_else(collection):
    settings = {"loss": "multi_similarity", "sampling": "clusters", "clusters_per_batch": 2}
    plain, remembering = (_training(collection, memory_size=size, **settings) for size in (0, 50))
    first, second = _batches(plain)[:2]
    learners = [Learner(t, torch.optim.SGD(t.network.parameters(), lr=0.0)) for t in (plain, remembering)]
    assert learners[0].step(first) == pytest.approx(learners[1].step(first))
    without, with_memory = (learner.step(second) for learner in learners)
    assert with_memory > without

    rows, kept = ([row for g in batch for row in g.rows] for batch in (second, first))
    place = collection.table.place
    with torch.no_grad():
        new, old = (
            describe_with_gradient(plain, [p for g in s for p in g.pictures]) for s in (second, first)
        )
    masks = PairMasks(collection.table)
    matching = np.pad(masks.matching(np.array(rows), np.array(rows)), ((0, 0), (0, len(kept))))
    apart = place[rows][:, None] != np.concatenate([place[rows], place[kept]])
    scores = new @ torch.cat([new, old]).T
    expected = mean_over_anchors(
        LOSSES["multi_similarity"],
        scores,
        torch.from_numpy(matching),
        torch.from_numpy(apart),
        BatchLossConfig(),
    )
    assert with_memory / len(second) == pytest.approx(float(expected), rel=1e-4)


def test_half_precision_stays_near_and_describes_in_float32(collection):
    full, half = _training(collection), _training(collection, precision="bfloat16")
    pictures = _batches(full)[0][0].pictures
    one, other = (describe_with_gradient(t, pictures) for t in (full, half))
    assert other.dtype == torch.float32
    assert not torch.equal(one, other)
    assert ((one * other).sum(dim=1) > 0.999).all()


def test_an_epoch_mined_in_parts_learns_from_as_many_tuples(collection):
    training = _training(collection, minings_per_epoch=3, tuples_per_epoch=7)
    rng = np.random.default_rng(0)
    parts = [examples_of_part(training, part, rng) for part in draw_epoch(training, rng)]
    assert [len(part.rows) for part in parts] == [2, 2, 3]
    assert [part.batch_size for part in parts] == [3, 3, 3]


def test_the_parts_of_an_epoch_share_its_draws_and_one_pool(collection):
    training = _training(collection, pool_size=6, tuples_per_epoch=7, minings_per_epoch=3)
    whole = draw_tuples(training, 7, np.random.default_rng(0))
    parts = draw_epoch(training, np.random.default_rng(0))
    np.testing.assert_array_equal(np.concatenate([part.query for part in parts]), whole.query)
    np.testing.assert_array_equal(np.concatenate([part.positive for part in parts]), whole.positive)
    assert sum((part.requests for part in parts), ()) == whole.requests
    for part in parts:
        np.testing.assert_array_equal(part.pool, parts[0].pool)
    assert len(parts[0].pool) == 6


@pytest.mark.parametrize("allow_unplaced", [False, True])
def test_a_photo_that_matched_nothing_is_the_positive_of_its_details(collection, allow_unplaced):
    table, share = collection.table, 0.5
    negatives = NegativesConfig(num_negatives=9, allow_unplaced=allow_unplaced)
    training = _training(collection, unplaced_share=share, pool_holds_pairs=True, negatives=negatives)
    rng = np.random.default_rng(0)
    tuples = mine_tuples(training, draw_tuples(training, 6, rng), rng)
    query, positive = tuples.rows[:, 0], tuples.rows[:, 1]
    alone = table.place[query] < 0
    assert alone.sum() == share * len(query)
    # Not one after the other: a part of an epoch has its share of them.
    assert not alone[: alone.sum()].all()
    np.testing.assert_array_equal(query == positive, alone)
    for row, request, its_own in zip(query, tuples.requests, alone, strict=True):
        assert request.path == collection.whole(row).path
        assert (request.box is not None) == its_own
    unplaced = table.place < 0
    for row, found in zip(query, tuples.negatives, strict=True):
        others = found[found >= 0]
        assert len(others)
        assert row not in others
        assert not (table.place[others] == table.place[row]).any() or unplaced[row]
        assert allow_unplaced or not unplaced[others].any()
    if allow_unplaced:
        assert any(unplaced[found[found >= 0]].any() for found in tuples.negatives[~alone])


def test_without_photos_that_matched_nothing_all_tuples_are_of_places(collection):
    placed = replace(collection.table, place=np.where(collection.table.place < 0, 99, collection.table.place))
    training = _training(replace(collection, table=placed), unplaced_share=0.5)
    drawn = draw_tuples(training, 6, np.random.default_rng(0))
    assert len(drawn.query) == 6
    assert (drawn.query != drawn.positive).all()


def test_the_pool_may_begin_with_the_drawn_pairs(collection):
    # Room for no more than the pairs: their own places are all there is to find negatives in.
    training, rng = _training(collection, pool_size=4, pool_holds_pairs=True), np.random.default_rng(5)
    tuples = mine_tuples(training, draw_tuples(training, 2, rng), rng)
    drawn = {*tuples.rows[:, :2].ravel().tolist()}
    assert {*tuples.negatives[tuples.negatives >= 0].tolist()} <= drawn
