import shutil
from urllib.request import Request

import pytest

from cnnimretrieval.downloads.part import discard, keep, part_of
from cnnimretrieval.downloads.transfer import TransferConfig, TransferError, _NoDowngrade, fetch

CONTENT = bytes(range(251)) * 40
OTHER = bytes(reversed(CONTENT))
CONFIG = TransferConfig(attempts=3, first_pause_s=0.5, timeout_s=600)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "deep" / "file.bin"


@pytest.fixture
def pauses():
    return []


@pytest.fixture
def get(target, pauses):
    def call(url, *, hashed=False, config=CONFIG):
        patched = fetch(url, target, config, hashed=hashed, sleep=pauses.append)
        return patched, part_of(target).read_bytes()

    return call


def test_a_file_arrives_whole_and_only_keep_names_it(web, get, target):
    assert get(web.put("/a/file.bin", CONTENT)) == (False, CONTENT)
    assert not target.exists()
    keep(target)
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]


def test_a_dropped_connection_is_continued(web, get, pauses):
    url = web.put("/file.bin", CONTENT, faults=[web.Drop(3000), web.Drop(2000)])
    assert get(url) == (True, CONTENT)
    asked = [headers.get("Range") for headers in web.pages["/file.bin"].requests]
    assert asked == [None, "bytes=3000-", "bytes=5000-"]
    assert pauses == [0.5, 0.5]


def test_another_process_continues(web, get, target):
    url = web.put("/file.bin", CONTENT, faults=[web.Drop(3000), *[web.Drop(0)] * 3])
    with pytest.raises(TransferError) as caught:
        get(url)
    assert str(caught.value) == (
        f"{url}: expected the whole file, got a connection that ended after 3,000 of 10,040 bytes 3 times "
        "in a row; run it again later to continue, or give a --mirror"
    )
    assert part_of(target).read_bytes() == CONTENT[:3000]
    assert get(url) == (True, CONTENT)
    last = web.pages["/file.bin"].requests[-1]
    assert (last["Range"], last["If-Range"]) == ("bytes=3000-", '"one"')


def test_a_file_that_changed_is_not_glued(web, get, target):
    url = web.put("/file.bin", CONTENT, faults=[web.Drop(3000), web.Status(404)])
    with pytest.raises(TransferError):
        get(url)
    web.put("/file.bin", OTHER, etag='"two"')
    assert get(url) == (False, OTHER)


@pytest.mark.parametrize(("hashed", "again"), [(False, None), (True, "bytes=3000-")])
def test_without_etag_or_date_only_a_hash_allows_to_continue(web, get, hashed, again):
    url = web.put("/file.bin", CONTENT, etag="", faults=[web.Drop(3000)])
    assert get(url, hashed=hashed)[1] == CONTENT
    assert web.pages["/file.bin"].requests[-1].get("Range") == again


def test_a_server_without_ranges_starts_again(web, get):
    url = web.put("/file.bin", CONTENT, ranges=False, faults=[web.Drop(3000)])
    assert get(url) == (False, CONTENT)


def test_a_server_without_ranges_that_always_drops_ends(web, get, pauses):
    url = web.put("/file.bin", CONTENT, ranges=False, faults=[web.Drop(3000)] * 20)
    with pytest.raises(TransferError, match="ended after 3,000 of 10,040 bytes 3 times in a row"):
        get(url)
    assert pauses == [0.5, 0.5, 1.0]


def test_a_wrong_range_is_thrown_away(web, get):
    faults = [web.Drop(3000), web.Range("bytes 2900-10039/10040")]
    assert get(web.put("/file.bin", CONTENT, faults=faults)) == (False, CONTENT)


def test_a_length_that_is_too_long_is_never_whole(web, get, target):
    url = web.put("/file.bin", CONTENT, ranges=False, faults=[web.Claim(20_000)] * 20)
    with pytest.raises(TransferError, match="ended after 10,040 of 20,000 bytes"):
        get(url)
    assert not target.exists()


