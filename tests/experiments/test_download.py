import shutil

import pytest

from experiments.sizes import size


def test_the_list_has_every_name(command):
    code, out, err = command("download", "list")
    assert (code, err) == (0, [])
    rows = dict(line.split(None, 1) for line in out.splitlines())
    assert rows["roxford5k"] == "1.94 GB  Revisited Oxford: 4,993 photos, 70 queries"
    assert rows["gl18-tl-resnet50-gem-w"] == "94 MB  retrieval network"


def test_a_dry_run_tells_and_writes_nothing(command, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 6_300_000_000))
    code, out, err = command("download", "roxford5k", "--data", tmp_path / "data", "--dry-run")
    assert (code, err) == (0, [])
    host = "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings"
    truth = "https://cmp.felk.cvut.cz/revisitop/data/datasets/roxford5k/gnd_roxford5k.pkl"
    assert out.splitlines() == [
        "roxford5k: Revisited Oxford: 4,993 photos, 70 queries",
        "  to come      1.94 GB  size; sha256 of the first download"
        f"  {host}/oxbuild_images-v1.tgz -> {tmp_path}/data/test/oxford5k/jpg",
        f"  to come       150 kB  sha256{' ' * 30}{truth} -> {tmp_path}/data/test/roxford5k",
        f"  link {tmp_path}/data/test/roxford5k/jpg -> {tmp_path}/data/test/oxford5k/jpg",
        "  space needed: 3.88 GB; free: 6.3 GB",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["roxfrd5k"],
            "NAME: expected a published data set or network, got 'roxfrd5k'; did you mean 'roxford5k'?",
        ),
        (
            ["roxford5k", "--mirror", "ftp://x.org"],
            "--mirror: expected an address with https:// or http://, got 'ftp://x.org'; correct it",
        ),
    ],
)
def test_wrong_usage(command, tmp_path, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    assert command("download", *words) == (2, "", [f"cnnimretrieval: {line}"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("num_bytes", "words"),
    [(None, "?"), (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (149_871, "150 kB"), (444e9, "444 GB")],
)
def test_sizes_for_people(num_bytes, words):
    assert size(num_bytes) == words
