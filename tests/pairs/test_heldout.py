from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from groundwork.orientation import upright_size, upright_xy
from pairs.heldout import HeldoutConfig, TestPlace, draw_queries, read_heldout, write_heldout

CONFIG = HeldoutConfig(min_shared_points=10, retaken_per_image=0)


def orientations(model, *others) -> dict[str, int]:
    cycle = dict(zip(model.names, np.arange(model.num_images) % 8 + 1, strict=True))
    return {name: int(value) for name, value in cycle.items()} | dict.fromkeys(others, 1)


def draw(place, models, orientation, seed, config, **more):
    """The queries of photos whose content is in the order of their names."""
    photos = pd.DataFrame(sorted(orientation.items()), columns=["name", "orientation"])
    photos = photos.assign(content=photos["name"])
    return draw_queries(TestPlace(number=place, models=models, photos=photos, **more), seed, config)


def naive_positives(model, orientation, query) -> list[str]:
    """Images that see at least 10 of the distinct points which the query observes inside the box."""
    row = model.names.index(query.query)
    width, height = map(int, model.sizes[row])
    inside = set()
    for k in np.flatnonzero(model.track_image == row):
        (x, y), *_ = upright_xy(model.track_xy[k : k + 1], width, height, orientation[query.query])
        x1, y1, x2, y2 = query.box
        if x1 <= x < x2 and y1 <= y < y2:
            inside.add(int(model.track_point[k]))
    seen = [set(model.track_point[model.track_image == i].tolist()) for i in range(model.num_images)]
    return [model.names[i] for i in range(model.num_images) if i != row and len(seen[i] & inside) >= 10]


def test_positives_share_enough_points_inside_the_box(ring_model):
    model = ring_model(2)
    orientation = orientations(model, "loose.jpg")
    queries, dropped = draw(4, [model], orientation, 0, CONFIG)

    kinds = [query.kind for query in queries]
    assert kinds.count("whole") == model.num_images
    assert kinds.count("crop") + dropped.total() == 2 * model.num_images
    assert kinds.count("crop") > model.num_images
    for query in queries:
        assert list(query.positives) == naive_positives(model, orientation, query)
        assert query.positives
        assert query.query not in query.positives
        assert "loose.jpg" not in query.positives
        assert (query.place, query.purpose, query.far) == (4, "report", ())


def test_whole_queries_are_the_upright_photo_and_crops_12_to_36_percent_of_it(ring_model):
    model = ring_model(2)
    orientation = orientations(model)
    queries, _ = draw(0, [model], orientation, 1, CONFIG)
    areas, stretches = [], []
    for query in queries:
        size = model.sizes[model.names.index(query.query)]
        width, height = upright_size(int(size[0]), int(size[1]), orientation[query.query])
        x1, y1, x2, y2 = query.box
        if query.kind == "whole":
            assert query.box == (0, 0, width, height)
            assert query.rotation_deg == 0
        else:
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
            assert 0 < abs(query.rotation_deg) <= 8
            areas.append((x2 - x1) * (y2 - y1) / (width * height))
            stretches.append((x2 - x1) / (y2 - y1) * height / width)
    # Boxes are in whole pixels: half a pixel of 100 on either side.
    assert 0.119 < min(areas) < 0.2
    assert 0.28 < max(areas) < 0.363
    assert 0.74 < min(stretches) < 0.9
    assert 1.1 < max(stretches) < 1.35
    assert len({query.seed for query in queries}) == len(queries)


def test_the_seed_fixes_the_queries_of_an_image_whatever_else_is_there(ring_model):
    model = ring_model(2)
    first, _ = draw(0, [model], orientations(model), 5, CONFIG)
    with_another, _ = draw(
        0, [model, ring_model(1)], orientations(ring_model(1)) | orientations(model), 5, CONFIG
    )
    other_seed, _ = draw(0, [model], orientations(model), 6, CONFIG)

    names = [query.query for query in with_another]
    assert names == sorted(names)
    boxes = {(query.query, query.box, query.seed) for query in first}
    assert boxes <= {(query.query, query.box, query.seed) for query in with_another}
    crops = {query.box for query in first if query.kind == "crop"}
    assert not crops & {query.box for query in other_seed if query.kind == "crop"}


