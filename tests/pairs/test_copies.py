from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from groundwork.files import write_json, write_table
from pairs.copies import copied_pairs, without_copies
from pairs.mine import MineConfig, mine
from pairs.viewpoint import pair_candidates
from sfm.model import Model, save_model

COPIED = 3


def with_copy(model: Model, scale: float = 1.0, shift=(0.0, 0.0), noise: float = 0.2, **changed) -> Model:
    """The model with one more image, last, that sees what the fourth one sees, at other pixels of its own."""
    rng = np.random.default_rng(1)
    seen = np.flatnonzero(model.track_image == COPIED)
    xy = scale * model.track_xy[seen] + shift
    size = changed.get("size", np.round(scale * model.sizes[COPIED]).astype(np.int64))
    inside = ((xy > 0) & (xy < size)).all(axis=1)
    extra = {
        "names": (*model.names, "zz-copy.jpg"),
        "track_image": np.append(model.track_image, np.full(int(inside.sum()), model.num_images)),
        "track_point": np.append(model.track_point, model.track_point[seen[inside]]),
        "track_xy": np.concatenate([model.track_xy, xy[inside] + rng.normal(0, noise, (inside.sum(), 2))]),
        "sizes": np.concatenate([model.sizes, [size]]),
        "focal_px": np.append(model.focal_px, scale * model.focal_px[COPIED]),
    }
    for field in ("rotations", "translations"):
        poses = getattr(model, field)
        extra[field] = np.concatenate([poses, poses[[changed.get("pose", COPIED)]]])
    return replace(model, **extra)


@pytest.mark.parametrize(
    "made",
    [
        {},
        {"scale": 0.5},
        {"scale": 2.0, "noise": 0.6},
        {"shift": (-30.0, -24.0), "size": (500, 400)},
        {"shift": (20.0, 20.0), "size": (640, 520)},
        {"scale": 0.7, "shift": (-21.0, -9.0), "size": (380, 300)},
    ],
)
def test_a_copy_is_found_at_any_scale_and_with_other_margins(ring_model, made):
    model = ring_model(0)
    # 560 x 460 pixels, so that margins are known.
    model = replace(model, sizes=np.where(np.arange(14)[:, None] == COPIED, [560, 460], model.sizes))
    assert copied_pairs(with_copy(model, **made)).tolist() == [[COPIED, 14]]


@pytest.mark.parametrize(
    "made",
    [
        {"noise": 6.0},
        {"shift": (-200.0, 0.0), "size": (300, 460)},
        {"pose": 9},
    ],
)
def test_other_views_are_none(ring_model, made):
    model = ring_model(0)
    model = replace(model, sizes=np.where(np.arange(14)[:, None] == COPIED, [560, 460], model.sizes))
    assert copied_pairs(with_copy(model, **made)).tolist() == []


def test_the_same_patch_in_other_surroundings_is_none(ring_model):
    model = with_copy(ring_model(0, num_points=1200))
    assert copied_pairs(model).tolist() == [[COPIED, 14]]
    middle = model.sizes[COPIED] / 2
    near = np.abs(model.track_xy - middle).max(axis=1) < 0.15 * model.sizes[COPIED].min()
    kept = near | ~np.isin(model.track_image, [COPIED, 14])
    tracks = {field: getattr(model, field)[kept] for field in ("track_image", "track_point", "track_xy")}
    assert (tracks["track_image"] == 14).sum() >= 20
    assert copied_pairs(replace(model, **tracks)).tolist() == []


def test_views_of_a_ring_are_no_copies_whatever_the_frame_of_the_model(ring_model):
    for seed in range(4):
        assert copied_pairs(ring_model(seed)).shape == (0, 2)


def test_a_turned_copy_is_found(ring_model):
    model = with_copy(ring_model(0))
    copy = model.track_image == 14
    width, height = model.sizes[14].tolist()
    turned = np.stack([height - model.track_xy[:, 1], model.track_xy[:, 0]], axis=1)
    sizes = np.concatenate([model.sizes[:14], [[height, width]]])
    model = replace(model, sizes=sizes, track_xy=np.where(copy[:, None], turned, model.track_xy))
    assert copied_pairs(model).tolist() == [[COPIED, 14]]


def test_pairs_go_in_both_orders(ring_model):
    candidates = pair_candidates(ring_model(0))
    one, two = int(candidates.query[0]), int(candidates.positive[0])
    left = without_copies(candidates, np.array([[one, two]]))
    assert len(left) == len(candidates) - 2
    pairs = set(zip(left.query.tolist(), left.positive.tolist(), strict=True))
    assert not {(one, two), (two, one)} & pairs
    assert len(without_copies(candidates, np.empty((0, 2), np.int64))) == len(candidates)


@pytest.mark.parametrize("strategy", ["m2", "m3", "weighted"])
def test_a_copy_is_neither_positive_nor_right_answer(ring_model, tmp_path, strategy):
    models = [with_copy(ring_model(0, place=0)), ring_model(1, place=1)]
    models += [replace(ring_model(2, place=2), names=tuple(f"x{i:02d}" for i in range(14)))]
    rows = []
    for number, model in enumerate(models):
        save_model(model, tmp_path / "sfm" / "models" / str(number) / "arrays.npz")
        for name, (width, height) in zip(model.names, model.sizes.tolist(), strict=True):
            rows.append((name, "registered", "", number, number, width, height, 1))
    columns = ["name", "status", "reason", "model", "place", "width", "height", "orientation"]
    write_table(tmp_path / "sfm" / "images.parquet", pd.DataFrame(sorted(rows), columns=columns))
    write_json(tmp_path / "sfm" / "photos.json", {"version": 1, "photos": "/somewhere/photos"})
    pair = {models[0].names[COPIED], "zz-copy.jpg"}
    settings = {"strategy": strategy, "heldout": {"min_shared_points": 10}, "split": {"val_share": 0.99}}
    found = {}
    for near_copies in (True, False):
        config = MineConfig.model_validate(settings | {"near_copies": near_copies})
        result = mine(tmp_path / "sfm", tmp_path / "pairs", config)
        positives = pd.read_parquet(tmp_path / "pairs" / "positives.parquet")
        asked = [query for query in result.heldout if query.query in pair]
        found[near_copies] = (
            any(set(ends) == pair for ends in zip(positives["query"], positives["positive"], strict=True)),
            any(pair <= {query.query, *query.positives} for query in asked),
            len(asked) > 0,
        )
        dropped = result.stats["dropped"].get("pair: near-copies", 0)
        assert dropped == (2 if near_copies else 0)
    assert found[True][:2] == (False, False)
    assert found[False][:2] == (True, found[False][2])
