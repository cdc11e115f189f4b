import html
import json
import re

import numpy as np
import pytest
from jinja2 import Environment, FileSystemLoader
from plotly.offline import get_plotlyjs

from experiments.report import viewer
from experiments.report.scene import MOST_POINTS, frusta, sample, scene
from experiments.report.upright import upright
from sfm.model import Model


def model(names=("a.jpg", "b </script>.jpg", "c.jpg"), num_points=31, seed=5):
    """Level cameras side by side; y is down, all look along z."""
    n = len(names)
    return Model(
        names=names,
        rotations=np.broadcast_to(np.eye(3), (n, 3, 3)),
        translations=-np.stack([np.arange(n), np.zeros(n), np.zeros(n)], axis=1).astype(float),
        focal_px=np.full(n, 200.0),
        sizes=np.tile([320, 240], (n, 1)),
        points=np.random.default_rng(seed).uniform((-1, -1, 5), (3, 1, 7), (num_points, 3)),
        track_image=np.zeros(0, dtype=np.int64),
        track_point=np.zeros(0, dtype=np.int64),
        track_xy=np.zeros((0, 2)),
        place=4,
    )


def drawn(name="0", **options):
    one = model(**options)
    return viewer.DrawnModel(name=name, model=one, view=upright(one, np.ones(one.num_images, dtype=int)))


def test_a_pyramid_has_the_cameras_angle_of_view():
    one = drawn()
    corners = frusta(one.model, one.view, depth=0.5)
    assert corners.shape == (3, 5, 3)
    np.testing.assert_allclose(corners[:, 0], [[-1, 0, 0], [0, 0, 0], [1, 0, 0]], atol=1e-9)
    # 320 x 240 px at 200 px focal length, 0.5 away: 0.8 wide and 0.6 high; y is ahead, z up.
    np.testing.assert_allclose(
        corners[1, 1:], [[-0.4, 0.5, 0.3], [0.4, 0.5, 0.3], [0.4, 0.5, -0.3], [-0.4, 0.5, -0.3]], atol=1e-9
    )


def test_many_points_are_thinned_to_the_same_ones_every_time():
    points = np.random.default_rng(2).normal(size=(700, 3))
    few = sample(points, 50)
    assert few.shape == (50, 3)
    np.testing.assert_array_equal(sample(points, 50), few)
    assert {tuple(row) for row in few} <= {tuple(row) for row in points}
    assert sample(points, 700) is points


def test_the_scene_has_equal_axes_and_names_on_cameras_only():
    one = drawn(num_points=MOST_POINTS + 500)
    figure = scene(one.model, one.view)
    points, pyramids, cameras = figure.data
    assert figure.layout.scene.aspectmode == "data"
    assert len(points.x) == MOST_POINTS
    assert points.hoverinfo == pyramids.hoverinfo == "skip"
    assert list(cameras.text) == ["a.jpg", "b &lt;/script>.jpg", "c.jpg"]
    np.testing.assert_allclose(cameras.x, [-1, 0, 1], atol=1e-6)
    assert pyramids.line.color == cameras.marker.color
    np.testing.assert_allclose(points.marker.color, points.z)
    # The pen is lifted after every camera.
    assert np.isnan(np.asarray(pyramids.x).reshape(3, -1)[:, -1]).all()
    assert np.isnan(np.asarray(pyramids.x)).sum() == 3


def test_one_camera_and_no_points_can_be_drawn():
    one = drawn(names=("only.jpg",), num_points=0)
    assert [len(trace.x) for trace in scene(one.model, one.view).data] == [0, 12, 1]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    environment = Environment(loader=FileSystemLoader("experiments/report"), autoescape=True)
    models = [drawn("7"), drawn("12", names=("x.jpg", "y.jpg"), num_points=MOST_POINTS + 1)]
    return viewer.write_viewer(models, tmp_path_factory.mktemp("report"), environment).read_text("utf-8")


def test_the_page_holds_the_library_once_and_needs_no_network(page):
    assert page.count(get_plotlyjs()) == 1
    rest = page.replace(get_plotlyjs(), "")
    assert set(re.findall(r'(?:src|href)="([^"]*)"', rest)) == {"index.html", "#7", "#12"}
    assert "http" not in rest
    assert "showSendToCloud: false" in rest


def test_every_model_is_listed_and_can_be_read_back(page):
    found = dict(re.findall(r'<script type="application/json" id="model-(\d+)">(.*?)</script>', page, re.S))
    assert list(found) == ["7", "12"]
    assert [json.loads(text)["data"][2]["text"][-1] for text in found.values()] == ["c.jpg", "y.jpg"]
    shown = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page.split("<script")[0])))
    assert "model 7, place 4 3 photos, 31 points" in shown
    assert "model 12, place 4 2 photos, 5,000 of 5,001 points" in shown
