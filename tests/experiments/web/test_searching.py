"""Searches of the server in special cases: photos with windows are found and shown once; confidence."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import extract, read_store
from cnnimretrieval.descriptors.windows import RegionConfig
from cnnimretrieval.search.confidence import Calibration, Curve, Sure
from cnnimretrieval.search.ranking import rank
from cnnimretrieval.search.rerank import RerankConfig
from experiments.web import assembly
from experiments.web.asking import Asked
from tests.experiments.web.conftest import NUM_PHOTOS

NAME = "place 2 view 1.png"


@pytest.fixture(scope="module")
def site(network, extracted, tmp_path_factory):
    photos, out = extracted / "photos", tmp_path_factory.mktemp("regions") / "dir"
    requests = [ImageRequest(path=path) for path in sorted(photos.iterdir())]
    extract(network, requests, photos, out, ExtractConfig(image_size=96), regions=RegionConfig(grids=(2,)))
    with assembly.assembled(network, "model", assembly.Serving(folder=out)) as found:
        yield found


def _found(site, **asked):
    return asyncio.run(site.searcher.search(Asked(**asked)))


def test_photos_are_ranked_as_the_command_ranks_them(site, network):
    row = site.served.row_of(NAME)
    photo = site.served.path(row)
    box = (8.0, 4.0, 72.0, 60.0)
    store = read_store(site.glance.folder)
    (answer,) = rank(network, store, [ImageRequest(path=photo, box=box)], 50, RerankConfig())
    found = _found(site, row=row, box=box, top=50)
    assert [one.name for one in found] == [hit.name for hit in answer.hits]
    assert [one.box for one in found] == [hit.box for hit in answer.hits]
    assert len(found) == NUM_PHOTOS
    assert {one.row % 5 for one in found} == {0}  # shown by the row of the whole photo


def test_a_photo_is_not_among_its_own_results(site):
    row = site.served.row_of(NAME)
    for steps in ((), ("qe",), ("diffusion",)):
        found = _found(site, row=row, top=50, steps=steps)
        assert len({one.name for one in found} - {NAME}) == len(found) == NUM_PHOTOS - 1


def test_what_is_right_moves_the_query_by_the_window_that_matched(site):
    row, right = site.served.row_of(NAME), site.served.row_of("place 4 view 0.png")
    vectors = np.asarray(site.served.vectors)
    best = right + int(np.argmax(vectors[right : right + 5] @ vectors[row]))
    moved = vectors[row] + vectors[best]
    scores = (vectors @ (moved / np.linalg.norm(moved))).reshape(-1, 5).max(axis=1)
    found = _found(site, row=row, right=(right,), top=4)
    others = np.argsort(-scores, kind="stable")
    assert [one.row // 5 for one in found] == [photo for photo in others if photo != row // 5][:4]


def test_photos_are_listed_once(site):
    assert len(site.served.shown) == NUM_PHOTOS
    assert site.served.matching("place 2").tolist() == [5 * number for number in range(9, 13)]


def test_results_are_as_sure_as_those_of_the_command(served, network):
    store = read_store(served.folder)
    made = store.meta.extraction
    calibration = Calibration(
        network=store.meta.network,
        image_size=made.image_size,
        scales=made.scales,
        curves=(Curve(slope=6.0, offset=-1.0),),
        queries=9,
    )
    searcher = replace(served.site.searcher, calibration=calibration)
    row, box = served.site.served.row_of(NAME), (8.0, 4.0, 72.0, 60.0)
    query = [ImageRequest(path=served.site.served.path(row), box=box)]
    (answer,) = rank(network, store, query, 5, RerankConfig(), sure=Sure(calibration=calibration))
    found = asyncio.run(searcher.search(Asked(row=row, box=box, top=5)))
    expected = [hit.confidence for hit in answer.hits]
    assert [one.confidence for one in found] == pytest.approx(expected, abs=1e-4)
    for moved in (Asked(row=row, right=(3,), top=5), Asked(row=row, steps=("qe",), top=5)):
        assert {one.confidence for one in asyncio.run(searcher.search(moved))} == {None}
