import pickle
import re

import numpy as np
import pytest

from cnnimretrieval.evaluation.benchmark import Query
from cnnimretrieval.evaluation.datasets import LAYOUTS, read_benchmark, read_test_set

CLASSIC = {
    "imlist": ["a", "b", "c", "d"],
    "qimlist": ["c", "x"],
    "gnd": [
        {"bbx": [1, 2.5, 30, 40], "ok": [2, 0], "junk": [3]},
        {"bbx": None, "ok": [], "junk": []},
    ],
}
REVISITED = {
    "imlist": ["a", "b", "c", "d"],
    "qimlist": ["x"],
    "gnd": [{"bbx": [1, 2, 3, 4], "easy": [3], "hard": [0], "junk": [1]}],
}


def put(data, name, content):
    layout = LAYOUTS[name]
    path = data / layout.folder / (layout.ground_truth or "")
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        path.write_bytes(pickle.dumps(content))
    return path


def judged(benchmark):
    return {
        protocol: [(truth.positives.tolist(), truth.junk.tolist()) for truth in relevance]
        for protocol, relevance in benchmark.protocols.items()
    }


@pytest.mark.parametrize("name", ["oxford5k", "paris6k"])
def test_classic(tmp_path, name):
    put(tmp_path, name, CLASSIC)
    found = read_benchmark(name, tmp_path)
    assert found.photos == found.query_photos == tmp_path / "test" / name / "jpg"
    assert found.database == ("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    assert found.queries == (Query(name="c.jpg", box=(1.0, 2.5, 30.0, 40.0)), Query(name="x.jpg"))
    # The query's own photo is a positive where the ground truth says so.
    assert judged(found) == {"": [([2, 0], [3]), ([], [])]}
    assert (found.depth, found.published_size) == (None, LAYOUTS[name].num_photos)


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_revisited(tmp_path, name):
    put(tmp_path, name, REVISITED)
    assert judged(read_benchmark(name, tmp_path)) == {
        "easy": [([3], [1, 0])],
        "medium": [([3, 0], [1])],
        "hard": [([0], [1, 3])],
    }


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"imlist": ["a", 3]}, "expected {'imlist'"),
        ({"imlist": ["a", "../b"]}, "expected names of photos in 'imlist', got '../b'; do not use this file"),
        ({"gnd": []}, "expected one judgement for each of 1 queries in 'gnd', got 0; correct it"),
        ({"gnd": None}, "expected one judgement for each of 1 queries in 'gnd', got NoneType; "),
        ({"gnd": [3]}, "query 0: expected {'imlist'"),
        ({"gnd": [{"junk": [1]}]}, "query 0: expected {'imlist'"),
        ({"qimlist": [], "gnd": []}, "expected {'imlist'"),
    ],
)
def test_pickles_of_another_form(tmp_path, change, text):
    path = put(tmp_path, "roxford5k", REVISITED | change)
    with pytest.raises(ValueError, match=rf"^ground truth {path}: {re.escape(text)}"):
        read_benchmark("roxford5k", tmp_path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"easy": [4]}, "expected photos 0 to 3 in 'easy', got 4; correct the ground truth"),
        ({"junk": [-1]}, "expected photos 0 to 3 in 'junk', got -1; correct the ground truth"),
        ({"hard": [0.5]}, "expected a list of numbers of photos in 'hard', got [0.5]; {again}"),
        ({"hard": 3}, "expected a list of numbers of photos in 'hard', got 3; {again}"),
        (
            {"bbx": [1, 2, 3, float("inf")]},
            "expected x1 < x2 and y1 < y2 in 'bbx', got [1, 2, 3, inf]; {again}",
        ),
        ({"bbx": [1, 2, 3]}, "expected x1 < x2 and y1 < y2 in 'bbx', got [1, 2, 3]; {again}"),
        ({"bbx": [1, 5, 3, 2]}, "expected x1 < x2 and y1 < y2 in 'bbx', got [1, 5, 3, 2]; {again}"),
    ],
)
def test_wrong_judgements_are_named_with_their_query(tmp_path, change, text):
    content = REVISITED | {"gnd": [REVISITED["gnd"][0] | change]}
    path = put(tmp_path, "roxford5k", content)
    with pytest.raises(ValueError, match=r"^ground truth") as caught:
        read_benchmark("roxford5k", tmp_path)
    text = text.replace("{again}", "correct it, or download it again")
    assert str(caught.value) == f"ground truth {path}: query 0 'x': {text}"


