"""The part of the report that re-ranks by geometry: which queries, in what order, with what pictures."""

import base64
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnnimretrieval.local.detected import detection
from cnnimretrieval.networks.local_head import LocalConfig
from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.search.spatial import SpatialConfig
from experiments.report import geometry, reranked
from experiments.report.page import write_report
from experiments.report.shown import MethodFinder
from experiments.report.thumbnails import Thumbnails
from groundwork.files import write_json, write_table

pytest.importorskip("cv2")
ROW = "fine_tuned_whitened"
NAMES = ["a0.png", "a1.png", "b0.png", "b1.png", "c0.png"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two views of wall a, two of wall b, one of wall c."""
    folder = tmp_path_factory.mktemp("photos")
    for seed, wall in enumerate("abc"):
        levels = np.random.default_rng(seed).integers(0, 256, (26, 34, 3), dtype=np.uint8)
        whole = Image.fromarray(levels).resize((340, 260), Image.Resampling.BICUBIC)
        for view in range(2):
            whole.crop((8 * view, 6 * view, 300 + 8 * view, 220 + 6 * view)).save(
                folder / f"{wall}{view}.png"
            )
    (folder / "c1.png").unlink()
    return folder


def ranking(query, place, ranked, positives, precision, *, kind="crop", junk=()):
    return {
        **{"row": ROW, "kind": kind, "query": query, "place": place, "rotation_deg": 0.0, "seed": 2},
        **{"x1": 60, "y1": 50, "x2": 240, "y2": 190, "average_precision": precision},
        **{"ranked": ranked, "positives": positives, "junk": [query, *junk]},
    }


def sheet(rankings, photos, finder=None, **options):
    finder = finder or MethodFinder(config=detection("sift", 400))
    rankings = pd.DataFrame(rankings)
    config = SpatialConfig(features="sift", candidates=reranked.CANDIDATES)
    return reranked.reranked_sheet(rankings, ROW, photos, finder, config, Thumbnails(photos), **options)


def test_what_matches_comes_first_with_its_inliers(photos):
    found = [ranking("a0.png", 0, ["c0.png", "a0.png", "b0.png", "a1.png", "b1.png"], ["a1.png"], 0.33)]
    (row,) = sheet(found, photos)
    assert [one.name for one in row.before] == ["c0.png", "b0.png", "a1.png", "b1.png"]
    assert [one.name for one in row.after] == ["a1.png", "c0.png", "b0.png", "b1.png"]
    assert [one.kind for one in row.after] == ["positive", "other", "other", "other"]
    inliers = [int(one.caption.split()[0]) for one in row.after]
    assert inliers[0] > 30
    assert max(inliers[1:]) < 12
    assert (row.right_before, row.right_after) == (1, 1)
    assert [(one.name, one.kind, one.when) for one in row.matches] == [
        ("c0.png", "other", "before"),
        ("a1.png", "positive", "after"),
    ]
    for one in row.matches:
        content = base64.b64decode(one.uri.removeprefix("data:image/jpeg;base64,"))
        # However large photos are, a page of some of them stays small.
        assert len(content) < 250_000
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.width == 1000


def test_queries_half_right_of_each_kind_and_one_a_place(photos):
    mixed, right = ["c0.png", "a1.png"], ["a1.png"]
    found = [
        ranking("a0.png", 0, mixed, right, 0.1),
        ranking("a1.png", 0, ["c0.png", "a0.png"], ["a0.png"], 0.55),
        ranking("b0.png", 1, ["b1.png"], ["b1.png"], 0.5),
        ranking("b1.png", 2, ["c0.png", "b0.png"], ["b0.png"], 0.9),
        ranking("a0.png", 3, mixed, right, 0.6, kind="retaken"),
        ranking("c0.png", 4, ["a0.png"], ["a1.png"], 0.4, kind="retaken"),
    ]
    chosen = reranked._half_right(pd.DataFrame(found), 4)
    # b0 has nothing wrong in front, c0 nothing right; place 0 is there already.
    assert [(one["query"], one["kind"]) for one in chosen] == [
        ("a1.png", "crop"),
        ("b1.png", "crop"),
        ("a0.png", "retaken"),
    ]


def test_a_photo_that_is_gone_costs_its_query_only(photos, tmp_path):
    found = [
        ranking("a0.png", 0, ["gone.png", "a1.png"], ["a1.png"], 0.5),
        ranking("b0.png", 1, ["c0.png", "b1.png"], ["b1.png"], 0.5),
    ]
    (row,) = sheet(found, photos)
    assert row.query.name == "b0.png"


@pytest.fixture
def work(photos, tmp_path):
    """As much of a run as the page needs to show rankings."""
    out = tmp_path / "work"
    write_json(out / "pairs/photos.json", {"photos": str(photos)})
    write_json(out / "pairs/stats.json", {"queries": 2, "positives": 2, "dropped": {}, "split": {}})
    found = [ranking("a0.png", 0, ["c0.png", "a1.png", "b0.png"], ["a1.png"], 0.5)]
    rows = [*found, *({**one, "row": "off_the_shelf"} for one in found)]
    write_table(out / "model/rankings.parquet", pd.DataFrame(rows))
    return out


def _section(page):
    return re.search(r'<section id="geometry">.*?</section>', page.read_text(encoding="utf-8"), re.S)[0]


def test_the_page_shows_sift_where_the_network_has_no_local_head(work):
    shown = _section(write_report(work))
    assert "matched with the query by SIFT" in shown
    assert "first before" in shown
    assert "attends" not in shown
    assert shown.count("data:image/jpeg") == 1 + 2 * 3 + 2


def test_the_page_shows_attention_of_a_local_head(work):
    head = LocalConfig(reduction="whitening", attention="norm", dim=16)
    save(build(NetworkConfig(backbone="squeezenet1_1", local=head), "random", seed=3), work / "model")
    shown = _section(write_report(work))
    assert "by the network’s own local features" in shown
    assert "attends to" in shown


def test_a_damaged_network_falls_back_to_sift(work, caplog):
    (work / "model/network.json").write_text(json.dumps({"local": {"reduction": "pca"}}))
    assert "matched with the query by SIFT" in _section(write_report(work))
    assert "the report matches photos by SIFT" in caplog.text


def test_without_the_package_the_page_says_what_brings_it(work, monkeypatch):
    monkeypatch.setattr(geometry, "_PACKAGE", "no_such_package_as_this")
    assert "pip install &#39;cnnimretrieval[spatial]&#39; brings" in _section(write_report(work))
