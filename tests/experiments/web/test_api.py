"""The JSON interface of a server that runs."""

import json

import httpx
import numpy as np
import pytest

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import read_store
from cnnimretrieval.search.ranking import rank
from cnnimretrieval.search.rerank import RerankConfig, reranked
from tests.experiments.web.conftest import LIMITS, NUM_PHOTOS
from tests.experiments.web.files import EPS, bomb, cut_jpeg

NAME = "place 2 view 1.png"


@pytest.fixture
def client(served):
    with httpx.Client(base_url=served.address, timeout=60.0) as found:
        yield found


def _search(client, **fields):
    photo = fields.pop("photo", None)
    files = None if photo is None else {"photo": ("whatever.jpg", photo)}
    return client.post("/api/search", data=fields, files=files)


def _pairs(response):
    assert response.status_code == 200, response.text
    return [(result["name"], result["score"]) for result in response.json()["results"]]


@pytest.mark.parametrize("box", [None, (8.0, 4.0, 72.0, 60.0)])
def test_an_upload_ranks_as_the_command_does(client, served, network, box):
    path = served.photos / NAME
    store = read_store(served.folder)
    (answer,) = rank(network, store, [ImageRequest(path=path, box=box)], 6, RerankConfig())
    expected = [(hit.name, round(hit.score, 6)) for hit in answer.hits]
    fields = {} if box is None else {"box": ",".join(map(str, box))}
    assert _pairs(_search(client, photo=path.read_bytes(), top=6, **fields)) == expected
    assert list(served.site.uploads.iterdir()) == []


def test_a_photo_of_the_collection_ranks_the_others(client, served):
    vectors, names = np.asarray(served.site.served.vectors), served.site.served.names
    row = names.index(NAME)
    order = np.argsort(-(vectors @ vectors[row]), kind="stable")
    expected = [names[other] for other in order if other != row][:5]
    assert [name for name, _ in _pairs(_search(client, name=NAME, top=5))] == expected
    everything = _pairs(_search(client, name=NAME, top=1000))
    assert len(everything) == NUM_PHOTOS - 1
    with_part = _pairs(_search(client, name=NAME, top=3, box="0,0,96,72"))
    assert with_part[0][0] == NAME  # a part of the photo may be found in the photo itself


def test_results_marked_right_and_steps_move_the_query(client, served):
    vectors, names = np.asarray(served.site.served.vectors), served.site.served.names
    rows = [names.index(name) for name in (NAME, "place 5 view 0.png", "place 5 view 1.png")]
    moved = vectors[rows].sum(axis=0, keepdims=True)
    moved /= np.linalg.norm(moved)
    marked = {"name": NAME, "right": [names[rows[1]], names[rows[2]]]}
    for steps in ([], ["qe"], ["diffusion"], ["qe", "diffusion"]):
        config = RerankConfig.model_validate(
            {step: {} if step == "qe" else {"truncation": len(names)} for step in steps}
        )
        ranking = next(iter(reranked(moved, vectors, config, len(names))))
        expected = [names[row] for row in ranking.rows[0] if row != rows[0]][:8]
        found = _pairs(_search(client, top=8, rerank=steps, **marked))
        assert [name for name, _ in found] == expected, steps


def test_geometry_puts_first_what_it_proves(client, served):
    pytest.importorskip("cv2")
    photo = (served.photos / NAME).read_bytes()
    before = {path for path in (served.folder / "keypoints").rglob("*.npz")}
    response = _search(client, photo=photo, top=29, rerank="spatial")
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert results[0]["name"] == NAME
    assert results[0]["inliers"] == max(result["inliers"] for result in results)
    assert results[0]["inliers"] >= 12
    kept = {path for path in (served.folder / "keypoints").rglob("*.npz")} - before
    assert len(kept) == NUM_PHOTOS - len(before)  # of the photos of the collection, not of what was sent
    again = _search(client, name=NAME, top=5, rerank="spatial").json()["results"]
    assert NAME not in [result["name"] for result in again]


def test_points_of_two_views_are_matched(client, served):
    pytest.importorskip("cv2")
    found = client.post("/api/matches", data={"name": NAME, "to": "place 2 view 2.png"}).json()
    assert (found["query_size"], found["photo_size"]) == ([96, 72], [96, 72])
    assert len(found["points"]) >= 5
    for x1, y1, x2, y2 in found["points"]:  # the views of a place differ in noise alone
        assert abs(x1 - x2) < 8
        assert abs(y1 - y2) < 8
    assert list(served.site.uploads.iterdir()) == []