def test_the_first_box_with_positives_is_taken(ring_model):
    model = ring_model(2)
    config = CONFIG.model_copy(update={"tries": 1})
    one_try, given_up = draw(0, [model], orientations(model), 0, config)
    many_tries, _ = draw(0, [model], orientations(model), 0, CONFIG)
    assert given_up.total() > 0
    assert len(one_try) < len(many_tries)
    assert {(query.query, query.box) for query in one_try} <= {
        (query.query, query.box) for query in many_tries
    }


def test_of_two_models_with_the_image_the_one_that_shares_more_counts(ring_model):
    model = ring_model(2)
    keep = np.random.default_rng(0).random(model.num_observations) < 0.4
    thin = replace(
        model,
        track_image=model.track_image[keep],
        track_point=model.track_point[keep],
        track_xy=model.track_xy[keep],
    )
    orientation = orientations(model)
    alone, _ = draw(0, [model], orientation, 0, CONFIG)
    both, _ = draw(0, [thin, model], orientation, 0, CONFIG)
    assert both == alone
    assert draw(0, [thin], orientation, 0, CONFIG)[0] != alone


def test_images_that_share_too_little_are_counted_not_asked(ring_model):
    model = ring_model(2)
    queries, dropped = draw(
        0,
        [model],
        orientations(model),
        0,
        HeldoutConfig(min_shared_points=10_000, crops_per_image=1, retaken_per_image=0),
    )
    assert queries == []
    assert dropped == {
        "whole query: fewer than 10000 points shared with any image": model.num_images,
        "crop query: fewer than 10000 points shared with any image": model.num_images,
    }


def test_queries_go_through_their_file(ring_model, tmp_path):
    model = ring_model(2)
    queries, _ = draw(0, [model], orientations(model), 0, CONFIG)
    write_heldout(queries, tmp_path / "heldout.parquet")
    assert read_heldout(tmp_path / "heldout.parquet") == tuple(queries)
    write_heldout([], tmp_path / "heldout.parquet")
    assert read_heldout(tmp_path / "heldout.parquet") == ()


def test_crops_larger_than_the_photo_are_refused():
    with pytest.raises(
        ValidationError, match=r"expected min_area <= max_area <= 1 / max_stretch, got 0.12, 0.9 and 1.33333"
    ):
        HeldoutConfig(max_area=0.9)


def test_retaken_crops_have_boxes_of_their_own(ring_model):
    model = ring_model(2)
    queries, _ = draw(0, [model], orientations(model), 0, HeldoutConfig(min_shared_points=10))
    retaken = [query for query in queries if query.kind == "retaken"]
    assert 0 < len(retaken) <= model.num_images
    assert not {query.box for query in retaken} & {query.box for query in queries if query.kind == "crop"}
    without, _ = draw(0, [model], orientations(model), 0, CONFIG)
    assert [query for query in queries if query.kind != "retaken"] == without


def test_a_large_place_is_asked_by_some_of_its_photos(ring_model):
    model = ring_model(2)
    all_of_them, _ = draw(0, [model], orientations(model), 0, CONFIG)
    few = CONFIG.model_copy(update={"images_per_place": 3})
    asked, _ = draw(0, [model], orientations(model), 0, few)
    names = sorted({query.query for query in asked})
    assert len(names) == 3
    assert asked == [query for query in all_of_them if query.query in names]
    other_seed, _ = draw(0, [model], orientations(model), 1, few)
    assert names != sorted({query.query for query in other_seed})


def test_a_training_place_is_asked_by_crops_for_either_purpose(ring_model):
    model = ring_model(2)
    queries, _ = draw(0, [model], orientations(model), 0, HeldoutConfig(min_shared_points=10), purpose=None)
    asked = {(query.kind, query.purpose) for query in queries}
    assert asked == {("crop", "report"), ("crop", "choose"), ("retaken", "choose")}
    assert len({query.query for query in queries}) <= 5


def test_far_views_are_told_apart_from_other_positives(ring_model):
    model = ring_model(2)
    orientation = orientations(model)
    plain, _ = draw(0, [model], orientation, 0, CONFIG)
    first = plain[0]
    far = {first.query: frozenset([first.positives[0], "nobody.jpg"])}
    told, _ = draw(0, [model], orientation, 0, CONFIG, far=far)
    assert told[0].far == (first.positives[0],)
    assert told[0].positives == first.positives
    assert all(not query.far for query in told if query.query != first.query)
