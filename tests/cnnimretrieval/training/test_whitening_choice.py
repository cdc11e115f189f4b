import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cnnimretrieval.evaluation.heldout import prove
from cnnimretrieval.evaluation.queries import Situation, query_set
from cnnimretrieval.training.proof import whitening_choice
from cnnimretrieval.training.proof.collection_whitening import PairSample, Shares, WhiteningConfig
from cnnimretrieval.training.proof.whitening_choice import choose_shares
from cnnimretrieval.whitening.apply import apply
from cnnimretrieval.whitening.estimates import pca_whitening
from pairs.heldout import HeldoutQuery
from pairs.image_pairs import Positives
from pairs.pair_table import PairTable

PLACES, VIEWS, LOOSE, DIM = 12, 4, 12, 10
BOTH = WhiteningConfig(shrinkage="chosen", collection_share="chosen")


def _table() -> PairTable:
    """Twelve places of four views, the last four held out, and photos without a place."""
    place = np.concatenate([np.repeat(np.arange(PLACES), VIEWS), np.full(LOOSE, -1)])
    same = (place[:, None] == place) & (place >= 0) & ~np.eye(len(place), dtype=bool)
    query, positive = np.nonzero(same)
    ones = np.ones(len(query))
    return PairTable(
        names=tuple(f"{row:03d}.jpg" for row in range(len(place))),
        cluster=place,
        place=place,
        is_val=place >= 8,
        is_choosing=np.zeros(len(place), np.bool_),
        sizes=np.full((len(place), 2), 10),
        orientation=np.ones(len(place), np.int64),
        positives=Positives(
            query=query,
            positive=positive,
            shared_points=np.full(len(query), 30),
            overlap=ones / 2,
            scale_change=ones,
            angle_deg=ones,
            strategy=np.full(len(query), "m3"),
            weight=ones,
        ),
    )


@pytest.fixture
def given(tmp_path):
    """Descriptors in which two axes are noise that pairs tell from what sets places apart."""
    rng, table = np.random.default_rng(1), _table()
    noise = np.r_[np.full(2, 3.0), np.full(DIM - 2, 0.25)]
    centres = np.r_[rng.normal(size=(PLACES, DIM)), np.zeros((1, DIM))]

    def views(rows):
        loose = (table.place[rows] < 0)[:, None] * rng.normal(size=(len(rows), DIM))
        found = centres[table.place[rows]] + loose + noise * rng.normal(size=(len(rows), DIM))
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    everything = np.arange(table.num_images)
    asked = [row for row in range(PLACES * VIEWS) for _ in range(3)]
    drawn = [
        HeldoutQuery(
            query=table.names[row],
            kind="retaken" if number % 3 == 2 else "crop",
            purpose="report" if number % 3 == 1 or table.is_val[row] else "choose",
            box=(0, 0, 5, 5),
            rotation_deg=0.0,
            seed=number,
            positives=tuple(
                table.names[o] for o in everything if table.place[o] == table.place[row] and o != row
            ),
            far=(),
            place=int(table.place[row]),
        )
        for number, row in enumerate(asked)
    ]
    pairs = table.positives_of("train")
    database = views(everything)
    sample = PairSample(
        database=database,
        query_vectors=np.concatenate([database, views(pairs.query)]),
        query=len(database) + np.arange(len(pairs)),
        positive=pairs.positive,
        place=table.place[pairs.query],
    )
    return sample, query_set(drawn, table, tmp_path), views(np.array(asked))


def test_given_shares_are_left_as_they_are(given):
    config = WhiteningConfig(shrinkage=0.3, collection_share=0.2)
    assert choose_shares(*given, config, 0) == Shares(shrinkage=0.3, collection=0.2, pca_shrinkage=0.3)
    assert choose_shares(*given, WhiteningConfig(), 0) == Shares(
        shrinkage=None, collection=0.0, pca_shrinkage=None
    )


def test_what_is_given_of_the_two_is_kept(given):
    assert (
        choose_shares(*given, WhiteningConfig(shrinkage=0.3, collection_share="chosen"), 0).shrinkage == 0.3
    )
    assert choose_shares(*given, WhiteningConfig(shrinkage="chosen"), 0).collection == 0.0


