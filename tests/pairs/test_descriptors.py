from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pairs.descriptors
from groundwork.files import write_table
from groundwork.records import mark_done
from pairs.descriptors import descriptors_key, load_descriptors


def write_extraction(
    folder: Path, names: list[str], vectors: np.ndarray, boxes: dict[str, list[float]] | None = None
) -> None:
    folder.mkdir()
    np.save(folder / "vectors.npy", vectors.astype(np.float32))
    boxes = dict.fromkeys(("x1", "y1", "x2", "y2"), np.full(len(names), np.nan)) if boxes is None else boxes
    write_table(folder / "images.parquet", pd.DataFrame({"name": names, **boxes}))
    mark_done(folder, "extract", f"key of {len(names)}", outputs=[folder])


def test_distances_by_name_whatever_the_order_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs.descriptors, "_BLOCK_PAIRS", 2)
    angles = np.deg2rad([0, 20, 90, 150])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    write_extraction(tmp_path / "d", ["d", "b", "a", "other"], vectors)
    descriptors = load_descriptors(tmp_path / "d", ["a", "b", "c", "d"])
    found = descriptors.distances(np.array([0, 0, 1, 2]), np.array([1, 3, 3, 0]))
    # Chords of 70, 90 and 20 degrees; nothing is known of "c".
    chords = 2 * np.sin(np.deg2rad([70, 90, 20]) / 2)
    np.testing.assert_allclose(found, [*chords, np.inf], rtol=1e-5)


def test_the_key_is_that_of_the_extraction(tmp_path):
    write_extraction(tmp_path / "d", ["a"], np.eye(1, 2))
    assert descriptors_key(tmp_path / "d") == "key of 1"
    assert descriptors_key(tmp_path) is None
    assert descriptors_key(None) is None


def test_without_a_record_the_key_changes_with_the_files(tmp_path):
    write_extraction(tmp_path / "d", ["a"], np.eye(1, 2))
    (tmp_path / "d" / "done" / "extract.json").unlink()
    before = descriptors_key(tmp_path / "d")
    write_table(tmp_path / "d" / "images.parquet", pd.DataFrame({"name": ["b"]}))
    assert before is not None
    assert descriptors_key(tmp_path / "d") not in (None, before)


def test_boxes_are_no_photos_and_of_two_rows_of_a_photo_the_first_counts(tmp_path):
    nan = np.nan
    boxes = {"x1": [2.0, 2.0, nan, nan], "y1": [3.0, 3.0, nan, nan], "x2": [9.0, 9.0, nan, nan]}
    boxes["y2"] = [8.0, 8.0, nan, nan]
    write_extraction(tmp_path / "d", ["a", "b", "b", "b"], np.eye(4), boxes)
    assert load_descriptors(tmp_path / "d", ["a", "b"]).row.tolist() == [-1, 2]


@pytest.mark.parametrize("folder", [None, "nowhere"])
def test_missing_descriptors_are_one_clear_line(tmp_path, folder):
    path = None if folder is None else tmp_path / folder
    with pytest.raises(FileNotFoundError) as error:
        load_descriptors(path, ["a"])
    assert str(error.value) == (
        f"strategy m1: expected descriptors of the photos in pairs.descriptors, got {path}; "
        "run extract on the photos and give its folder"
    )


def test_descriptors_of_other_photos_are_refused(tmp_path):
    write_extraction(tmp_path / "d", ["x"], np.eye(1, 2))
    with pytest.raises(ValueError, match="strategy m1") as error:
        load_descriptors(tmp_path / "d", ["a", "b"])
    assert str(error.value) == (
        f"strategy m1: expected descriptors of the reconstructed photos, got others in {tmp_path / 'd'}; "
        "extract the folder that was reconstructed"
    )
