import numpy as np
import pytest
from PIL import Image

from experiments.demo.cameras import Camera, look_at
from experiments.demo.light import Light, irradiance
from experiments.demo.raster import NOTHING, camera_coverage
from experiments.demo.samples import pixel_samples, splat
from experiments.demo.scene import SceneBuilder
from experiments.demo.sheet import Sheet
from experiments.demo.textures import build_atlas, look_up
from experiments.demo.truth import SurfacePoints, observed, sample_surface

RED, GREEN, BLUE, GREY = (200, 0, 0), (0, 180, 0), (0, 0, 160), (90, 90, 90)


def sheet(colours, cell=32):
    """One cell of plain colour per entry of a nested list; None is a hole."""
    rows = [[(*c, 255) if c else (0, 0, 0, 0) for c in row] for row in colours]
    picture = Image.fromarray(np.array(rows, dtype=np.uint8))
    size = picture.width * cell, picture.height * cell
    return Sheet(picture.resize(size, Image.Resampling.NEAREST), px_per_m=32)


def wall(builder, colours, z=0.0, left=-2.0, top=3.0, width=4.0, height=3.0, **options):
    """A wall that faces +z."""
    material = builder.material(sheet(colours))
    builder.quad((left, top, z), (width, 0, 0), (0, -height, 0), material, material.whole, **options)


def camera(centre=(1.1, 1.7, 6.0), target=(0.2, 1.4, 0.0), width=80, height=60, roll_deg=4.0):
    centre = np.array(centre)
    rotation = look_at(centre, np.array(target), roll_deg)
    return Camera(
        rotation=rotation,
        translation=-rotation @ centre,
        focal_px=70.0,
        focal_35mm=30,
        width=width,
        height=height,
    )


def pixel_of(view, point):
    local = view.rotation @ np.array(point, dtype=float) + view.translation
    return view.focal_px * local[:2] / local[2] + np.array([view.width, view.height]) / 2


def render(scene, view, factor=2):
    """Albedo x 255 without light, and the sky's share."""
    samples = pixel_samples(camera_coverage(scene, view, factor), factor)
    albedo = look_up(scene, build_atlas(scene.textures), samples)
    picture, sky = splat(samples, albedo, view.height, view.width)
    return picture * 255, sky


@pytest.fixture
def builder():
    return SceneBuilder(np.random.default_rng(3))


def test_a_wall_appears_where_the_camera_projects_it(builder):
    wall(builder, [[RED, GREEN], [BLUE, GREY]])
    view = camera()
    picture, sky = render(builder.scene(), view)
    centres = {RED: (-1, 2.25, 0), GREEN: (1, 2.25, 0), BLUE: (-1, 0.75, 0), GREY: (1, 0.75, 0)}
    for colour, point in centres.items():
        x, y = pixel_of(view, point)
        np.testing.assert_allclose(picture[int(y), int(x)], colour, atol=0.5)
        assert sky[int(y), int(x)] == 0


@pytest.mark.parametrize("nearer_first", [True, False])
def test_the_nearer_wall_hides_the_other_one(builder, nearer_first):
    walls = [dict(colours=[[RED]], z=0.0), dict(colours=[[GREEN]], z=1.0, left=-0.5, width=1.0)]
    for options in walls[::-1] if nearer_first else walls:
        wall(builder, **options)
    view = camera()
    picture, _ = render(builder.scene(), view)
    x, y = pixel_of(view, (0, 1.5, 1.0)).astype(int)
    np.testing.assert_allclose(picture[y, x], GREEN, atol=0.5)
    x, y = pixel_of(view, (-1.5, 1.5, 0.0)).astype(int)
    np.testing.assert_allclose(picture[y, x], RED, atol=0.5)


def test_a_hole_shows_what_is_behind_only_in_a_cutout(builder):
    wall(builder, [[BLUE]], z=-1.0)
    wall(builder, [[RED, None], [RED, RED]], cutout=True)
    view = camera()
    picture, _ = render(builder.scene(), view)
    x, y = pixel_of(view, (1, 2.25, 0)).astype(int)
    np.testing.assert_allclose(picture[y, x], BLUE, atol=0.5)


