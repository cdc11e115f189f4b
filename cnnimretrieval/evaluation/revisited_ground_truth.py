"""Ground truth as the reference toolbox keeps it, in a pickle of plain containers.

So are Oxford5k, Paris6k, ROxford5k and RParis6k published, and so do people write their own test sets.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnimretrieval.descriptors.images import Box
from cnnimretrieval.evaluation.benchmark import Benchmark, Query, judgement, tell_faults
from cnnimretrieval.evaluation.metrics import Relevance
from pairs.unpickling import load_plain, whole_numbers

_FORM = "{'imlist': [NAME, ...], 'qimlist': [NAME, ...], 'gnd': [{'bbx': [x1, y1, x2, y2], ...}, ...]}"
_REMEDY = "correct it, or download it again"
# What is positive and what is taken out; Philbin et al., CVPR 2007.
_Kinds = Mapping[str, tuple[Sequence[str], Sequence[str]]]
_CLASSIC: _Kinds = {"": (("ok",), ("junk",))}
# Radenovic et al., CVPR 2018: what a protocol does not ask for is taken out too.
_REVISITED: _Kinds = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


def with_jpg(name: str) -> str:
    """How the toolbox finds the photo of a name."""
    return f"{name}.jpg"


def read_published(
    path: Path,
    photos: Path,
    name: str,
    *,
    file_of: Callable[[str], str] = with_jpg,
    published_size: int | None = None,
) -> Benchmark:
    """The benchmark in a ground-truth file; its photos are `photos` / `file_of`(NAME).

    A file whose judgements are "ok" and "junk" has one protocol, one with "easy", "hard" and "junk" has
    three: easy, medium (easy and hard) and hard. A list that is missing is empty. What such files are known
    to have wrong is put right, logged and counted: a photo or a judgement that stands there twice counts
    once, and what is both positive and junk is positive, as in the toolbox. FileNotFoundError when there is
    no such file, ValueError naming the query for other content.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"ground truth: expected a file, got {path}, which is none; download {name} first"
        )
    content = load_plain(path)
    where = f"ground truth {path}"
    listed, query_names = (_names(content, key, where) for key in ("imlist", "qimlist"))
    truths = _truths(content, len(query_names), where)
    row_of = {photo: row for row, photo in enumerate(dict.fromkeys(listed))}
    told = Counter({"photos listed before": len(listed) - len(row_of)})
    places = [f"{where}: query {index} '{query}'" for index, query in enumerate(query_names)]
    judged = list(zip(truths, places, strict=True))
    queries = [
        Query(name=file_of(query), box=_box(truth, place))
        for query, (truth, place) in zip(query_names, judged, strict=True)
    ]
    rows = [_rows(truth, [row_of[photo] for photo in listed], place, told) for truth, place in judged]
    protocols = _CLASSIC if any("ok" in truth for truth in truths) else _REVISITED
    relevance = {
        protocol: tuple(
            _relevance(kinds, positive, junk, len(row_of), place)
            for kinds, place in zip(rows, places, strict=True)
        )
        for protocol, (positive, junk) in protocols.items()
    }
    told["queries among the photos, not judged: wrong answers, as in the toolbox"] = sum(
        row_of.get(query, -1) not in {-1, *(row for kind in judged.values() for row in kind)}
        for query, judged in zip(query_names, rows, strict=True)
    )
    return Benchmark(
        name=name,
        photos=photos,
        query_photos=photos,
        database=tuple(file_of(photo) for photo in row_of),
        queries=tuple(queries),
        protocols=relevance,
        published_size=published_size,
        as_stored=True,
        told=tell_faults(where, told),
    )


def _names(content: Any, key: str, where: str) -> Sequence[str]:
    listed = content.get(key) if isinstance(content, dict) else None
    names = [name.decode("latin1") if isinstance(name, bytes) else name for name in _list(listed)]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}: expected {_FORM}, got no names in '{key}'; {_REMEDY}")
    for name in names:
        if not name or Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise ValueError(
                f"{where}: expected names of photos in '{key}', got {name!r}; do not use this file"
            )
    return names


def _truths(content: Any, num_queries: int, where: str) -> Sequence[Mapping[str, Any]]:
    truths = content.get("gnd")
    if not isinstance(truths, list | tuple) or len(truths) != num_queries:
        got = len(truths) if isinstance(truths, list | tuple) else type(truths).__name__
        raise ValueError(
            f"{where}: expected one judgement for each of {num_queries} queries in 'gnd', got {got};"
            f" {_REMEDY}"
        )
    for index, truth in enumerate(truths):
        if not isinstance(truth, Mapping) or not {"ok", "easy", "hard"} & truth.keys():
            raise ValueError(
                f"{where}: query {index}: expected {_FORM} with 'ok' or 'easy' and 'hard', got "
                f"{_shown(truth)}; {_REMEDY}"
            )
    return truths


def _box(truth: Mapping[str, Any], where: str) -> Box | None:
    box = truth.get("bbx")
    if box is None or box == []:
        return None
    numbers = isinstance(box, list | tuple) and len(box) == 4 and all(_is_number(side) for side in box)
    if not numbers or not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"{where}: expected x1 < x2 and y1 < y2 in 'bbx', got {_shown(box)}; {_REMEDY}")
    x1, y1, x2, y2 = (float(side) for side in box)
    return x1, y1, x2, y2


def _rows(
    truth: Mapping[str, Any], row_of_listed: Sequence[int], where: str, told: Counter[str]
) -> dict[str, list[int]]:
    """What is judged, by kind, as rows of the photos listed once."""
    found: dict[str, list[int]] = {}
    for kind in ("ok", "easy", "hard", "junk"):
        judged = truth.get(kind)
        try:
            listed = [] if judged is None else whole_numbers(judged)
        except (TypeError, ValueError):
            raise ValueError(
                f"{where}: expected a list of numbers of photos in '{kind}', got {_shown(judged)}; {_REMEDY}"
            ) from None
        for row in listed:
            if not 0 <= row < len(row_of_listed):
                raise ValueError(
                    f"{where}: expected photos 0 to {len(row_of_listed) - 1} in '{kind}', got {row}; "
                    "correct the ground truth"
                )
        found[kind] = list(dict.fromkeys(row_of_listed[row] for row in listed))
        told["judgements given before"] += len(listed) - len(found[kind])
    positive = {*found["ok"], *found["easy"], *found["hard"]}
    told["judgements given before"] += len(positive & {*found["junk"]})
    told["judgements given before"] += len({*found["easy"]} & {*found["hard"]})
    return found


def _relevance(
    rows: Mapping[str, Sequence[int]],
    positive: Sequence[str],
    junk: Sequence[str],
    num_photos: int,
    where: str,
) -> Relevance:
    positives = dict.fromkeys(row for kind in positive for row in rows[kind])
    ignored = dict.fromkeys(row for kind in junk for row in rows[kind] if row not in positives)
    return judgement([*positives], [*ignored], num_photos, where)


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{value!r:.60}"
