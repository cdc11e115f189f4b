"""Ground truth of Oxford5k, Paris6k, ROxford5k and RParis6k as published: a pickle of plain containers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnimretrieval.descriptors.images import Box
from cnnimretrieval.evaluation.benchmark import Benchmark, Query, judgement
from pairs.unpickling import load_plain

_FORM = "{'imlist': [NAME, ...], 'qimlist': [NAME, ...], 'gnd': [{'bbx': [x1, y1, x2, y2], ...}, ...]}"
# What is positive and what is taken out; Philbin et al., CVPR 2007.
_CLASSIC = {"": (("ok",), ("junk",))}
# Radenovic et al., CVPR 2018: what a protocol does not ask for is taken out too.
_REVISITED = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


def read_published(
    path: Path, photos: Path, name: str, *, extension: str = ".jpg", published_size: int | None = None
) -> Benchmark:
    """The benchmark in a ground-truth file; its photos are `photos` / NAME + `extension`.

    A file whose judgements are "ok" and "junk" has one protocol, one with "easy", "hard" and "junk" has
    three: easy, medium (easy and hard) and hard. FileNotFoundError when there is no such file, ValueError
    naming the query for other content.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"ground truth: expected a file, got {path}, which is none; download {name} first"
        )
    content = load_plain(path)
    where = f"ground truth {path}"
    names, query_names = (_names(content, key, where) for key in ("imlist", "qimlist"))
    truths = content.get("gnd")
    if not isinstance(truths, list | tuple) or len(truths) != len(query_names) or not truths:
        got = len(truths) if isinstance(truths, list | tuple) else type(truths).__name__
        raise ValueError(
            f"{where}: expected one judgement for each of {len(query_names)} queries in 'gnd', got {got}; "
            "download it again"
        )
    places = [f"{where}: query {index} '{query}'" for index, query in enumerate(query_names)]
    judged = list(zip(truths, places, strict=True))
    queries = [
        Query(name=query + extension, box=_box(truth, place))
        for query, (truth, place) in zip(query_names, judged, strict=True)
    ]
    protocols = _CLASSIC if "ok" in truths[0] else _REVISITED
    relevance = {
        protocol: tuple(
            judgement(_rows(truth, positive, place), _rows(truth, junk, place), len(names), place)
            for truth, place in judged
        )
        for protocol, (positive, junk) in protocols.items()
    }
    return Benchmark(
        name=name,
        photos=photos,
        query_photos=photos,
        database=tuple(photo + extension for photo in names),
        queries=tuple(queries),
        protocols=relevance,
        published_size=published_size,
    )


def _names(content: Any, key: str, where: str) -> Sequence[str]:
    names = content.get(key) if isinstance(content, dict) else None
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}: expected {_FORM}, got no names in '{key}'; download it again")
    for name in names:
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(
                f"{where}: expected names of photos in '{key}', got '{name}'; do not use this file"
            )
    return names


def _box(truth: Any, where: str) -> Box | None:
    if not isinstance(truth, Mapping):
        raise ValueError(f"{where}: expected {_FORM}, got {_shown(truth)}; download it again")
    box = truth.get("bbx")
    if box is None:
        return None
    numbers = isinstance(box, list | tuple) and len(box) == 4 and all(_is_number(side) for side in box)
    if not numbers or not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(
            f"{where}: expected x1 < x2 and y1 < y2 in 'bbx', got {_shown(box)}; download it again"
        )
    x1, y1, x2, y2 = (float(side) for side in box)
    return x1, y1, x2, y2


def _rows(truth: Mapping[str, Any], kinds: Sequence[str], where: str) -> list[int]:
    rows: list[int] = []
    for kind in kinds:
        judged = truth.get(kind)
        if not isinstance(judged, list | tuple) or not all(type(row) is int for row in judged):
            raise ValueError(
                f"{where}: expected a list of numbers of photos in '{kind}', got {_shown(judged)}; "
                "download it again"
            )
        rows.extend(judged)
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{value!r:.60}"
