import numpy as np
import pytest

from experiments.demo.building import add_building
from experiments.demo.cameras import FILM_DIAGONAL_MM, look_at, ring
from experiments.demo.design import KINDS, draw_design
from experiments.demo.masonry import masonry_sheet
from experiments.demo.noise import fractal_noise, value_noise
from experiments.demo.scene import SceneBuilder


def test_noise_has_unit_spread_and_the_size_asked_for():
    noise = fractal_noise(np.random.default_rng(1), 90, 120, 40, 4)
    assert noise.shape == (90, 120)
    assert noise.std() == pytest.approx(1, abs=1e-5)


def test_coarser_cells_make_smoother_noise():
    rough, smooth = (value_noise(np.random.default_rng(2), 80, 80, cell) for cell in (2.0, 20.0))
    assert np.abs(np.diff(smooth, axis=1)).mean() < 0.25 * np.abs(np.diff(rough, axis=1)).mean()


@pytest.mark.parametrize(
    "kind", ["brick", "ashlar", "rubble", "plaster", "planks", "tiles", "cobbles", "lawn"]
)
def test_masonry_keeps_its_colour_and_has_texture(kind):
    colour = (0.6, 0.4, 0.2)
    sheet = masonry_sheet(np.random.default_rng(4), kind, 120, 150, 40.0, colour, (0.5, 0.36, 0.2))
    assert sheet.shape == (120, 150, 3)
    assert 0 < sheet.min() <= sheet.max() <= 1
    np.testing.assert_allclose(sheet.mean(axis=(0, 1)), colour, rtol=0.15)
    assert sheet[..., 0].std() > 0.02


def test_the_target_is_in_the_middle_and_up_is_up():
    centre, target = np.array([3.0, 1.6, 9.0]), np.array([0.5, 4.0, 0.0])
    rotation = look_at(centre, target, roll_deg=0.0)
    seen = rotation @ (target - centre)
    np.testing.assert_allclose(seen, [0, 0, np.linalg.norm(target - centre)], atol=1e-12)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert (rotation @ [0, 1, 0])[1] < 0
    # A camera at the right of the front looks to the left: what is left in the world stays left.
    assert (rotation @ (np.array([-1.0, 4.0, 0.0]) - centre))[0] < 0


def test_a_ring_surrounds_the_front_and_its_focal_lengths_are_those_of_exif():
    cameras = ring(np.random.default_rng(7), 12, (640, 480), width_m=16.0, height_m=10.0)
    azimuths = np.degrees([np.arctan2(c.centre_in_world[0], c.centre_in_world[2]) for c in cameras])
    assert azimuths.min() < -25
    assert azimuths.max() > 25
    assert np.diff(np.sort(azimuths)).max() < 20
    for camera in cameras:
        assert camera.focal_px == pytest.approx(camera.focal_35mm * 800 / FILM_DIAGONAL_MM)
        assert camera.centre_in_world[1] > 1.4
        assert {camera.width, camera.height} == {640, 480}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_building_stands_on_the_ground_and_has_depth(kind):
    design = draw_design(5, kind)
    builder = SceneBuilder(design.rng(0))
    add_building(builder, design, x=3.0, z=1.0, px_per_m=12.0)
    quads = builder.scene().quads
    corners = np.array([q.corner + s * q.along + t * q.down for q in quads for s in (0, 1) for t in (0, 1)])
    assert corners[:, 1].min() == pytest.approx(0)
    assert corners[:, 1].max() >= design.height_m
    assert abs((corners[:, 0].min() + corners[:, 0].max()) / 2 - 3.0) < 5
    fronts = {round(float(q.corner[2]), 2) for q in quads if q.normal @ [0, 0, 1] > 0.99}
    assert len(fronts) >= 4


def test_one_design_gives_one_building_and_another_seed_another():
    def texels(seed):
        design = draw_design(seed, "timber")
        builder = SceneBuilder(design.rng(0))
        add_building(builder, design, 0.0, 0.0, px_per_m=12.0)
        return np.concatenate([texture.ravel() for texture in builder.scene().textures])

    first, second, other = texels(11), texels(11), texels(12)
    np.testing.assert_array_equal(first, second)
    assert first.shape != other.shape or (first != other).mean() > 0.5
