import json
import shutil

import numpy as np
import pandas as pd
import pytest

from groundwork.descriptor_folder import folder_key, read_descriptor_folder
from groundwork.files import write_table
from groundwork.records import mark_done

REMEDY = "extract the photos again"
NAN = np.nan


@pytest.fixture
def folder(tmp_path):
    """Descriptors at 0, 20, 90 and 150 degrees: of a box of "a", of "b" twice, and of "c"."""
    angles = np.deg2rad([0, 20, 90, 150])
    np.save(tmp_path / "vectors.npy", np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    write_table(tmp_path / "images.parquet", _images())
    return tmp_path


def _images(**columns):
    boxes = {"x1": [1.0, NAN, NAN, NAN], "y1": [2.0, NAN, NAN, NAN]}
    boxes |= {"x2": [7.0, NAN, NAN, NAN], "y2": [9.0, NAN, NAN, NAN]}
    return pd.DataFrame({"name": ["a", "b", "b", "c"], **boxes, **columns})


def _told(folder):
    with pytest.raises(ValueError, match=str(folder)) as error:
        read_descriptor_folder(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_photos_are_found_by_name_but_not_by_their_boxes(folder):
    found = read_descriptor_folder(folder)
    assert found.rows_of_photos(["c", "b", "a", "other"]).tolist() == [3, 1, -1, -1]
    assert isinstance(found.vectors, np.memmap)
    write_table(folder / "images.parquet", _images()[["name"]])
    assert read_descriptor_folder(folder).rows_of_photos(["a", "b"]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("spoil", "got"),
    [
        (lambda rows: rows * 2, "expected finite vectors of length 1, got 2 for 'a'"),
        (lambda rows: rows * [[1], [1], [1], [0]], "expected finite vectors of length 1, got 0 for 'c'"),
        (lambda rows: rows * [[1], [NAN], [1], [1]], "expected finite vectors of length 1, got nan for 'b'"),
        (
            lambda rows: rows * [[1], [1e300], [1], [1]],
            "expected finite vectors of length 1, got inf for 'b'",
        ),
        (lambda rows: rows[:3], "expected as many names as vectors, got 4 and 3"),
        (lambda rows: rows[0], "expected real vectors (n, d), got float32 of shape (2,)"),
        (lambda rows: rows[:, :0], "expected "),
        (lambda rows: rows.astype(int), "expected real vectors (n, d), got int64 of shape (4, 2)"),
        (lambda rows: rows.astype(complex), "expected real vectors (n, d), got complex128 of shape (4, 2)"),
        (lambda rows: rows.astype("V8"), "expected real vectors (n, d), got |V8 of shape (4, 2)"),
    ],
)
def test_vectors_are_finite_unit_rows_of_real_numbers(folder, spoil, got):
    np.save(folder / "vectors.npy", spoil(np.load(folder / "vectors.npy")))
    assert got in _told(folder)
    assert _told(folder).endswith(f"; {REMEDY}")


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_vectors_of_other_real_types_are_read(folder, dtype):
    np.save(folder / "vectors.npy", np.load(folder / "vectors.npy").astype(dtype))
    assert read_descriptor_folder(folder).vectors.dtype == dtype


class _Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_in_the_file_of_vectors_is_executed(folder, capsys):
    np.save(folder / "vectors.npy", np.array([_Payload()]), allow_pickle=True)
    assert _told(folder).startswith(f"{folder}/vectors.npy: expected an .npy file of numbers, got none (")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", ["archive", "nothing", "cut", "text", "picture"])
def test_a_file_that_is_no_array_is_named(folder, content):
    path = folder / "vectors.npy"
    if content == "archive":
        np.savez(folder / "v.npz", vectors=np.load(path))
        (folder / "v.npz").replace(path)
    else:
        whole = path.read_bytes()
        path.write_bytes(
            {"nothing": b"", "cut": whole[:-3], "text": b"1 2 3", "picture": b"\x89PNG"}[content]
        )
    assert _told(folder).startswith(f"{path}: expected an .npy file of numbers, got none (")


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (_images(name=["a", None, "b", "c"]), "expected a name in row 1, got "),
        (_images(name=[None] * 4), "expected a name in row 0, got None"),
        (_images(name=["a", "b", "", "c"]), "expected a name in row 2, got ''"),
        (_images(name=[1, 2, 3, 4]), "expected a name in row 0, got 1"),
        (_images().drop(columns="name"), "expected a column 'name', got none"),
        (_images().drop(columns="y2"), "expected a column of floats 'y2', got none"),
        (_images(x2=["7", "8", "9", "0"]), "expected a column of floats 'x2', got "),
        (_images(x2=[1.0, NAN, NAN, NAN]), "expected x1 < x2 and y1 < y2 in row 0, got 1,2,1,9"),
        (_images(x2=[NAN] * 4), "expected x1 < x2 and y1 < y2 in row 0, got 1,2,nan,9"),
        (_images(x2=[np.inf, NAN, NAN, NAN]), "expected x1 < x2 and y1 < y2 in row 0, got 1,2,inf,9"),
    ],
)
def test_a_table_of_other_things_is_told(folder, images, got):
    images.to_parquet(folder / "images.parquet", index=False)
    assert _told(folder).startswith(f"descriptors {folder}/images.parquet: {got}")


@pytest.mark.parametrize("content", [b"", b"name\na\n", b"PAR1 and no more PAR1"])
def test_a_table_that_is_none_is_told(folder, content):
    (folder / "images.parquet").write_bytes(content)
    assert _told(folder) == f"{folder}/images.parquet: expected a Parquet table, got other bytes; {REMEDY}"


def test_a_missing_file_is_told(folder):
    (folder / "images.parquet").unlink()
    with pytest.raises(FileNotFoundError) as error:
        read_descriptor_folder(folder)
    assert str(error.value) == (
        f"descriptors {folder}: expected the file images.parquet, got none; extract the photos first"
    )


@pytest.mark.parametrize("meta", ['{"version": 2}', "{}", "[]", "{", '{"version": true}'])
def test_another_version_is_told(folder, meta):
    (folder / "meta.json").write_text(meta)
    assert f"{folder}/meta.json: expected " in _told(folder)
    (folder / "meta.json").write_text(json.dumps({"version": 1, "more": "is not looked at"}))
    read_descriptor_folder(folder)


def test_with_a_record_files_that_changed_are_noticed_and_copies_are_not(folder, tmp_path):
    mark_done(folder, "extract", "key", outputs=[folder / "vectors.npy", folder / "images.parquet"])
    assert folder_key(folder) == "key"
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=lambda *_: ["copy"], copy_function=shutil.copyfile)
    read_descriptor_folder(copy)
    write_table(copy / "images.parquet", _images(name=["b", "a", "b", "c"]))
    for read in (read_descriptor_folder, folder_key):
        with pytest.raises(ValueError, match="copy") as error:
            read(copy)
        assert str(error.value) == (
            f"{copy}/images.parquet: expected the file that extract left, got it damaged, or changed since; "
            f"{REMEDY}"
        )
    (folder / "done" / "extract.json").write_text("{}")
    assert _told(folder) == (
        f"{folder}/done/extract.json: expected the file that extract left, got it damaged; {REMEDY}"
    )


def test_the_key_without_a_record_is_that_of_the_files(folder):
    before = folder_key(folder)
    write_table(folder / "images.parquet", _images(name=["b", "a", "b", "c"]))
    assert folder_key(folder) != before
    assert folder_key(folder / "none") is None