@pytest.mark.parametrize(
    ("photo", "fields", "status", "field", "told"),
    [
        (
            b"hello",
            {},
            422,
            "photo",
            "photo: expected one that can be read, got 'not an image'; choose another",
        ),
        (EPS, {}, 422, "photo", "photo: expected one that can be read, got 'not an image'; choose another"),
        (b"", {}, 422, "photo", "photo: expected a file with a picture, got an empty one; choose another"),
        (
            cut_jpeg(),
            {},
            422,
            "photo",
            "photo: expected one that can be read, got 'truncated'; choose another",
        ),
        (
            bomb(10_000, 10_000),
            {},
            422,
            "photo",
            "photo: expected one that can be read, got 'too large: 10000 x 10000 pixels, at most 64 "
            "million'; choose another",
        ),
        (None, {}, 422, "photo", "photo: expected one to search with, got none; choose a photo"),
        (
            None,
            {"name": "../secret"},
            404,
            "name",
            "name: expected the name of a photo of this collection, got '../secret'; take it from a result",
        ),
        (
            None,
            {"name": NAME, "box": "100,100,200,200"},
            422,
            "box",
            "box: expected a part of the 96 x 72 photo, got 100,100,200,200; draw it on the photo",
        ),
        (
            None,
            {"name": NAME, "box": "1,2,3"},
            422,
            "box",
            "box: expected x1,y1,x2,y2 with x1 < x2 and y1 < y2, got '1,2,3'; draw it again",
        ),
        (
            None,
            {"name": NAME, "box": "0,0,inf,nan"},
            422,
            "box",
            "box: expected x1,y1,x2,y2 with x1 < x2 and y1 < y2, got '0,0,inf,nan'; draw it again",
        ),
        (
            None,
            {"name": NAME, "top": "0"},
            422,
            "top",
            "top: Input should be greater than or equal to 1, got '0'; correct it",
        ),
        (
            None,
            {"name": NAME, "rerank": "magic"},
            422,
            "rerank",
            "rerank: expected qe, diffusion, spatial, got 'magic'; take one of them",
        ),
        (
            None,
            {"name": NAME, "right": "nothing"},
            404,
            "right",
            "right: expected the name of a photo of this collection, got 'nothing'; take it from a result",
        ),
    ],
    ids=range(13),
)
def test_a_wrong_request_is_told_by_its_field(client, served, photo, fields, status, field, told):
    response = _search(client, photo=photo, **fields)
    assert (response.status_code, response.json()) == (status, {"field": field, "message": told})
    assert list(served.site.uploads.iterdir()) == []
    assert client.get("/api/collection").json()["photos"] == NUM_PHOTOS


def test_a_box_too_small_for_the_network_is_told(client):
    response = _search(client, name=NAME, box="0,0,2,2")
    assert response.json()["message"].startswith("box: expected 16 px or more along a side, got 2 x 2; ")


def test_large_uploads_are_refused(client, served):
    most = int(LIMITS.megabytes * 1e6)
    told = {"field": "photo", "message": "photo: expected at most 2 MB, got more; save it smaller"}
    response = _search(client, photo=bytes(most + 1))
    assert (response.status_code, response.json()) == (413, told)

    def endless():
        yield b'--b\r\nContent-Disposition: form-data; name="photo"; filename="a"\r\n\r\n'
        for _ in range(40):
            yield bytes(100_000)

    # Neither a length nor an end is told.
    header = {"Content-Type": "multipart/form-data; boundary=b"}
    response = client.post("/api/search", content=endless(), headers=header)
    assert (response.status_code, response.json()) == (413, told)
    assert list(served.site.uploads.iterdir()) == []


def test_the_interface_describes_itself(client):
    described = client.get("/openapi.json").json()
    body = described["paths"]["/api/search"]["post"]["requestBody"]["content"]
    reference = body["multipart/form-data"]["schema"]["$ref"].rsplit("/", 1)[-1]
    fields = described["components"]["schemas"][reference]["properties"]
    assert {"photo", "top", "box"} <= set(fields)
    result = described["components"]["schemas"]["Result"]["properties"]
    assert {"name", "score"} <= set(result)
    assert described["info"]["version"] == "1.2.3"
    assert "http" not in json.dumps(described["paths"])


def test_names_come_in_the_order_of_the_collection(client, served):
    found = client.get("/api/photos", params={"start": 3, "count": 2}).json()
    assert found == {"photos": NUM_PHOTOS, "names": served.site.served.names[3:5]}
