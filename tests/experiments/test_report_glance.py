"""The collection at a glance in the report: places and near-copies as pictures, the map of the photos."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.evaluation.queries import query_set
from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.training.proof.calibrating import described_run
from cnnimretrieval.whitening.apply import apply
from cnnimretrieval.whitening.estimates import pca_whitening
from experiments.overview import groups, layout, plot
from experiments.report import glance
from experiments.report.page import write_report
from experiments.report.reading import read_run
from groundwork.files import write_json, write_table
from pairs.heldout import write_heldout
from pairs.pair_table import write_pair_table
from tests.cnnimretrieval.conftest import _heldout, _write_collection

ODD = "<b>&odd copy.png"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A run of 16 photos, of which the network left descriptors; one more is a near-copy."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "photos").mkdir()
    collection = _write_collection(folder / "photos")
    heldout = [replace(query, purpose="choose") for query in _heldout(collection.table)]
    Image.open(folder / "photos" / "0-0.png").resize((32, 24)).save(folder / "photos" / ODD)
    out = folder / "work"
    write_pair_table(collection.table, out / "pairs")
    write_heldout(heldout, out / "pairs" / "heldout.parquet")
    write_json(out / "pairs/photos.json", {"photos": str(folder / "photos"), "content": "of it"})
    write_json(out / "pairs/stats.json", {"queries": 2, "positives": 3, "dropped": {}, "split": {}})
    names = [*collection.table.names, ODD, "gone.png"]
    images = pd.DataFrame({"name": names, "place": [*collection.table.place.tolist(), -1, 0]})
    reasons = [""] * 16 + ["near-copy of 0-0.png", ""]
    write_table(out / "sfm/images.parquet", images.assign(reason=reasons, orientation=1))
    network = build(NetworkConfig(backbone="squeezenet1_1", image_size=64), "random", seed=3)
    requests = [collection.whole(row) for row in range(16)]
    network.whitening = pca_whitening(
        describe(network, requests, ExtractConfig(image_size=64)).vectors, dim=6
    )
    save(network, out / "model")
    assert query_set(heldout, collection.table, collection.photos, needed="choose")
    described_run(out / "pairs", out / "model", network, "cpu", 0).database(network)
    return out, network


def test_places_and_copies_are_groups_of_pictures(work):
    out, _ = work
    found = glance.at_a_glance(read_run(out))["glance"]
    assert found.places == groups.places(
        [
            (name, place)
            for name, place in zip(found.names, [*np.repeat(range(5), 3), -1, -1, 0], strict=True)
        ],
        {name: row for row, name in enumerate(found.names)},
    )
    assert [len(one.rows) for one in found.places] == [4, 3, 3, 3, 3]
    assert [one.rows for one in found.copies] == [(0, 16)]
    assert set(range(17)) - set(found.pictures) <= {15}  # a photo that has no room on the map
    assert 17 not in found.pictures


def test_the_map_is_that_of_the_search_page(work):
    out, network = work
    run = read_run(out)
    found = glance.at_a_glance(run)["glance"]
    requests = [ImageRequest(path=run.photos / name) for name in found.names[:16]]
    vectors = apply(network.whitening, describe(network, requests, ExtractConfig(image_size=64)).vectors)
    positions, method = layout.lay_out(vectors)
    drawn = plot.draw(plot.Map(rows=np.arange(16), positions=positions, method=method), found.places)
    assert [(dot.row, dot.colour) for dot in found.map.dots] == [(dot.row, dot.colour) for dot in drawn.dots]
    assert method == found.map.method
    np.testing.assert_allclose(
        [(dot.x, dot.y) for dot in found.map.dots], [(dot.x, dot.y) for dot in drawn.dots], atol=0.2
    )


def test_the_page_shows_them_and_escapes_names(work):
    out, _ = work
    page = write_report(out).read_text(encoding="utf-8")
    section = page[page.index('<section id="glance">') : page.index('<section id="models">')]
    assert "<h3>Place 0 <span" in section
    assert section.count("<circle") == 16
    assert len(re.findall(r'<(?:img src|image href)="data:image/jpeg;base64', section)) >= 18
    assert section.count("not readable") == 1
    assert ODD not in section
    assert "&lt;b&gt;&amp;odd copy.png" in section


@pytest.mark.parametrize("gone", ["model/network.json", "pairs/heldout.parquet", "model/descriptors"])
def test_without_descriptors_there_is_no_map(work, tmp_path, gone):
    out, _ = work
    for path in out.rglob("*"):
        if path.is_file() and gone not in path.as_posix():
            copy = tmp_path / path.relative_to(out)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    found = glance.at_a_glance(read_run(tmp_path))
    assert found["glance"].map is None
    assert found["no_map"].startswith("There is no map")
    assert len(found["glance"].places) == 5


def test_a_map_holds_so_many_photos():
    rows = plot.spread(np.arange(5, 10_000))
    assert len(rows) == plot.MOST_ON_MAP
    assert (rows[0], rows[-1]) == (5, 9_999)
    assert plot.spread(np.array([4, 9])).tolist() == [4, 9]