def test_the_choice_is_that_of_whitenings_learned_the_plain_way(given, monkeypatch, caplog):
    """Every share tried by learning the whole whitening, axes and all, in each fold and situation."""
    sample, queries, vectors = given
    monkeypatch.setattr(whitening_choice, "_SHRINKAGES", (0.05, 0.9))
    monkeypatch.setattr(whitening_choice, "_COLLECTION_SHARES", (0.0, 0.8))
    with caplog.at_level(logging.INFO):
        chosen = choose_shares(sample, queries, vectors, BOTH, 0)
    table, scores = queries.table, {}
    fitted = ~table.is_val
    for shrinkage in (0.05, 0.9):
        for share in (0.0, 0.8):
            maps = []
            for fold in whitening_choice._folds(queries, 0):
                searched = np.flatnonzero(fold.images)
                everything = np.flatnonzero(fitted)
                for pairs, rows, database in (
                    (sample.without(fold.places), fitted & ~fold.images, searched),
                    (sample.without(fold.places), fitted, everything),
                    (sample, fitted, everything),
                ):
                    learned = pairs.statistics(rows).whitening(
                        dim=None, shrinkage=shrinkage, collection_share=share
                    )
                    situation = Situation(name="own_places", queries=fold.queries, database=database)
                    found = prove(
                        queries,
                        situation,
                        apply(learned, vectors)[situation.queries],
                        situation.searched(apply(learned, sample.database)),
                    )
                    maps += [found.scores["crop"].map, found.scores["retaken"].map]
            scores[shrinkage, share] = np.mean(maps)
    assert (chosen.shrinkage, chosen.collection) == max(scores, key=scores.__getitem__)
    assert len(set(scores.values())) > 1
    assert f"mAP {max(scores.values()):.4f} with training places left out" in caplog.messages[0]


def test_the_shrinkage_of_pca_is_chosen_for_itself_the_plain_way(given, monkeypatch):
    sample, queries, vectors = given
    monkeypatch.setattr(whitening_choice, "_SHRINKAGES", (0.05, 0.9))
    chosen = choose_shares(sample, queries, vectors, BOTH, 0)
    fitted, scores = ~queries.table.is_val, {}
    for shrinkage in (0.05, 0.9):
        maps = []
        for fold in whitening_choice._folds(queries, 0):
            for rows, searched in ((fitted & ~fold.images, fold.images), (fitted, fitted)):
                pca = pca_whitening(sample.database[rows], shrinkage=shrinkage)
                situation = Situation(
                    name="own_places", queries=fold.queries, database=np.flatnonzero(searched)
                )
                found = prove(
                    queries,
                    situation,
                    apply(pca, vectors)[situation.queries],
                    situation.searched(apply(pca, sample.database)),
                )
                maps += [found.scores["crop"].map, found.scores["retaken"].map]
        scores[shrinkage] = np.mean(maps)
    assert len(set(scores.values())) == 2
    assert chosen.pca_shrinkage == max(scores, key=scores.__getitem__)


def test_no_held_out_place_is_looked_at(given):
    sample, queries, vectors = given
    held_out = queries.table.is_val
    chosen = choose_shares(sample, queries, vectors, BOTH, 0)
    garbage = np.random.default_rng(9).normal(size=sample.database.shape).astype(np.float32)
    other = replace(sample, database=np.where(held_out[:, None], garbage, sample.database))
    of_held_out = np.array([query.place >= 8 for query in queries.queries])
    shuffled = np.where(of_held_out[:, None], vectors[::-1], vectors)
    assert choose_shares(other, queries, shuffled, BOTH, 0) == chosen


def test_folds_leave_out_each_training_place_once_with_its_share_of_the_loose(given):
    _, queries, _ = given
    folds = list(whitening_choice._folds(queries, 0))
    assert sorted(np.concatenate([fold.places for fold in folds])) == list(range(8))
    loose = np.sum([fold.images & (queries.table.place < 0) for fold in folds], axis=0)
    assert loose.tolist() == (queries.table.place < 0).astype(int).tolist()
    for fold in folds:
        assert {queries.queries[number].place for number in fold.queries} == set(fold.places.tolist())
        assert {queries.queries[number].purpose for number in fold.queries} == {"choose"}


def test_too_few_places_are_not_chosen_by(given, caplog):
    sample, queries, vectors = given
    few = [query for query in queries.queries if query.place == 0 or query.place >= 8]
    kept = query_set(few, queries.table, Path())
    rows = [number for number, query in enumerate(queries.queries) if query in few]
    shares = choose_shares(sample, kept, vectors[rows], BOTH, 0)
    assert shares == Shares(shrinkage=0.75, collection=0.1, pca_shrinkage=0.75)
    assert "too few training places to choose its shares by" in caplog.messages[0]
    one = WhiteningConfig(shrinkage=0.3, collection_share="chosen")
    shares = choose_shares(sample, kept, vectors[rows], one, 0)
    assert shares == Shares(shrinkage=0.3, collection=0.1, pca_shrinkage=0.3)


@pytest.mark.parametrize("wrong", [-0.1, 1.5])
def test_shares_are_checked(wrong):
    for name in ("shrinkage", "collection_share"):
        with pytest.raises(ValueError, match=rf"expected a share from 0 to 1, or chosen, got {wrong:g}"):
            WhiteningConfig(**{name: wrong})
