"""Extracted folders in hloc's files, read as hloc reads them."""

import sys

import h5py
import numpy as np
import pandas as pd
import pytest

from cnnimretrieval.descriptors.hloc_files import export_hloc
from groundwork.files import write_table

NAMES = ["a/1.jpg", "a/2.jpg", "b c.jpg", "ä.jpg", "a/1.jpg", "d.jpg"]


@pytest.fixture
def extracted(tmp_path):
    """Unit vectors at known angles; row 4 is a box of the photo of row 0."""
    folder = tmp_path / "descriptors"
    folder.mkdir()
    angles = np.deg2rad([0, 10, 30, 70, 5, 100])
    np.save(folder / "vectors.npy", np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    box = np.where(np.arange(6) == 4, 1.0, np.nan)
    sides = {"x1": box, "y1": box, "x2": box + 5, "y2": box + 5}
    write_table(folder / "images.parquet", pd.DataFrame({"name": NAMES, **sides}))
    return folder


def _as_hloc_lists_names(path):
    """hloc.utils.io.list_h5_names."""
    names = []

    def visit(_, found):
        if isinstance(found, h5py.Dataset):
            names.append(found.parent.name.strip("/"))

    with h5py.File(path, "r", libver="latest") as file:
        file.visititems(visit)
    return sorted(set(names))


def test_descriptors_are_where_hloc_looks_for_them(extracted, tmp_path):
    features, _ = export_hloc(extracted, tmp_path / "out", "mine")
    assert features.name == "global-feats-mine.h5"
    assert _as_hloc_lists_names(features) == sorted(set(NAMES))
    vectors = np.load(extracted / "vectors.npy")
    with h5py.File(features, "r") as file:
        for row in (0, 1, 2, 3, 5):
            np.testing.assert_array_equal(file[NAMES[row]]["global_descriptor"].__array__(), vectors[row])


def test_pairs_are_each_photo_with_its_nearest(extracted, tmp_path):
    _, pairs = export_hloc(extracted, tmp_path / "out", "mine", neighbours=2)
    # Those of a name with a blank cannot be written: it is one of the nearest of four.
    assert pairs.read_text(encoding="utf-8").splitlines() == [
        "a/1.jpg a/2.jpg",
        "a/2.jpg a/1.jpg",
        "ä.jpg d.jpg",
        "d.jpg ä.jpg",
    ]


def test_boxes_alone_and_a_missing_package_are_told(extracted, tmp_path, monkeypatch):
    table = pd.read_parquet(extracted / "images.parquet")
    boxes = table.assign(x1=1.0, y1=1.0, x2=2.0, y2=2.0)
    write_table(extracted / "images.parquet", boxes)
    with pytest.raises(ValueError, match="expected descriptors of whole photos, got boxes only"):
        export_hloc(extracted, tmp_path / "out", "mine")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        ValueError, match=r"expected the package h5py, got .*; pip install 'cnnimretrieval\[hloc\]'"
    ):
        export_hloc(extracted, tmp_path / "out", "mine")
