from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from groundwork.files import write_json, write_table
from pairs.mine import MineConfig, mine
from pairs.same_place_negatives import ApartPairs, apart_pairs, no_pairs
from pairs.viewpoint import pair_candidates
from sfm.model import Model, save_model


def street(num_images: int = 12, seed: int = 0, place: int = 0) -> Model:
    """Cameras walking along a wall that they look at straight: neighbours share points, far ones nothing."""
    rng = np.random.default_rng(seed)
    n = num_images
    x, y, z = rng.uniform(-3, n + 3, 80 * n), rng.uniform(-1, 1, 80 * n), rng.uniform(3, 3.2, 80 * n)
    points = np.column_stack([x, y, z])
    centres = np.column_stack([np.arange(n) + rng.uniform(-0.2, 0.2, n), np.zeros((n, 2))])
    seen = points[None] - centres[:, None]
    xy = 60 * seen[..., :2] / seen[..., 2:] + [32, 24]
    image, point = np.nonzero(((xy > 0) & (xy < [64, 48])).all(axis=2))
    return Model(
        names=tuple(f"{place}-{number:03d}.jpg" for number in range(num_images)),
        rotations=np.tile(np.eye(3), (num_images, 1, 1)),
        translations=-centres,
        focal_px=np.full(num_images, 60.0),
        sizes=np.full((num_images, 2), (64, 48)),
        points=points,
        track_image=image,
        track_point=point,
        track_xy=xy[image, point],
        place=place,
    )


def test_all_apart_are_those_of_a_naive_loop():
    model = street()
    seen = [set(model.track_point[model.track_image == i].tolist()) for i in range(model.num_images)]
    expected = {(a, b) for a in range(12) for b in range(12) if not seen[a] & seen[b]}
    found = apart_pairs(model, 11, np.random.default_rng(0))
    # Every point in view is seen here, so that frusta are disjoint where no point is shared.
    assert set(zip(found.query.tolist(), found.negative.tolist(), strict=True)) == expected
    assert len(found) == len(expected) > 60
    assert (np.diff(found.query) >= 0).all()


def test_a_point_in_view_that_is_not_tracked_there_keeps_two_images_from_being_apart():
    model = street()
    pair = (2, 3)
    shared = np.intersect1d(*(model.track_point[model.track_image == i] for i in pair))
    # The second image loses every track that it shares with the first.
    keep = ~((model.track_image == pair[1]) & np.isin(model.track_point, shared))
    arrays = {name: getattr(model, name)[keep] for name in ("track_image", "track_point", "track_xy")}
    lost = Model(**{name: getattr(model, name) for name in model.__dataclass_fields__} | arrays)
    found = apart_pairs(lost, 11, np.random.default_rng(0))
    assert pair not in set(zip(found.query.tolist(), found.negative.tolist(), strict=True))


def test_a_shared_track_is_enough_wherever_the_poses_put_it():
    model = street()
    # With lenses eight times as long as those that took the tracks nothing is in view of a neighbour.
    narrow = replace(model, focal_px=8 * model.focal_px)
    found = apart_pairs(narrow, 11, np.random.default_rng(0))
    wide = apart_pairs(model, 11, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(found.query), np.sort(wide.query))


def test_fewer_are_drawn_by_seed():
    model = street(40)
    first, again, other = (apart_pairs(model, 2, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.negative, again.negative)
    assert not np.array_equal(first.negative, other.negative)
    assert np.bincount(first.query).max() == 2
    everything = apart_pairs(model, 39, np.random.default_rng(0))
    known = set(zip(everything.query.tolist(), everything.negative.tolist(), strict=True))
    drawn = list(zip(first.query.tolist(), first.negative.tolist(), strict=True))
    assert set(drawn) <= known
    assert len(set(drawn)) == len(drawn)


def test_pairs_that_match_elsewhere_go_in_either_order():
    model = street(6)
    matching = pair_candidates(model).take(np.array([0]))  # 0 and 1
    assert (matching.query[0], matching.positive[0]) == (0, 1)
    apart = ApartPairs(query=np.array([0, 0, 1, 4]), negative=np.array([1, 5, 0, 0]))
    left = apart.without(matching)
    assert (left.query.tolist(), left.negative.tolist()) == ([0, 4], [5, 0])


def test_pairs_out_of_order_are_refused():
    message = "apart pairs: expected pairs by rising query, got another order; sort them"
    with pytest.raises(ValueError, match=message):
        ApartPairs(query=np.array([1, 0]), negative=np.array([0, 1]))


@pytest.fixture
def one_street(tmp_path):
    model = street(30)
    folder = tmp_path / "sfm"
    save_model(model, folder / "models" / "0" / "arrays.npz")
    columns = ["name", "status", "reason", "model", "place", "width", "height", "orientation"]
    rows = [(name, "registered", "", 0, 0, 64, 48, 1) for name in model.names]
    write_table(folder / "images.parquet", pd.DataFrame(rows, columns=columns))
    write_json(folder / "photos.json", {"version": 1, "photos": str(tmp_path / "photos")})
    return folder


def test_one_place_is_mined_with_negatives_of_its_own(one_street, tmp_path, caplog):
    result = mine(one_street, tmp_path / "pairs", MineConfig(apart_per_query=5))
    assert caplog.messages == [
        "split: one place, so nothing is held out; scores will be of the place that is trained on"
    ]
    assert not result.table.is_val.any()
    assert len(result.heldout) > 0
    assert result.stats["apart"] == len(result.table.apart) == 30 * 5
    again = mine(one_street, tmp_path / "pairs", MineConfig(apart_per_query=5))
    np.testing.assert_array_equal(again.table.apart.negative, result.table.apart.negative)


def test_by_default_nothing_is_apart_and_one_place_is_refused(one_street, tmp_path):
    assert len(no_pairs()) == 0
    with pytest.raises(ValueError, match="split") as error:
        mine(one_street, tmp_path / "pairs", MineConfig())
    assert str(error.value) == (
        "split: expected at least 2 places with matching pairs, got 1; "
        "add photos of other places, several of each, or set pairs.apart_per_query"
    )
