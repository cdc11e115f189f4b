import re
from urllib.parse import urlsplit

import pytest

from cnnimretrieval.downloads.catalogue import DATA_SETS, find
from cnnimretrieval.evaluation.datasets import DISTRACTORS, LAYOUTS
from cnnimretrieval.networks.toolbox_files import PUBLISHED

FILES = {file.path: file for one in DATA_SETS.values() for file in one.files}
# Nobody knows whether these hosts answer https.
HTTP_ONLY = {"ptak.felk.cvut.cz", "pascal.inrialpes.fr"}


def test_every_file_has_one_address_and_stays_below_the_data_folder():
    for one in DATA_SETS.values():
        for file in one.files:
            assert FILES[file.path] == file
            assert ".." not in file.path
            assert not file.path.startswith("/")


def test_https_wherever_it_is_known():
    for file in FILES.values():
        parts = urlsplit(file.url)
        assert parts.scheme == ("http" if parts.hostname in HTTP_ONLY else "https")


def test_hashes_are_hex():
    assert all(re.fullmatch(r"([0-9a-f]{7}|[0-9a-f]{64})?", file.sha256) for file in FILES.values())


def test_every_published_network_has_its_hash():
    for name, file in PUBLISHED.items():
        (found,) = find(name).files
        assert found.url.endswith(f"/{file.path}")
        assert found.sha256 == file.sha256_prefix


@pytest.mark.parametrize("name", sorted({*LAYOUTS, "revisitop1m"} - {"holidays-upright"}))
def test_benchmarks_lie_where_evaluation_looks(name):
    layout = {**LAYOUTS, "revisitop1m": DISTRACTORS}[name]
    one = find(name)
    kept = {file.path for file in one.files if not file.is_archive}
    filled = {file.into for file in one.files if file.is_archive} | {link for link, _ in one.links}
    for file in (layout.ground_truth, layout.names):
        assert file is None or f"{layout.folder}/{file}" in kept
    for folder in (layout.database, layout.queries):
        assert f"{layout.folder}/{folder}" in filled


def test_distractors_come_in_a_hundred_archives():
    archives = [file for file in find("revisitop1m").files if file.is_archive]
    assert len(archives) == 100
    assert sum(file.about_bytes for file in archives) == 444_000_000_000


def test_an_unknown_name():
    with pytest.raises(ValueError, match="NAME") as caught:
        find("gldv3")
    assert str(caught.value) == (
        "NAME: expected a published data set or network, got 'gldv3'; did you mean 'gldv2'?"
    )
    with pytest.raises(ValueError, match="NAME") as caught:
        find("?")
    assert str(caught.value) == (
        "NAME: expected a published data set or network, got '?'; `download list` shows all"
    )
