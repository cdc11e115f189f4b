"""What a server gives out: pictures and pages of its photos, and nothing else."""

import os
import re
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import httpx
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from starlette.testclient import TestClient

from experiments.exit_codes import UsageFault
from experiments.web import app, assembly, server
from experiments.web.collection import Served
from experiments.web.faults import RequestFault
from experiments.web.guard import HEADERS, Patience
from groundwork.lock import FolderInUse
from tests.experiments.web.conftest import HOSTILE, NUM_PHOTOS, NUM_PLACES, VIEWS, running


@pytest.fixture
def client(served):
    with httpx.Client(base_url=served.address, timeout=60.0) as found:
        yield found


def _kept(served):
    return {path: path.stat().st_mtime_ns for path in (served.folder / "pictures").rglob("*.jpg")}


def test_a_thumbnail_is_made_once_and_kept(client, served):
    before = len(_kept(served))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.get("/thumbnails/5?v=1"), range(4)))
    assert {answer.content for answer in answers} == {answers[0].content}
    kept = _kept(served)
    assert len(kept) == before + 1
    assert client.get("/thumbnails/5").content == answers[0].content
    assert _kept(served) == kept
    assert answers[0].headers["content-type"] == "image/jpeg"
    assert "max-age" in answers[0].headers["cache-control"]


def test_the_original_is_the_file_itself(client, served):
    answer = client.get("/originals/5")
    assert answer.content == (served.photos / served.site.served.names[5]).read_bytes()
    assert answer.headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    "address",
    [
        *("/thumbnails/-1", "/thumbnails/9999", "/originals/..%2F..%2Fetc%2Fpasswd", "/originals/1e3"),
        *("/static/../pages.py", "/static/..%2fpages.py", "/static/%2e%2e/pages.py", "/previews/x"),
    ],
)
def test_there_is_nothing_else(client, address):
    assert client.get(address).status_code in (404, 422)
    assert client.get("/").status_code == 200


def test_every_answer_forbids_what_the_pages_do_not_need(client):
    for address in (
        "/",
        "/photos",
        "/collection",
        "/thumbnails/1",
        "/nowhere",
        "/static/search.js",
        "/openapi.json",
    ):
        found = client.get(address).headers
        assert {name: found.get(name) for name in HEADERS} == HEADERS, address


def test_names_are_written_as_text(client, served):
    row = served.site.served.names.index(HOSTILE)
    pages = [client.get(f"/?row={row}"), client.get("/photos"), client.get("/collection/map")]
    pages.append(client.post("/results", data={"row": str(row + 1), "right": str(row)}))
    for page in pages:
        assert page.status_code == 200
        assert "<img src=x" not in page.text
    assert "&lt;img src=x onerror=alert(1)&gt;" in pages[0].text
    found = client.get("/photos", params={"name": '"><script>alert(1)</script>'}).text
    assert "<script>alert" not in found
    assert "0 photos" in found