def test_a_wall_is_not_seen_from_behind_unless_it_has_two_sides(builder):
    wall(builder, [[RED]])
    wall(builder, [[GREEN]], left=5.0, double_sided=True)
    view = camera(centre=(2.5, 1.5, -9.0), target=(2.5, 1.5, 0.0))
    seen = camera_coverage(builder.scene(), view, 1).quad
    assert set(np.unique(seen)) == {NOTHING, 1}


def test_the_edge_of_a_wall_covers_pixels_in_part(builder):
    wall(builder, [[RED]])
    picture, sky = render(builder.scene(), camera(), factor=4)
    partial = (sky[..., 0] > 0.01) & (sky[..., 0] < 0.99)
    assert 20 < partial.sum() < 400
    np.testing.assert_allclose(picture[partial, 0], 200 * (1 - sky[partial, 0]), atol=0.5)


def test_a_fine_pattern_far_away_becomes_its_mean(builder):
    stripes = [[RED, GREEN] * 32] * 64
    material = builder.material(sheet(stripes, cell=4))
    builder.quad((-2, 3, 0), (4, 0, 0), (0, -3, 0), material, material.whole)
    view = camera(centre=(0.0, 1.5, 9.0), target=(0.0, 1.5, 0.0), roll_deg=0.0)
    picture, _ = render(builder.scene(), view)
    np.testing.assert_allclose(picture[28:32, 36:44].mean(axis=(0, 1)), [100, 90, 0], atol=4)
    assert picture[28:32, 36:44].std(axis=(0, 1)).max() < 15


def test_a_wall_that_reaches_behind_the_camera_is_drawn(builder):
    ground = builder.material(sheet([[GREY]]))
    builder.quad((-50, 0, -50), (100, 0, 0), (0, 0, 100), ground, ground.whole)
    view = camera(centre=(0.0, 1.6, 0.0), target=(0.0, 1.0, -6.0), roll_deg=0.0)
    seen = camera_coverage(builder.scene(), view, 1).quad
    assert (seen[40:] == 0).all()
    assert (seen[:10] == NOTHING).all()


def test_the_sun_casts_the_shadow_of_a_slab_onto_the_ground(builder):
    ground = builder.material(sheet([[GREY]]))
    builder.quad((-9, 0, -9), (18, 0, 0), (0, 0, 18), ground, ground.whole)
    builder.quad((-1, 2, -1), (2, 0, 0), (0, 0, 2), ground, ground.whole)
    towards_sun = np.array([0.6, 0.8, 0.0])
    white, black = np.ones(3), np.zeros(3)
    light = Light(
        towards_sun=towards_sun, sun=white, sky=0.25 * white, zenith=black, horizon=black, cloudiness=0.0
    )
    view = camera(centre=(0.0, 4.0, 12.0), target=(0.0, 0.0, 0.0))
    scene = builder.scene()
    samples = pixel_samples(camera_coverage(scene, view, 1), 1)
    lit, _ = splat(samples, irradiance(scene, samples, light), view.height, view.width)
    # The slab is 2 m up; its shadow moves by 2 * 0.6 / 0.8 away from the sun.
    x, y = pixel_of(view, (-1.5, 0.0, 0.0)).astype(int)
    np.testing.assert_allclose(lit[y, x], 0.25, atol=1e-4)
    x, y = pixel_of(view, (-4.0, 0.0, 0.0)).astype(int)
    np.testing.assert_allclose(lit[y, x], 0.25 + 0.8, atol=1e-4)