@pytest.mark.parametrize(
    ("change", "positives", "junk", "told"),
    [
        ({"easy": np.array([3], np.uint8), "hard": [0.0], "junk": (1,)}, [3, 0], [1], {}),
        ({"easy": [3, 0, 3]}, [3, 0], [1], {"judgements given before": 2}),
        ({"junk": [1, 3, 1]}, [3, 0], [1], {"judgements given before": 2}),
        ({"hard": None, "junk": None, "bbx": None}, [3], [], {}),
        ({"hard": np.array([]), "bbx": []}, [3], [1], {}),
    ],
)
def test_judgements_in_other_dress_or_given_twice(tmp_path, change, positives, junk, told):
    put(tmp_path, "roxford5k", REVISITED | {"gnd": [REVISITED["gnd"][0] | change]})
    found = read_benchmark("roxford5k", tmp_path)
    assert judged(found)["medium"] == [(positives, junk)]
    assert dict(found.told) == told
    assert found.queries[0].box == (None if "bbx" in change else (1.0, 2.0, 3.0, 4.0))


def test_kinds_that_a_file_does_not_know_are_empty(tmp_path):
    content = REVISITED | {"imlist": [b"a", b"b", b"c", b"d"], "gnd": [{"easy": [3]}]}
    put(tmp_path, "roxford5k", content)
    found = read_benchmark("roxford5k", tmp_path)
    assert judged(found) == {"easy": [([3], [])], "medium": [([3], [])], "hard": [([], [3])]}
    assert found.database[0] == "a.jpg"


def test_no_positives_at_all(tmp_path):
    content = REVISITED | {"gnd": [REVISITED["gnd"][0] | {"easy": [], "hard": [], "junk": [0, 1, 2, 3]}]}
    put(tmp_path, "roxford5k", content)
    with pytest.raises(ValueError, match=r"^roxford5k") as caught:
        read_benchmark("roxford5k", tmp_path)
    assert str(caught.value) == (
        "roxford5k: expected a query with positives, got none among 1; correct the ground truth"
    )


def test_a_protocol_without_positives_is_not_scored(tmp_path):
    put(tmp_path, "roxford5k", REVISITED | {"gnd": [REVISITED["gnd"][0] | {"easy": []}]})
    assert set(read_benchmark("roxford5k", tmp_path).scored_protocols()) == {"medium", "hard"}


def test_names_given_twice(tmp_path, caplog):
    path = put(tmp_path, "oxford5k", CLASSIC | {"imlist": ["a", "b", "a", "d", "c"]})
    found = read_benchmark("oxford5k", tmp_path)
    assert found.database == ("a.jpg", "b.jpg", "d.jpg", "c.jpg")
    # Rows 2 and 0 of the file are one photo; row 3 is the third.
    assert judged(found)[""][0] == ([0], [2])
    told = {
        "photos listed before": 1,
        "judgements given before": 1,
        "queries among the photos, not judged: wrong answers, as in the toolbox": 1,
    }
    assert dict(found.told) == told
    text = "; ".join(f"{count} {what}" for what, count in told.items())
    assert caplog.messages == [f"ground truth {path}: {text}"]


@pytest.mark.parametrize("stored", ["{}.jpg", "{}", "{}.JPG", "{}.png"])
def test_a_test_set_of_ones_own_finds_its_photos(tmp_path, stored):
    (tmp_path / "jpg").mkdir()
    for photo in "abcdx":
        (tmp_path / "jpg" / stored.format(photo)).touch()
    path = tmp_path / "gnd_mine.pkl"
    path.write_bytes(pickle.dumps(REVISITED))
    found = read_test_set(path, tmp_path)
    assert (found.name, found.published_size) == ("mine", None)
    found.require_photos()
    assert found.query_requests()[0].path == tmp_path / "jpg" / stored.format("x")
    (tmp_path / "jpg" / stored.format("b")).unlink()
    with pytest.raises(FileNotFoundError, match=r"^mine: expected 4 photos .*, got 3, without 'b\.jpg'"):
        read_test_set(path, tmp_path).require_photos()


def test_no_ground_truth(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        read_benchmark("rparis6k", tmp_path)
    path = tmp_path / "test/rparis6k/gnd_rparis6k.pkl"
    assert str(caught.value) == (
        f"ground truth: expected a file, got {path}, which is none; download rparis6k first"
    )


def test_missing_photos(tmp_path):
    put(tmp_path, "oxford5k", CLASSIC)
    found = read_benchmark("oxford5k", tmp_path)
    found.photos.mkdir()
    for name in ("a.jpg", "b.jpg", "d.jpg"):
        (found.photos / name).touch()
    with pytest.raises(FileNotFoundError) as caught:
        found.require_photos()
    assert str(caught.value) == (
        f"oxford5k: expected 4 photos below {found.photos}, got 3, without 'c.jpg'; download what is missing"
    )


def holidays(data, names, name="holidays"):
    folder = data / "test" / name / "jpg"
    folder.mkdir(parents=True)
    for photo in names:
        (folder / photo).touch()
    return folder


@pytest.mark.parametrize("name", ["holidays", "holidays-upright"])
def test_holidays_leave_the_query_out(tmp_path, name):
    holidays(tmp_path, ["100101.jpg", "100100.jpg", "100002.jpg", "100001.jpg", "100000.jpg"], name)
    found = read_benchmark(name, tmp_path)
    assert found.database == ("100000.jpg", "100001.jpg", "100002.jpg", "100100.jpg", "100101.jpg")
    assert found.queries == (Query(name="100000.jpg"), Query(name="100100.jpg"))
    assert judged(found) == {"": [([1, 2], [0]), ([4], [3])]}


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (
            ["100001.jpg", "100002.jpg"],
            "expected 100000.jpg and another photo of its scene in {}, got 100001.jpg, 100002.jpg; "
            "download what is missing",
        ),
        (
            ["100000.jpg"],
            "expected 100000.jpg and another photo of its scene in {}, got 100000.jpg; "
            "download what is missing",
        ),
    ],
)
def test_holidays_of_other_names(tmp_path, names, text):
    folder = holidays(tmp_path, names)
    with pytest.raises(ValueError, match=r"^holidays: ") as caught:
        read_benchmark("holidays", tmp_path)
    assert str(caught.value) == f"holidays: {text.format(folder)}"


