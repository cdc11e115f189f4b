"""Ground truth of photos that somebody judged by hand: a JSON file of queries and what they must find."""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pydantic import TypeAdapter, ValidationError, field_validator

from cnnimretrieval.descriptors.images import Box
from cnnimretrieval.evaluation.benchmark import Benchmark, Query, judgement
from cnnimretrieval.evaluation.metrics import Relevance
from groundwork.settings import Settings

FORMAT = '[{"query": NAME, "box": [x1, y1, x2, y2], "positives": [NAME, ...], "junk": [NAME, ...]}, ...]'


class JudgedQuery(Settings):
    """One query; names are paths below the folder of photos, `box` is in px of the upright photo.

    Photos in `junk` are taken out of the ranking before it is scored, and so is the query's own photo unless
    it is named as a positive.
    """

    query: str
    positives: tuple[str, ...]
    junk: tuple[str, ...] = ()
    box: Box | None = None

    @field_validator("query")
    @classmethod
    def _below_the_photos(cls, name: str) -> str:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"expected a path below the photos, got {name!r}")
        return name

    @field_validator("positives")
    @classmethod
    def _some(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError("expected at least one name, got none; leave the query out")
        return names

    @field_validator("box")
    @classmethod
    def _upper_left_first(cls, box: Box | None) -> Box | None:
        if box is not None and not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError(f"expected x1 < x2 and y1 < y2, got {list(box)}")
        return box


def judged_benchmark(path: Path, photos: Path, names: Sequence[str]) -> Benchmark:
    """The benchmark of a ground-truth file whose queries and photos lie below `photos`.

    All of `names`, files below `photos`, are searched. FileNotFoundError when there is no such file,
    ValueError when it has another form, judges a photo twice or one that is not among `names`.
    """
    queries = read_ground_truth(path)
    return Benchmark(
        name=path.stem,
        photos=photos,
        query_photos=photos,
        database=tuple(names),
        queries=tuple(Query(name=query.query, box=query.box) for query in queries),
        protocols={"": tuple(relevance_of(queries, names))},
    )


def read_ground_truth(path: Path) -> tuple[JudgedQuery, ...]:
    """The queries in a JSON file of the form `FORMAT`; "box" and "junk" may be missing.

    FileNotFoundError when there is no such file, ValueError naming the first query that has another form.
    """
    try:
        # Of bytes: a byte order mark tells its encoding.
        values = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"ground truth: expected a file, got {path}, which is none; check the path"
        ) from error
    except ValueError as error:
        raise ValueError(f"ground truth {path}: expected JSON, got {error}; correct it") from error
    try:
        queries = TypeAdapter(tuple[JudgedQuery, ...]).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"])
        raise ValueError(
            f"ground truth {path}: expected {FORMAT}, got at [{where}]: {first['msg']}; correct it"
        ) from error
    if not queries:
        raise ValueError(f"ground truth {path}: expected at least one query, got none; add one")
    return queries


def relevance_of(queries: Sequence[JudgedQuery], names: Sequence[str]) -> list[Relevance]:
    """The judgements of each query as rows of `names`, the database.

    ValueError when a name is not in the database or is judged twice for one query.
    """
    row_of = {name: row for row, name in enumerate(names)}

    def rows(query: JudgedQuery, kind: str, judged: Sequence[str], earlier: set[str]) -> list[int]:
        where = f"ground truth of '{query.query}'"
        for name in judged:
            if name not in row_of:
                raise ValueError(
                    f"{where}: expected {kind} among the photos, got '{name}'; "
                    "correct the name, or take it out"
                )
            if name in earlier:
                raise ValueError(f"{where}: expected every photo once, got '{name}' twice; take one out")
            earlier.add(name)
        return [row_of[name] for name in judged]

    found = []
    for query in queries:
        known = query.query in row_of and query.query not in (*query.positives, *query.junk)
        seen: set[str] = set()
        positives = rows(query, "positives", query.positives, seen)
        junk = rows(query, "junk", query.junk, seen)
        own = [row_of[query.query]] if known else []
        found.append(judgement(positives, [*junk, *own], len(names), f"ground truth of '{query.query}'"))
    return found
