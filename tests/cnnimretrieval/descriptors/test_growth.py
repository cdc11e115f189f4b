"""A folder of descriptors whose photos change: what comes out is what a new folder would hold."""

import os

import numpy as np
import pandas as pd
import pytest

from cnnimretrieval.descriptors import parts
from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import extract, read_store
from cnnimretrieval.whitening.estimates import pca_whitening

SMALL = ExtractConfig(image_size=72)


@pytest.fixture
def asked(monkeypatch):
    """The names of the photos that were described, call by call."""
    calls = []

    def counted(network, requests, *arguments, **options):
        calls.append([request.path.name for request in requests])
        return describe(network, requests, *arguments, **options)

    monkeypatch.setattr(parts, "describe", counted)
    return calls


def _below(folder):
    return [ImageRequest(path=path) for path in sorted(folder.glob("*.*"))]


def _same(found, expected, atol=0.0):
    np.testing.assert_allclose(found.vectors, expected.vectors, rtol=0, atol=atol)
    pd.testing.assert_frame_equal(found.images, expected.images)
    pd.testing.assert_frame_equal(found.rejected, expected.rejected)
    assert found.meta == expected.meta


@pytest.mark.parametrize("whitened", [False, True])
def test_a_changed_collection_gives_what_a_new_folder_would(network, photos, tmp_path, asked, whitened):
    folder, out = photos[0].parent, tmp_path / "out"
    if whitened:
        network.whitening = pca_whitening(describe(network, _below(folder), SMALL).vectors, dim=5)
    late = photos[2].read_bytes()
    photos[2].unlink()
    (folder / "bad.png").write_text("no image")
    extract(network, _below(folder), folder, out, SMALL)
    asked.clear()
    photos[2].write_bytes(late)  # a new one, in the middle
    photos[1].unlink()  # one that is gone
    photos[4].rename(folder / "a first.png")  # one of another name
    (folder / "copy.png").write_bytes(photos[0].read_bytes())  # one that is there twice
    photos[5].write_bytes(photos[6].read_bytes())  # one that became another
    os.utime(photos[3], ns=(1, 1))
    boxed = ImageRequest(path=photos[0], box=(8.0, 4.0, 72.0, 60.0))
    found = extract(network, [*_below(folder), boxed], folder, out, SMALL)
    assert asked == [["bad.png", "photo 2.png", "photo 0.png"]]
    fresh = extract(network, [*_below(folder), boxed], folder, tmp_path / "fresh", SMALL)
    _same(found, fresh, atol=1e-6 if whitened else 0.0)
    contents = pd.read_parquet(out / "contents.parquet")
    assert contents.loc[contents["removed"], "name"].tolist() == ["photo 1.png", "photo 5.png"]
    kept = contents[~contents["removed"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, pd.read_parquet(tmp_path / "fresh" / "contents.parquet"))
    files = [sorted(path.name for path in place.iterdir()) for place in (out, tmp_path / "fresh")]
    assert files[0] == files[1]


def test_what_was_removed_stays_marked_until_it_is_back(network, photos, tmp_path, asked):
    folder, out = photos[0].parent, tmp_path / "out"

    def run():
        extract(network, _below(folder), folder, out, SMALL)
        contents = pd.read_parquet(out / "contents.parquet")
        return contents.loc[contents["removed"], "name"].tolist()

    run()
    kept = photos[1].read_bytes()
    photos[1].unlink()
    assert run() == ["photo 1.png"]
    photos[2].unlink()
    assert sorted(run()) == ["photo 1.png", "photo 2.png"]
    photos[1].write_bytes(kept)
    assert run() == ["photo 2.png"]
    assert [len(names) for names in asked] == [7, 0, 0, 1]


def test_another_network_or_setting_describes_everything(network, photos, tmp_path, asked):
    folder, out = photos[0].parent, tmp_path / "out"
    extract(network, _below(folder), folder, out, SMALL)
    photos[0].unlink()
    extract(network, _below(folder), folder, out, ExtractConfig(image_size=64))
    photos[1].unlink()
    network.pool.p.data.add_(0.1)
    extract(network, _below(folder), folder, out, ExtractConfig(image_size=64))
    assert [len(names) for names in asked] == [7, 6, 5]


def test_damage_describes_everything(network, photos, tmp_path, asked):
    folder, out = photos[0].parent, tmp_path / "out"
    extract(network, _below(folder), folder, out, SMALL)
    photos[0].unlink()
    vectors = np.load(out / "vectors.npy")
    np.save(out / "vectors.npy", vectors[::-1])
    found = extract(network, _below(folder), folder, out, SMALL)
    np.testing.assert_array_equal(found.vectors, vectors[1:])
    assert [len(names) for names in asked] == [7, 6]


def test_a_run_that_is_stopped_while_it_adds_leaves_what_was_there(network, photos, tmp_path, monkeypatch):
    folder, out = photos[0].parent, tmp_path / "out"
    extract(network, _below(folder)[1:], folder, out, SMALL)
    before = np.array(read_store(out).vectors)

    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "describe", stopped)
    with pytest.raises(KeyboardInterrupt):
        extract(network, _below(folder), folder, out, SMALL)
    np.testing.assert_array_equal(read_store(out).vectors, before)


def test_nothing_left_is_an_error(network, photos, tmp_path):
    folder, out = photos[0].parent, tmp_path / "out"
    extract(network, _below(folder), folder, out, SMALL)
    for path in photos:
        path.write_text("no image")
    with pytest.raises(ValueError, match=r"got 7 files \(7 not an image\); check the path$"):
        extract(network, _below(folder), folder, out, SMALL)
    with pytest.raises(FileNotFoundError, match=r"without meta\.json; extract again$"):
        read_store(out)