def test_points_are_observed_where_their_own_wall_is_seen(builder):
    wall(builder, [[RED]])
    wall(builder, [[GREEN]], z=1.0, left=-0.5, width=1.0)
    scene, view = builder.scene(), camera()
    points = SurfacePoints(
        xyz=np.array([[-1.5, 1.5, 0.0], [0.0, 1.5, 0.0], [0.0, 1.5, 1.0], [1.5, 1.5, 0.0]]),
        quad=np.array([0, 0, 1, 0]),
    )
    rows, xy = observed(points, scene, view, camera_coverage(scene, view, 1).quad)
    assert rows.tolist() == [0, 2, 3]
    np.testing.assert_allclose(xy[1], pixel_of(view, (0.0, 1.5, 1.0)), atol=1e-9)


def test_a_wall_seen_at_a_grazing_angle_gives_no_points(builder):
    wall(builder, [[RED]])
    scene = builder.scene()
    view = camera(centre=(9.0, 1.5, 1.2), target=(0.0, 1.5, 0.0))
    points = sample_surface(scene, np.random.default_rng(0), 5.0)
    seen = camera_coverage(scene, view, 1).quad
    assert (seen == 0).any()
    assert len(observed(points, scene, view, seen)[0]) == 0


def test_surface_points_are_even_and_leave_out_holes_ground_and_passers_by(builder):
    wall(builder, [[RED, None]], cutout=True)
    wall(builder, [[RED]], sampled=False)
    wall(builder, [[RED]], fixed=False)
    points = sample_surface(builder.scene(), np.random.default_rng(5), 200.0)
    assert set(points.quad.tolist()) == {0}
    assert abs(len(points.xyz) - 0.5 * 12 * 200) < 4 * np.sqrt(1200)
    assert points.xyz[:, 0].max() < 0.02


def test_the_centre_of_what_is_covered_is_true_to_a_fraction_of_a_pixel(builder):
    wall(builder, [[RED]], width=2.0, height=1.0, left=-0.7, top=2.0)
    view = camera()
    _, sky = render(builder.scene(), view, factor=4)
    covered = 1 - sky[..., 0]
    y, x = np.mgrid[: view.height, : view.width] + 0.5
    centre = np.array([(covered * x).sum(), (covered * y).sum()]) / covered.sum()
    inner = np.stack(
        np.meshgrid((np.arange(200) + 0.5) / 200, (np.arange(200) + 0.5) / 200), axis=-1
    ).reshape(-1, 2)
    points = np.array([-0.7, 2.0, 0.0]) + inner @ np.array([[2.0, 0, 0], [0, -1.0, 0]])
    local = points @ view.rotation.T + view.translation
    pixels = view.focal_px * local[:, :2] / local[:, 2:] + np.array([view.width, view.height]) / 2
    # Pixels are evenly spread in the picture, points on the wall: each counts for the area it covers there.
    weight = local[:, 2] ** -3.0
    np.testing.assert_allclose(centre, (pixels * weight[:, None]).sum(axis=0) / weight.sum(), atol=0.03)


@pytest.mark.parametrize("texels", [64, 1024])
def test_textures_of_any_size_lie_where_they_should(builder, texels):
    ramp = np.zeros((8, texels, 4), dtype=np.uint8)
    ramp[..., 0] = np.round((np.arange(texels) + 0.5) / texels * 255)
    ramp[..., 3] = 255
    material = builder.material(Sheet(Image.fromarray(ramp), px_per_m=texels / 4))
    builder.quad((-2, 3, 0), (4, 0, 0), (0, -3, 0), material, material.whole)
    view = camera(roll_deg=0.0)
    picture, _ = render(builder.scene(), view)
    for along in (0.2, 0.45, 0.7):
        x, y = pixel_of(view, (-2 + 4 * along, 1.5, 0)).astype(int)
        # The point lies somewhere in its pixel: the slope of the picture leads from the middle to it.
        slope = (picture[y, x + 1, 0] - picture[y, x - 1, 0]) / 2
        offset = pixel_of(view, (-2 + 4 * along, 1.5, 0))[0] - (x + 0.5)
        assert picture[y, x, 0] + offset * slope == pytest.approx(255 * along, abs=0.9)
