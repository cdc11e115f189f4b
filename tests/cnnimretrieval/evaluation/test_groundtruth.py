import json

import pytest

from cnnimretrieval.evaluation.benchmark import Query
from cnnimretrieval.evaluation.groundtruth import (
    FORMAT,
    JudgedQuery,
    judged_benchmark,
    read_ground_truth,
    relevance_of,
)

FORM = f"expected {FORMAT}, got"


def written(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_as_written(tmp_path):
    path = written(
        tmp_path / "gt.json",
        [
            {"query": "a.jpg", "positives": ["b c.jpg", "é.jpg"]},
            {"query": "d.jpg", "box": [1, 2.5, 30, 40], "positives": ["a.jpg"], "junk": ["b c.jpg"]},
        ],
    )
    assert read_ground_truth(path) == (
        JudgedQuery(query="a.jpg", positives=("b c.jpg", "é.jpg")),
        JudgedQuery(query="d.jpg", positives=("a.jpg",), junk=("b c.jpg",), box=(1.0, 2.5, 30.0, 40.0)),
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_content(tmp_path, encoding):
    path = tmp_path / "gt.json"
    path.write_bytes(json.dumps([{"query": "é", "positives": ["b"]}], ensure_ascii=False).encode(encoding))
    assert read_ground_truth(path) == (JudgedQuery(query="é", positives=("b",)),)


def test_own_photo_is_junk_unless_it_is_a_positive():
    queries = [
        JudgedQuery(query="c", positives=("d", "a"), junk=("b",)),
        JudgedQuery(query="c", positives=("c", "a")),
        JudgedQuery(query="c", positives=("a",), junk=("c",)),
        JudgedQuery(query="elsewhere", positives=("b",)),
    ]
    found = relevance_of(queries, ["a", "b", "c", "d"])
    assert [truth.positives.tolist() for truth in found] == [[3, 0], [2, 0], [0], [1]]
    assert [truth.junk.tolist() for truth in found] == [[1, 2], [], [2], []]


def test_name_that_is_not_there():
    with pytest.raises(ValueError, match="ground truth of 'a'") as caught:
        relevance_of([JudgedQuery(query="a", positives=("a",), junk=("z",))], ["a", "b"])
    assert str(caught.value) == (
        "ground truth of 'a': expected junk among the photos, got 'z'; correct the name, or take it out"
    )


@pytest.mark.parametrize(
    ("positives", "junk"), [(("b", "c", "b"), ()), (("c", "b"), ("b",)), (("c",), ("b", "b"))]
)
def test_name_that_is_judged_twice(positives, junk):
    with pytest.raises(ValueError, match="ground truth of 'a'") as caught:
        relevance_of([JudgedQuery(query="a", positives=positives, junk=junk)], ["a", "b", "c"])
    assert str(caught.value) == (
        "ground truth of 'a': expected every photo once, got 'b' twice; take one out"
    )


def test_a_benchmark_searches_all_photos(tmp_path):
    path = written(tmp_path / "gt.json", [{"query": "a", "positives": ["c"], "box": [1, 2, 3, 4]}])
    found = judged_benchmark(path, tmp_path, ["a", "b", "c"])
    assert (found.name, found.photos, found.query_photos) == ("gt", tmp_path, tmp_path)
    assert found.database == ("a", "b", "c")
    assert found.queries == (Query(name="a", box=(1.0, 2.0, 3.0, 4.0)),)
    ((truth,),) = found.protocols.values()
    assert (truth.positives.tolist(), truth.junk.tolist()) == ([2], [0])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            "[{",
            "expected JSON, got Expecting property name enclosed in double quotes: line 1 column 3 (char 2)",
        ),
        ([], "expected at least one query, got none; add one"),
        ([{"query": "a"}], f"{FORM} at [0 positives]: Field required; correct it"),
        ({"query": "a"}, f"{FORM} at []: Input should be a valid tuple; correct it"),
        (
            [{"query": "a", "positives": []}],
            f"{FORM} at [0 positives]: Value error, expected at least one name, got none; "
            "leave the query out",
        ),
        (
            [{"query": "a", "positives": ["b"], "box": [3, 2, 1, 4]}],
            f"{FORM} at [0 box]: Value error, expected x1 < x2 and y1 < y2, got [3.0, 2.0, 1.0, 4.0]; "
            "correct it",
        ),
        (
            [{"query": "../a", "positives": ["b"]}],
            f"{FORM} at [0 query]: Value error, expected a path below the photos, got '../a'; correct it",
        ),
        (
            [{"query": "a", "positives": ["b"], "boks": [1, 2, 3, 4]}],
            f"{FORM} at [0 boks]: Extra inputs are not permitted; correct it",
        ),
    ],
)
def test_other_forms(tmp_path, value, text):
    path = written(tmp_path / "gt.json", value)
    with pytest.raises(ValueError, match="ground truth") as caught:
        read_ground_truth(path)
    assert str(caught.value).startswith(f"ground truth {path}: {text}")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        read_ground_truth(tmp_path / "gt.json")
    assert str(caught.value) == (
        f"ground truth: expected a file, got {tmp_path / 'gt.json'}, which is none; check the path"
    )