def test_other_hosts_and_pages_of_other_sites_are_refused(client):
    answer = client.get("/", headers={"Host": "evil.example:80"})
    assert (answer.status_code, answer.json()["message"]) == (
        421,
        "host: expected 127.0.0.1, [::1], localhost, got 'evil.example:80'; use that address",
    )
    assert client.get("/", headers={"Host": "LOCALHOST:1"}).status_code == 200
    answer = client.post("/api/search", data={"name": "x"}, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403


def _served(photos, *names):
    boxes = dict.fromkeys(("x1", "y1", "x2", "y2"), np.nan)
    images = pd.DataFrame({"name": names}).assign(**boxes)
    return Served(photos=photos, vectors=np.eye(len(names), 4, dtype=np.float32), images=images, version="v")


def test_only_files_of_the_collection_have_a_path(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (photos / "own.png").write_bytes(b"own")
    (photos / "folder.png").mkdir()
    os.symlink(tmp_path / "secret.png", photos / "out.png")
    os.symlink(photos / "own.png", photos / "in.png")
    absolute = str(tmp_path / "secret.png")
    served = _served(
        photos, "own.png", "in.png", "../secret.png", absolute, "out.png", "gone.png", "folder.png", "a\0b"
    )
    assert served.path(0) == served.path(1) == photos.resolve() / "own.png"
    states = [
        "",
        "",
        *["outside the collection"] * 3,
        "deleted since",
        "outside the collection",
        "deleted since",
    ]
    assert [served.state(row) for row in range(8)] == states
    with pytest.raises(RequestFault) as fault:
        served.path(2)
    assert (fault.value.status, fault.value.message) == (
        403,
        "photo '../secret.png': expected a file of the collection, got one outside of it",
    )
    with pytest.raises(RequestFault) as fault:
        served.path(5)
    assert (fault.value.status, fault.value.message) == (
        404,
        "photo 'gone.png': expected a file, got none: it is gone since; extract again",
    )


def test_a_photo_that_is_gone_is_told_on_the_page(network, extracted, tmp_path):
    shutil.copytree(extracted, tmp_path / "top")
    with (
        running(network, tmp_path / "top") as own,
        httpx.Client(base_url=own.address, timeout=60.0) as client,
    ):
        names = own.site.served.names
        own_photos = own.site.served.photos
        assert own_photos == extracted / "photos"  # where they were extracted
        hidden = own_photos / names[3]
        kept = hidden.read_bytes()
        hidden.unlink()
        try:
            page = client.post("/results", data={"row": "2"}).text
            assert page.count("deleted since") == 1
            assert (
                client.get("/thumbnails/3")
                .json()["message"]
                .startswith(f"photo '{names[3]}': expected a file")
            )
            assert "it is gone since" in client.get("/?row=3").text
        finally:
            hidden.write_bytes(kept)


def test_pages_show_places_and_photos(client, served):
    page = client.get("/collection").text
    assert page.count("<h3>") == NUM_PLACES
    assert page.count("/thumbnails/") == NUM_PHOTOS
    drawn = client.get("/collection/map").text
    assert drawn.count("<circle") == NUM_PHOTOS
    assert "by t-SNE of their descriptors" in drawn
    copies = client.get("/collection/copies").text
    assert copies.count("<h3>") == 1
    assert re.findall(r'alt="([^"]*)"', copies) == ["place 6 view 0 larger.png", "place 6 view 0.png"]
    assert client.get("/photos", params={"name": "PLACE 4"}).text.count("/thumbnails/") == VIEWS


def test_a_result_leads_to_the_folder_it_lies_in(client, served):
    link = re.compile(r'<a href="([^"]*)" aria-label="Folder of')
    assert link.findall(client.post("/results", data={"row": "3"}).text) == []
    images = served.site.served.images
    inside = replace(served.site.served, images=images.assign(name="sea & sun/" + images["name"]))
    site = replace(served.site, served=inside, searcher=replace(served.site.searcher, served=inside))
    page = TestClient(app.application(site, "1.2.3"), base_url="http://127.0.0.1")
    found = set(link.findall(page.post("/results", data={"row": "3"}).text))
    assert found == {"/photos?name=sea%20%26%20sun/"}
    assert f"{NUM_PHOTOS} photos." in page.get(found.pop()).text


def test_the_form_works_without_a_script(client, served):
    photo = (served.photos / "place 1 view 1.png").read_bytes()
    page = client.post("/", files={"photo": ("a.png", photo)}, data={"step": "qe", "page": "2"}).text
    assert "Results 25 to 29" in page
    assert 'value="qe" checked' in page
    page = client.post("/", files={"photo": ("a.png", b"text")}).text
    assert "photo: expected one that can be read, got &#39;not an image&#39;; choose another" in page
    page = client.post("/", data={"row": "1", "right": ["4", "9"], "page": "2"}).text
    assert page.count('type="hidden" form="search" name="right"') == 2


def _talk(served, head, body=b""):
    """What a client gets that says this and no more, until the server hangs up."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as connection:
        connection.sendall(head + body)
        received = b""
        while part := connection.recv(65536):
            received += part
    return received


def test_slow_clients_are_cut_off(network, extracted, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "_SECONDS_TO_ASK", 0.2)
    shutil.copytree(extracted, tmp_path / "top")
    with running(network, tmp_path / "top", Patience(chunk=0.3, body=1.0, send=0.5)) as own:
        assert _talk(own, b"") == b""
        assert _talk(own, b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ") == b""
        head = b"POST /results HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n"
        head += b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        said = _talk(own, head, b"--b\r\n")
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b"expected it sooner" in said
        monkeypatch.undo()  # a client that is only slow to begin is waited for
        assert httpx.get(own.address, timeout=60.0).status_code == 200


def test_clients_beyond_the_limit_of_time_leave_no_file(network, extracted, tmp_path):
    shutil.copytree(extracted, tmp_path / "top")
    with running(network, tmp_path / "top", Patience(chunk=5.0, body=0.5)) as own:
        connection = socket.create_connection(("127.0.0.1", own.port), timeout=60)
        head = b"POST /results HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n"
        connection.sendall(head + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n")
        connection.settimeout(0.05)
        said = b""
        while not said:  # a byte now and then, for ever
            connection.sendall(b"x")
            with suppress(TimeoutError):
                said = connection.recv(4096)
        assert said.startswith(b"HTTP/1.1 408 ")
        connection.close()
        assert list(own.site.uploads.iterdir()) == []


def test_one_server_a_folder(network, extracted, served):
    serving = assembly.Serving(folder=extracted / "dir")
    said = r"pictures: expected a folder that nobody else writes, got one in use by "
    with pytest.raises(FolderInUse, match=said), assembly.assembled(network, "model", serving):
        pass


def test_a_port_that_cannot_be_had_is_told(served):
    with pytest.raises(UsageFault) as fault:
        server.listen("127.0.0.1", served.port)
    assert str(fault.value) == (
        f"--port: expected a free port, got {served.port}, which another server uses; choose another"
    )
    with pytest.raises(
        UsageFault, match=r"^--host: expected an address of this machine, got '203\.0\.113\.7' "
    ):
        server.listen("203.0.113.7", 0)
    with pytest.raises(
        UsageFault, match=r"^--host: expected a name or address of this machine, got 'no host' "
    ):
        server.listen("no host", 0)


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False), ("no host", False)]
)
def test_what_other_machines_can_reach_is_known(host, local):
    assert server.is_loopback(host) == local


def test_a_folder_that_cannot_be_written_is_served_all_the_same(network, extracted, tmp_path, caplog):
    shutil.copytree(extracted, tmp_path / "top")
    shutil.rmtree(tmp_path / "top" / "dir" / "pictures", ignore_errors=True)
    (tmp_path / "top" / "dir" / "pictures").write_text("a file in the way")
    with running(network, tmp_path / "top") as own:
        assert httpx.get(f"{own.address}/thumbnails/1", timeout=60.0).status_code == 200
    assert "pictures are not kept there" in caplog.text


def test_photos_that_are_elsewhere_are_asked_for(network, extracted, tmp_path):
    shutil.copytree(extracted / "dir", tmp_path / "dir")
    shutil.rmtree(tmp_path / "dir" / "pictures", ignore_errors=True)
    serving = assembly.Serving(folder=tmp_path / "dir", photos=tmp_path / "none")
    with pytest.raises(UsageFault) as fault, assembly.assembled(network, "model", serving):
        pass
    assert str(fault.value) == (
        f"PHOTOS: expected the folder that {tmp_path / 'dir'} was extracted from, got {tmp_path / 'none'}, "
        "which does not exist; say with --photos where it is now"
    )


def test_pictures_carry_no_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "<script>alert(1)</script>"
    Image.new("RGB", (400, 300), (9, 99, 200)).save(tmp_path / "a.jpg", exif=exif, comment=b"secret")
    from experiments.web.decoding import small_jpeg

    made = small_jpeg(tmp_path / "a.jpg", 320)
    assert b"script" not in made
    assert b"secret" not in made
