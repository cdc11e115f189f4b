"""The rendered collection against its truth: places, poses and positives that reconstruction finds."""

import numpy as np
import pycolmap
import pytest

from experiments.demo.collection import DemoConfig, render_collection
from groundwork.executors import LocalExecutor
from pairs.positives import m3_relaxed_inliers
from pairs.viewpoint import pair_candidates
from sfm.geometry import centres_in_world
from sfm.reconstruct import ReconstructConfig, reconstruct

pytestmark = pytest.mark.slow
CONFIG = DemoConfig(places=3, min_views=9, max_views=10, unrelated=3, twins=False, seed=4)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    truth = render_collection(out, CONFIG)
    with LocalExecutor() as executor:
        return truth, reconstruct(truth.photos, out / "sfm", ReconstructConfig(), executor)


def _positives(models):
    pairs = set()
    for model in models:
        chosen = m3_relaxed_inliers(pair_candidates(model), 0.2, 1.5).positives
        pairs |= {
            (model.names[q], model.names[p]) for q, p in zip(chosen.query, chosen.positive, strict=True)
        }
    return pairs


def test_every_view_of_a_place_is_registered_and_no_other_photo(found):
    truth, result = found
    registered = set(result.images.loc[result.images["status"] == "registered", "name"])
    assert registered == {name for name, place in truth.places.items() if place < truth.num_places}


def test_places_are_recovered_exactly(found):
    truth, result = found
    in_place = result.images[result.images["place"] >= 0]
    groups = in_place.groupby("place")["name"].agg(frozenset)
    assert set(groups) == {frozenset(model.names) for model in truth.models[: truth.num_places]}


def test_cameras_are_within_one_percent_of_the_orbit_radius(found):
    truth, result = found
    assert len(result.models) == truth.num_places
    for model in result.models:
        place = truth.places[model.names[0]]
        true = truth.models[place]
        rows = [true.names.index(name) for name in model.names]
        target = centres_in_world(true.rotations, true.translations)[rows]
        centres = centres_in_world(model.rotations, model.translations)
        off = np.linalg.norm(pycolmap.estimate_sim3d(centres, target) * centres - target, axis=1)
        # The middle of the front is the origin; y points down.
        to_front = centres_in_world(true.rotations, true.translations)[:, [0, 2]]
        assert off.max() < 0.01 * np.median(np.linalg.norm(to_front, axis=1))


def test_mined_positives_are_positives_by_true_geometry(found):
    truth, result = found
    mined, true = _positives(result.models), _positives(truth.models[: truth.num_places])
    # True geometry counts every visible surface point, mining those that SIFT matched: it proves fewer pairs.
    assert len(mined & true) > 0.97 * len(mined)
    assert len(mined & true) > 0.8 * len(true)
