import numpy as np
import pytest
from PIL import Image

from experiments.demo.cameras import FILM_DIAGONAL_MM
from experiments.demo.collection import DemoConfig, build_scene, plan_scenes, render_collection
from experiments.demo.truth import load_truth
from pairs.viewpoint import pair_candidates
from sfm.geometry import angles_between_deg

SMALL = DemoConfig(
    places=2, min_views=3, max_views=4, unrelated=1, width=200, height=150, px_per_m=14.0, supersampling=1
)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    return out, render_collection(out, SMALL, workers=0)


def test_the_photos_are_all_there_and_nothing_else_is_beside_them(rendered):
    out, truth = rendered
    assert sorted(path.name for path in (out / "photos").iterdir()) == sorted(truth.places)
    assert truth.photos == out / "photos"
    assert truth.num_places == 2
    assert 7 <= len(truth.places) <= 9
    for name in truth.places:
        with Image.open(out / "photos" / name) as photo:
            photo.load()
            assert set(photo.size) == {200, 150}
            assert np.asarray(photo.convert("L")).std() > 15


def test_the_truth_is_read_back_as_it_was_returned(rendered):
    out, truth = rendered
    again = load_truth(out)
    assert again.places == truth.places
    assert again.twins == (0, 1)
    for first, second in zip(again.models, truth.models, strict=True):
        assert first.names == second.names
        np.testing.assert_array_equal(first.points, second.points)


def test_places_and_models_name_the_same_photos(rendered):
    _, truth = rendered
    for place, model in enumerate(truth.models):
        assert model.place == place
        assert set(model.names) == {name for name, where in truth.places.items() if where == place}


def test_tracks_are_the_projections_of_their_points(rendered):
    _, truth = rendered
    for model in truth.models:
        image, point = model.track_image, model.track_point
        local = (
            np.einsum("oij,oj->oi", model.rotations[image], model.points[point]) + model.translations[image]
        )
        projected = model.focal_px[image, None] * local[:, :2] / local[:, 2:] + model.sizes[image] / 2
        np.testing.assert_allclose(model.track_xy, projected, atol=1e-6)
        assert model.num_observations > 20 * model.num_images
        assert (model.track_xy >= 0).all()
        assert (model.track_xy < model.sizes[image]).all()


def test_views_of_a_place_share_points_and_more_so_from_nearby(rendered):
    _, truth = rendered
    model = truth.models[0]
    pairs = pair_candidates(model)
    assert len(pairs.overlap) == model.num_images * (model.num_images - 1)
    assert pairs.overlap.min() > 0.1


def test_exif_gives_the_true_focal_length_or_none(rendered):
    out, truth = rendered
    with_focal = 0
    for model in truth.models:
        for name, focal_px in zip(model.names, model.focal_px, strict=True):
            with Image.open(out / "photos" / name) as photo:
                focal_35mm = photo.getexif().get_ifd(0x8769).get(0xA405)
            if focal_35mm is not None:
                assert focal_px == pytest.approx(focal_35mm * np.hypot(200, 150) / FILM_DIAGONAL_MM)
                with_focal += 1
    assert 0 < with_focal < len(truth.places)


def test_the_pictures_depend_on_the_seed_only(tmp_path):
    tiny = SMALL.model_copy(
        update={"places": 1, "twins": False, "unrelated": 0, "min_views": 2, "max_views": 2}
    )
    render_collection(tmp_path / "serial", tiny, workers=0)
    render_collection(tmp_path / "child", tiny, workers=1)
    render_collection(tmp_path / "other", tiny.model_copy(update={"seed": 2}), workers=0)

    def photos(name):
        return [path.read_bytes() for path in sorted((tmp_path / name / "photos").iterdir())]

    assert photos("serial") == photos("child")
    assert all(a != b for a, b in zip(photos("serial"), photos("other"), strict=True))


def test_what_is_there_is_not_rendered_again(rendered):
    out, _ = rendered
    before = {path: path.stat().st_mtime_ns for path in (out / "photos").iterdir()}
    render_collection(out, SMALL, workers=0)
    assert {path: path.stat().st_mtime_ns for path in (out / "photos").iterdir()} == before


def test_names_say_nothing_about_the_place():
    plans = plan_scenes(DemoConfig())
    names = [name for plan in plans for name in plan.names]
    assert len(plans) == 54
    assert sorted(names) == [f"img_{number:04d}.jpg" for number in range(1, len(names) + 1)]
    assert all(8 <= len(plan.names) <= 14 for plan in plans[:14])
    place = {name: plan.place for plan in plans for name in plan.names}
    neighbours = [place[a] == place[b] for a, b in zip(sorted(names)[:-1], sorted(names)[1:], strict=True)]
    assert np.mean(neighbours) < 0.15


def test_twins_share_the_building_but_not_what_is_around_it():
    config = SMALL.model_copy(update={"places": 3})
    first, twin = (build_scene(plan, config) for plan in plan_scenes(config)[1:3])
    assert first[1] == twin[1]
    front, twin_front = first[0].textures[4], twin[0].textures[4]
    np.testing.assert_array_equal(front, twin_front)
    shared = sum(
        a.shape == b.shape and bool((a == b).all())
        for a, b in zip(first[0].textures, twin[0].textures, strict=False)
    )
    assert 5 <= shared < min(len(first[0].textures), len(twin[0].textures))
    lone = plan_scenes(config.model_copy(update={"twins": False}))
    assert len({plan.design_seed for plan in lone}) == len(lone)


def test_cameras_of_a_place_look_from_all_sides(rendered):
    _, truth = rendered
    for model in truth.models[: truth.num_places]:
        axes = model.rotations[:, 2]
        turns = angles_between_deg(axes[:-1], axes[1:])
        assert turns.max() > 8
        assert turns.max() < 115


def test_bad_settings_and_a_used_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="demo: expected min_views <= max_views, got 9 > 8; lower min_views"):
        plan_scenes(DemoConfig(min_views=9, max_views=8))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"expected nothing but the photos to render, got 'holiday\.jpg'"):
        render_collection(tmp_path, SMALL, workers=0)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["holiday.jpg"]
