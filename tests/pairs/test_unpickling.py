import os
import pickle
from collections import OrderedDict
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
        (OrderedDict(a=1), r"collections\.OrderedDict"),
        ({"x": np.arange(3)}, r"numpy\._core\.multiarray\._reconstruct"),
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


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("dtype", [np.uint16, np.int64, ">i4"])
def test_integer_arrays_become_lists_where_they_may_stand(tmp_path, protocol, dtype):
    content = {"cluster": np.array([1, 2, 300], dtype), "rows": [np.int64(2), 0], "names": ["a", "b"]}
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    plain = {"cluster": [1, 2, 300], "rows": [2, 0], "names": ["a", "b"]}
    assert load_plain(path, integer_arrays=True) == plain
    with pytest.raises(ValueError, match="numpy"):
        load_plain(path)


class _Harm:
    def __reduce__(self):
        return (print, ("harm",))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (_Harm(), "__builtin__.print"),
        (np.array([1.5, 2.5]), "an array of float64"),
        (np.array([_Harm()], dtype=object), "an array of object"),
        (Path("x"), "pathlib.PosixPath"),
    ],
)
def test_other_classes_are_named_and_not_run_among_arrays_either(tmp_path, capsys, content, named):
    path = tmp_path / "harm.pkl"
    path.write_bytes(pickle.dumps({"train": content}, protocol=2))
    with pytest.raises(ValueError, match="pickle") as error:
        load_plain(path, integer_arrays=True)
    assert named in str(error.value)
    assert capsys.readouterr().out == ""
