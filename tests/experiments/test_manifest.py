import re

import pandas as pd
import pytest

from experiments import manifest
from experiments.manifest import Manifest
from groundwork.files import write_table


def a_manifest(**changes):
    values = {
        "command": ("run", "photos", "--out", "work"),
        "started": "2024-05-06T07:08:09+00:00",
        "seconds": 12.5,
        "seed": 3,
        "protocol": "small.toml",
        "overrides": ("train.epochs=2",),
        "config": {"train": {"epochs": 2}},
        "weights": "pretrained",
        "photos": "/photos",
        "input_sha256": "ab",
        "packages": manifest.installed(),
        "machine": manifest.this_machine("cpu"),
        "scores": {"fine_tuned": {"map": 0.75}},
    }
    return Manifest(**(values | changes))


def test_comes_back_as_written(tmp_path):
    written = a_manifest()
    assert manifest.save(written, tmp_path) == tmp_path / "manifest.json"
    assert manifest.load(tmp_path) == written
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_failed_write_leaves_the_old_one(tmp_path, monkeypatch):
    manifest.save(a_manifest(seed=1), tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        manifest.save(a_manifest(seed=2), tmp_path)
    assert manifest.load(tmp_path).seed == 1
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def collection(path, *rows):
    write_table(path, pd.DataFrame(rows, columns=["name", "sha256"]))
    return manifest.input_hash(path)


def test_input_hash_knows_names_and_contents_but_no_order(tmp_path):
    first = collection(tmp_path / "a.parquet", ("a.jpg", "01"), ("b é.jpg", "02"))
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert collection(tmp_path / "b.parquet", ("b é.jpg", "02"), ("a.jpg", "01")) == first
    assert collection(tmp_path / "c.parquet", ("a.jpg", "01"), ("b é.jpg", "03")) != first
    assert collection(tmp_path / "d.parquet", ("c.jpg", "01"), ("b é.jpg", "02")) != first


def test_versions_of_what_is_installed():
    versions = manifest.installed(["numpy", "no-such-package"])
    assert list(versions) == ["numpy"]
    assert re.match(r"\d+\.\d+", versions["numpy"])