def test_no_holidays(tmp_path):
    text = r"^holidays: expected photos called like 100000\.jpg in .*, got none; download"
    with pytest.raises(FileNotFoundError, match=text):
        read_benchmark("holidays", tmp_path)
    holidays(tmp_path, ["1000.jpg"])
    with pytest.raises(FileNotFoundError, match=text):
        read_benchmark("holidays", tmp_path)


def test_what_systems_leave_among_the_holidays(tmp_path, caplog):
    folder = holidays(tmp_path, ["100000.jpg", "100001.jpg", "Thumbs.db", "._100000.jpg", ".DS_Store"])
    found = read_benchmark("holidays", tmp_path)
    assert found.database == ("100000.jpg", "100001.jpg")
    assert dict(found.told) == {"files of other names": 3}
    assert caplog.messages == [
        f"holidays: 3 files of {folder} are not called like 100000.jpg and are left out, "
        "'.DS_Store' the first"
    ]


SOLUTION = """id,images,Usage
1a2b3c,ffee00 0123ab,Public
2b3c4d,None,Ignored
3c4d5e,ffee00,Private
4d5e6f,89ab01,Public
"""


def landmarks(data, solution=SOLUTION, index="id,landmark_id\n0123ab,7\n89ab01,7\nffee00,8\n"):
    path = put(data, "gldv2", solution)
    (path.parent / "index.csv").write_text(index)
    return path


def test_landmarks(tmp_path):
    landmarks(tmp_path)
    found = read_benchmark("gldv2", tmp_path)
    folder = tmp_path / "test" / "gldv2"
    assert (found.photos, found.query_photos) == (folder / "index", folder / "test")
    assert found.database == ("0/1/2/0123ab.jpg", "8/9/a/89ab01.jpg", "f/f/e/ffee00.jpg")
    assert [query.name for query in found.queries] == [
        "1/a/2/1a2b3c.jpg",
        "3/c/4/3c4d5e.jpg",
        "4/d/5/4d5e6f.jpg",
    ]
    assert judged(found) == {
        "public": [([2, 0], []), ([], []), ([1], [])],
        "private": [([], []), ([2], []), ([], [])],
    }
    assert found.depth == 100


@pytest.mark.parametrize(
    ("solution", "text"),
    [
        ("id,images\n", ": expected the columns id,images,Usage, got 'id,images'; download it again"),
        ("id,images,Usage\nabcd\n", " line 2: expected id,images,Usage, got 'abcd,None,None'; "),
        (
            "id,images,Usage\n../x,None,Public\n",
            " line 2: expected id,images,Usage, got '../x,None,Public'; ",
        ),
        (
            "id,images,Usage\nabcd,ffee00,Pubic\n",
            " line 2: expected Public, Private or Ignored, got 'Pubic'; download it again",
        ),
    ],
)
def test_wrong_solutions(tmp_path, solution, text):
    path = landmarks(tmp_path, solution)
    with pytest.raises(ValueError, match=rf"^ground truth {path}{re.escape(text)}"):
        read_benchmark("gldv2", tmp_path)


def test_landmarks_listed_twice_or_nowhere(tmp_path, caplog):
    solution = "\ufeffid,images,Usage\nabcd,ffee00 ffee01 ffee00,Public\n"
    path = landmarks(tmp_path, solution, "id\n0123ab\nffee00\n0123ab\n")
    found = read_benchmark("gldv2", tmp_path)
    assert len(found.database) == 2
    assert judged(found) == {"public": [([1], [])]}
    assert caplog.messages == [
        f"ground truth {path}: 1 photos listed before; 1 judgements given before; "
        "1 positives that are not in index.csv"
    ]


def test_no_tables(tmp_path):
    path = landmarks(tmp_path)
    (path.parent / "index.csv").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        read_benchmark("gldv2", tmp_path)
    assert str(caught.value) == (
        f"ground truth: expected a table, got {path.parent / 'index.csv'}, which does not exist; "
        "download it first"
    )
