import hashlib
import io
import json
import shutil
import tarfile

import pytest

from cnnimretrieval.downloads import ledger
from cnnimretrieval.downloads.dataset import DataSet, PublishedFile
from cnnimretrieval.downloads.download import DownloadConfig, addresses, download, plan
from cnnimretrieval.downloads.transfer import TransferError

CONFIG = DownloadConfig(attempts=1, first_pause_s=0.0, timeout_s=600)
TRUTH = b"ground truth" * 30


def tgz(files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


ONE = tgz({"a/1.jpg": b"one" * 999, "b/2.jpg": b"two"})
TWO = tgz({"3.jpg": b"three"})


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def data_set(web):
    """Two archives of photos and a file with a published hash."""
    return DataSet(
        name="town",
        title="three photos",
        files=(
            *(
                PublishedFile(
                    url=web.put(f"/town/{name}", content),
                    path=f"test/town/{name}",
                    into="test/town/jpg",
                    flat=True,
                    about_bytes=about,
                )
                for name, content, about in (("one.tgz", ONE, 1000), ("two.tgz", TWO, None))
            ),
            PublishedFile(
                url=web.put("/town/gnd.pkl", TRUTH),
                path="test/town/gnd.pkl",
                sha256=sha256(TRUTH)[:7],
                about_bytes=360,
            ),
        ),
        links=(("test/retown/jpg", "test/town/jpg"),),
    )


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def only(data_set, position):
    return DataSet(name="part", title="part", files=(data_set.files[position],))


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def states(data_set, root):
    return [one.state for one in plan(data_set, root).files]


def fails(data_set, root, config=CONFIG, kind=ValueError):
    with pytest.raises(kind) as caught:
        download(data_set, root, config)
    return str(caught.value)


def test_everything_comes_once(web, data_set, root):
    assert states(data_set, root) == ["missing"] * 3
    assert download(data_set, root, CONFIG) == 3
    photos = ["test/town/jpg/1.jpg", "test/town/jpg/2.jpg", "test/town/jpg/3.jpg"]
    assert names(root) == ["test/town/checksums.json", "test/town/gnd.pkl", *photos]
    assert (root / "test/retown/jpg/3.jpg").read_bytes() == b"three"
    assert (root / "test/retown/jpg").readlink().as_posix() == "../town/jpg"
    assert states(data_set, root) == ["done"] * 3
    assert download(data_set, root, CONFIG) == 0
    assert [len(page.requests) for page in web.pages.values()] == [1, 1, 1]


def test_the_ledger_says_what_came(data_set, root):
    download(data_set, root, CONFIG)
    written = json.loads((root / "test/town/checksums.json").read_text())
    assert written["one.tgz"] == {
        "bytes": len(ONE),
        "sha256": sha256(ONE),
        "unpacked": 2,
        "url": data_set.files[0].url,
    }
    assert written["gnd.pkl"]["unpacked"] is None


def test_archives_are_kept_when_asked(data_set, root):
    download(data_set, root, CONFIG.model_copy(update={"keep_archives": True}))
    assert (root / "test/town/two.tgz").read_bytes() == TWO


def test_a_rerun_goes_on_where_it_stopped(web, data_set, root):
    web.pages["/town/two.tgz"].faults = [web.Drop(50), web.Status(404)]
    assert "HTTP 404" in fails(data_set, root, CONFIG.model_copy(update={"attempts": 2}), TransferError)
    assert states(data_set, root) == ["done", "partial", "missing"]
    assert not (root / "test/town/jpg/3.jpg").exists()
    assert download(data_set, root, CONFIG) == 2
    assert web.pages["/town/two.tgz"].requests[-1]["Range"] == "bytes=50-"
    assert len(web.pages["/town/one.tgz"].requests) == 1


def test_an_archive_that_was_not_unpacked_yet_is_not_asked_for_again(web, data_set, root, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("cnnimretrieval.downloads.download.unpack", full)
        with pytest.raises(OSError, match="No space left"):
            download(data_set, root, CONFIG)
    assert states(data_set, root) == ["fetched", "missing", "missing"]
    download(data_set, root, CONFIG)
    assert len(web.pages["/town/one.tgz"].requests) == 1


def test_another_hash_than_published(web, data_set, root):
    web.pages["/town/gnd.pkl"].content = TRUTH[::-1]
    said = fails(only(data_set, 2), root)
    assert said == (
        f"{web.url}/town/gnd.pkl: expected sha256 {sha256(TRUTH)[:7]}, got {sha256(TRUTH[::-1])[:7]}; "
        "give a --mirror, or wait for its publisher to mend it"
    )
    assert names(root) == []


def test_a_file_glued_from_two_versions_is_fetched_again_in_one_piece(web, data_set, root):
    page = web.pages["/town/gnd.pkl"]
    page.content, page.etag, page.faults = TRUTH[::-1], "", [web.Drop(100), web.Status(404)]
    fails(only(data_set, 2), root, CONFIG.model_copy(update={"attempts": 2}), TransferError)
    page.content = TRUTH
    assert download(only(data_set, 2), root, CONFIG) == 1
    assert [request.get("Range") for request in page.requests] == [None, "bytes=100-", "bytes=100-", None]
    assert (root / "test/town/gnd.pkl").read_bytes() == TRUTH


def test_another_hash_than_at_the_first_download(web, data_set, root):
    archive = only(data_set, 0)
    download(archive, root, CONFIG)
    shutil.rmtree(root / "test/town/jpg")
    web.pages["/town/one.tgz"].content = TWO
    assert fails(archive, root) == (
        f"{web.url}/town/one.tgz: expected sha256 {sha256(ONE)}, got {sha256(TWO)}; "
        f"if it was published anew, remove its entry from {root}/test/town/checksums.json"
    )
    web.pages["/town/one.tgz"].content = ONE
    assert download(archive, root, CONFIG) == 1


def test_a_published_md5(web, data_set, root):
    digest = hashlib.md5(TWO).hexdigest()
    listing = web.put("/md5/two.txt", f"{digest}  two.tgz\n".encode(), type="text/plain")
    url = data_set.files[1].url
    file = PublishedFile(url=url, path="test/town/two.tgz", into="test/town/jpg", md5_url=listing)
    one = DataSet(name="x", title="x", files=(file,))
    web.pages["/town/two.tgz"].content = ONE
    assert fails(one, root).startswith(f"{url}: expected md5 {digest}, got ")
    web.pages["/md5/two.txt"].content = b"no digest"
    assert fails(one, root) == (
        f"{listing}: expected an MD5 of 32 hex digits, got 'no digest'; give a --mirror"
    )
    web.pages["/town/two.tgz"].content = TWO
    web.pages["/md5/two.txt"].content = digest.encode()
    assert download(one, root, CONFIG) == 1
    assert names(root) == ["test/town/checksums.json", "test/town/jpg/3.jpg"]


def test_a_truncated_archive_is_fetched_anew(web, data_set, root):
    web.pages["/town/one.tgz"].content = ONE[:-30]
    said = fails(data_set, root)
    assert said.startswith(f"{root}/test/town/one.tgz: expected a whole archive, got ")
    assert names(root) == ["test/town/checksums.json"]
    assert ledger.read(root / "test/town") == {}
    web.pages["/town/one.tgz"].content = ONE
    assert download(data_set, root, CONFIG) == 3


def test_mirrors_are_asked_first(web, data_set, root):
    web.put("/copies/town/gnd.pkl", TRUTH)
    mirrors = (f"{web.url}/gone", f"{web.url}/copies/")
    download(only(data_set, 2), root, CONFIG.model_copy(update={"mirrors": mirrors}))
    assert ledger.read(root / "test/town")["gnd.pkl"].url == f"{web.url}/copies/town/gnd.pkl"
    assert web.pages["/town/gnd.pkl"].requests == []


def test_addresses_keep_the_path():
    url = "https://example.org/~x/data/a.tgz"
    assert addresses(url, ["http://m:8000/b/"]) == ["http://m:8000/b/~x/data/a.tgz", url]


def test_the_plan_counts_what_is_to_come(web, data_set, root):
    first = plan(data_set, root)
    assert (first.needed_bytes, first.unknown_sizes) == (2 * 1000 + 360, 1)
    assert first.free_bytes == pytest.approx(shutil.disk_usage(root.parent).free, rel=0.1)
    assert not root.exists()
    download(data_set, root, CONFIG)
    last = plan(data_set, root)
    assert (last.needed_bytes, last.unknown_sizes) == (0, 0)


def test_too_little_space_is_found_before_anything_comes(web, data_set, root, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9_000, 0, 2_000))
    assert fails(data_set, root, kind=OSError) == (
        f"{root}: expected about 2,360 bytes of free space for town, got 2,000; "
        "free some or take another --data"
    )
    assert not root.exists()


def test_a_ledger_that_cannot_be_read(data_set, root):
    (root / "test/town").mkdir(parents=True)
    (root / "test/town/checksums.json").write_text("{")
    assert fails(data_set, root) == (
        f"{root}/test/town/checksums.json: expected the record of what was downloaded, got another text; "
        "remove it if the files beside it can be trusted"
    )