def test_no_length_needs_a_hash(web, get):
    url = web.put("/file.bin", CONTENT, length=False)
    with pytest.raises(TransferError) as caught:
        get(url)
    assert str(caught.value) == (
        f"{url}: expected a server that says how long the file is, got one that does not; give a --mirror"
    )
    assert get(url, hashed=True) == (False, CONTENT)


def test_a_busy_server_is_asked_again_when_it_says(web, get, pauses):
    faults = [web.Status(503, {"Retry-After": "7"}), web.Status(429)]
    assert get(web.put("/file.bin", CONTENT, faults=faults)) == (False, CONTENT)
    assert pauses == [7.0, 1.0]


def test_a_server_that_stays_busy_is_told(web, get):
    url = web.put("/file.bin", CONTENT, faults=[web.Status(503)] * 9)
    with pytest.raises(TransferError) as caught:
        get(url)
    assert str(caught.value) == (
        f"{url}: expected the whole file, got HTTP 503 Service Unavailable 3 times in a row; "
        "run it again later to continue, or give a --mirror"
    )


def test_not_found_is_told_at_once(web, get, target, pauses):
    with pytest.raises(TransferError) as caught:
        get(f"{web.url}/nowhere")
    assert str(caught.value) == f"{web.url}/nowhere: expected a file, got HTTP 404 Not Found; give a --mirror"
    assert pauses == []
    assert list(target.parent.iterdir()) == []


def test_a_web_page_is_no_file(web, get, target):
    url = web.put("/file.bin", b"<html>please log in</html>", type="text/html; charset=utf-8")
    with pytest.raises(TransferError) as caught:
        get(url)
    assert str(caught.value) == f"{url}: expected a file, got a web page; give a --mirror"
    assert list(target.parent.iterdir()) == []


def test_a_server_that_is_not_there_is_told(web, get):
    url = "http://127.0.0.1:1/file.bin"
    with pytest.raises(TransferError, match=r"Connection refused\W+3 times in a row; run it again later"):
        get(url)


def test_a_part_that_is_complete_already_is_taken(web, get, target):
    url = web.put("/file.bin", CONTENT)
    get(url)
    assert get(url) == (True, CONTENT)
    assert web.pages["/file.bin"].requests[-1]["Range"] == "bytes=10040-"


def test_a_part_from_elsewhere_is_not_continued(web, get):
    first = web.put("/one/file.bin", CONTENT, faults=[web.Drop(3000), web.Status(404)])
    with pytest.raises(TransferError):
        get(first)
    assert get(web.put("/two/file.bin", OTHER)) == (False, OTHER)


def test_a_full_disk_is_found_before_the_first_byte(web, get, target, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9_000, 0, 9_000))
    url = web.put("/file.bin", CONTENT)
    with pytest.raises(OSError, match="free space") as caught:
        get(url)
    assert str(caught.value) == (
        f"{target.parent}: expected 10,040 bytes of free space for file.bin, got 9,000; "
        "free some and run it again"
    )
    assert list(target.parent.iterdir()) == []


def test_a_redirection_is_followed(web, get):
    web.put("/file.bin", CONTENT, faults=[web.Drop(3000)])
    url = web.put("/old", b"", faults=[web.Status(301, {"Location": f"{web.url}/file.bin"})] * 2)
    assert get(url) == (True, CONTENT)


def test_discard_leaves_nothing(web, get, target):
    get(web.put("/file.bin", CONTENT))
    discard(target)
    assert list(target.parent.iterdir()) == []


def test_https_is_not_left():
    request = Request("https://example.org/file.bin")
    handler = _NoDowngrade()
    with pytest.raises(TransferError) as caught:
        handler.redirect_request(request, None, 302, "", {}, "http://example.org/file.bin")
    assert str(caught.value) == (
        "https://example.org/file.bin: expected to stay on https, "
        "got sent to http://example.org/file.bin; give a --mirror"
    )
    followed = handler.redirect_request(request, None, 302, "", {}, "https://m.org/file.bin")
    assert followed.full_url == "https://m.org/file.bin"
