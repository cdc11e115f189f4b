import os
import pickle
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest

from pairs.unpickling import load_plain


class Command:
    def __reduce__(self):
        return os.system, ("echo ran > ran.txt",)


def pickled(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_containers_come_back(tmp_path, protocol):
    value = {"cids": ["ä", "b"], "qidxs": [0, 70_000, -(2**40)], "box": (1.5, None, True), 3: [[], {}]}
    assert load_plain(pickled(tmp_path / "p.pkl", value, protocol)) == value


def test_text_of_python_2_is_latin_1(tmp_path):
    (tmp_path / "p.pkl").write_bytes(b"\x80\x02]U\x02a\xe9a.")
    assert load_plain(tmp_path / "p.pkl") == ["aé"]


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ([Command()], r"(posix|nt)\.system"),
        (Counter(a=1), r"collections\.Counter"),
        ({"x": np.arange(3, dtype="m8[s]")}, r"an array of timedelta64"),
        (np.zeros(2, [("a", "i4")]), r"an array of \|V4"),
        ([{1, 2}.__class__], r"builtins\.set"),
    ],
)
def test_what_names_code_is_refused_and_not_run(tmp_path, monkeypatch, value, named):
    monkeypatch.chdir(tmp_path)
    path = pickled(tmp_path / "p.pkl", value)
    text = (
        rf"^pickle {path}: expected lists, dicts, text and numbers only, got {named}, which would run code; "
    )
    with pytest.raises(ValueError, match=text + "do not use this file$"):
        load_plain(path)
    assert not (tmp_path / "ran.txt").exists()


def test_what_is_no_whole_pickle(tmp_path):
    path = tmp_path / "p.pkl"
    path.write_bytes(pickle.dumps(["abc"] * 9)[:-4])
    with pytest.raises(ValueError, match=rf"^pickle {path}: expected a whole pickle file, got "):
        load_plain(path)
    path.write_bytes(b"\x80\x04s.")
    with pytest.raises(ValueError, match=rf"^pickle {path}: expected a whole pickle file, got .*; download"):
        load_plain(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_plain(tmp_path / "p.pkl")
    assert str(caught.value) == (
        f"pickle: expected a file, got {tmp_path / 'p.pkl'}, which is none; check the path"
    )


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", [np.uint16, np.int64, ">i4", np.float32])
def test_arrays_become_lists_and_their_numbers_plain(tmp_path, protocol, dtype):
    content = {"cluster": np.array([1, 2, 300], dtype), "rows": [np.int64(2), 0, np.True_, np.float32(0.5)]}
    found = load_plain(pickled(tmp_path / "p.pkl", content, protocol))
    assert found == {"cluster": [1, 2, 300], "rows": [2, 0, True, 0.5]}
    kinds = {type(value) for value in found["rows"]}
    assert kinds == {int, bool, float}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_any_shape_order_and_plain_kind(tmp_path, protocol):
    content = OrderedDict(
        columns=np.array([[1, 2, 3], [4, 5, 6]], order="F"),
        point=np.array(7),
        none=np.array([], np.int64),
        text=np.array(["ä", "bc"]),
        octets=np.array([b"a", b"bc"]),
        objects=np.array(["a", 3, None, np.arange(2)], object),
        name=np.str_("x"),
        truth=np.array([True, False]),
    )
    assert load_plain(pickled(tmp_path / "p.pkl", content, protocol)) == {
        "columns": [[1, 2, 3], [4, 5, 6]],
        "point": 7,
        "none": [],
        "text": ["ä", "bc"],
        "octets": [b"a", b"bc"],
        "objects": ["a", 3, None, [0, 1]],
        "name": "x",
        "truth": [True, False],
    }


def test_an_array_that_python_2_wrote(tmp_path):
    # numpy.array([258, -1], "i2") as cPickle of Python 2 writes it: bytes are text there.
    path = tmp_path / "p.pkl"
    path.write_bytes(
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02i2K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x04\x02\x01\xff\xfftb."
    )
    assert load_plain(path) == [258, -1]


class _Harm:
    def __reduce__(self):
        return (print, ("harm",))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (_Harm(), "__builtin__.print"),
        (np.array([_Harm()], dtype=object), "__builtin__.print"),
        (np.array([1j]), "an array of complex128"),
        (Path("x"), "pathlib.PosixPath"),
    ],
)
def test_other_classes_are_named_and_not_run_among_arrays_either(tmp_path, capsys, content, named):
    path = tmp_path / "harm.pkl"
    path.write_bytes(pickle.dumps({"train": content}, protocol=2))
    with pytest.raises(ValueError, match="pickle") as error:
        load_plain(path)
    assert named in str(error.value)
    assert capsys.readouterr().out == ""
