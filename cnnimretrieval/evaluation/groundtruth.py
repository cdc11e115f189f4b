"""Ground truth of photos that somebody judged by hand: a JSON file of queries and what they must find."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError, field_validator

from cnnimretrieval.descriptors.images import Box
from cnnimretrieval.evaluation.metrics import Relevance
from sfm.settings import Settings

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

    @field_validator("positives")
    @classmethod
    def _some(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError("expected at least one name, got none; leave the query out")
        return names


def read_ground_truth(path: Path) -> tuple[JudgedQuery, ...]:
    """The queries in a JSON file of the form `FORMAT`; "box" and "junk" may be missing.

    FileNotFoundError when there is no such file, ValueError naming the first query that has another form.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
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

    ValueError when a name is not in the database.
    """
    row_of = {name: row for row, name in enumerate(names)}

    def rows(query: JudgedQuery, kind: str, judged: Sequence[str]) -> np.ndarray:
        for name in judged:
            if name not in row_of:
                raise ValueError(
                    f"ground truth of '{query.query}': expected {kind} among the photos, got '{name}'; "
                    "correct the name, or take it out"
                )
        return np.array(sorted({row_of[name] for name in judged}), np.int64)

    found = []
    for query in queries:
        known = query.query in row_of and query.query not in (*query.positives, *query.junk)
        junk = (*query.junk, query.query) if known else query.junk
        positives = rows(query, "positives", query.positives)
        found.append(Relevance(positives=positives, junk=rows(query, "junk", junk)))
    return found
