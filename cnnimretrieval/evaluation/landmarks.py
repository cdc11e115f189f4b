"""Google Landmarks v2 retrieval: its solution table is the ground truth."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from cnnimretrieval.evaluation.benchmark import Benchmark, Query, judgement, tell_faults
from cnnimretrieval.evaluation.metrics import Relevance

_DEPTH = 100
_USAGES = ("Public", "Private")


def read_landmarks(
    solution: Path,
    index: Path,
    photos: Path,
    query_photos: Path,
    name: str,
    *,
    published_size: int | None = None,
) -> Benchmark:
    """The benchmark of a solution table `id,images,Usage` and an index table whose first column is `id`.

    Photo abcdef... lies at a/b/c/abcdef....jpg, index photos below `photos` and queries below `query_photos`.
    The two protocols are the parts of the queries, "public" and "private"; ignored queries are left out, and
    a part without queries too. Photos that are listed twice, or are none of the index, are left out, logged
    and counted. Scores are mAP@100: Weyand et al., CVPR 2020. FileNotFoundError without the tables,
    ValueError naming the line for other content.
    """
    listed = [row["id"] for _, row in _table(index, ("id",))]
    ids = list(dict.fromkeys(listed))
    told = Counter({"photos listed before": len(listed) - len(ids)})
    row_of = {photo: row for row, photo in enumerate(ids)}
    queries: list[Query] = []
    usages: list[str] = []
    relevance: list[Relevance] = []
    for line, row in _table(solution, ("id", "images", "Usage")):
        where = f"ground truth {solution} line {line}"
        if row["Usage"] not in (*_USAGES, "Ignored"):
            raise ValueError(
                f"{where}: expected Public, Private or Ignored, got '{row['Usage']}'; download it again"
            )
        if row["Usage"] == "Ignored":
            continue
        named = [] if row["images"] == "None" else row["images"].split()
        positives = [row_of[photo] for photo in dict.fromkeys(named) if photo in row_of]
        told["judgements given before"] += len(named) - len({*named})
        told[f"positives that are not in {index.name}"] += len({*named}) - len(positives)
        queries.append(Query(name=_path(row["id"])))
        usages.append(row["Usage"])
        relevance.append(judgement(positives, [], len(ids), where))
    return Benchmark(
        name=name,
        photos=photos,
        query_photos=query_photos,
        database=tuple(_path(photo) for photo in ids),
        queries=tuple(queries),
        protocols=_by_usage(usages, relevance),
        depth=_DEPTH,
        published_size=published_size,
        told=tell_faults(f"ground truth {solution}", told),
    )


def _by_usage(usages: Sequence[str], relevance: Sequence[Relevance]) -> dict[str, tuple[Relevance, ...]]:
    """One protocol a part; the queries of the other part have no positives in it and so leave the mean."""
    none = judgement([], [], 0, "")
    return {
        part.lower(): tuple(
            truth if usage == part else none for usage, truth in zip(usages, relevance, strict=True)
        )
        for part in _USAGES
        if part in usages
    }


def _path(photo: str) -> str:
    return f"{photo[0]}/{photo[1]}/{photo[2]}/{photo}.jpg"


def _table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        file = path.open(encoding="utf-8-sig", newline="")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"ground truth: expected a table, got {path}, which does not exist; download it first"
        ) from error
    with file:
        reader = csv.DictReader(file)
        if not set(columns) <= set(reader.fieldnames or ()):
            raise ValueError(
                f"ground truth {path}: expected the columns {','.join(columns)}, got "
                f"'{','.join(reader.fieldnames or ())}'; download it again"
            )
        for row in reader:
            if (
                any(row[column] is None for column in columns)
                or not row["id"].isalnum()
                or len(row["id"]) < 3
            ):
                raise ValueError(
                    f"ground truth {path} line {reader.line_num}: expected {','.join(columns)}, got "
                    f"'{','.join(str(cell) for cell in row.values())}'; download it again"
                )
            yield reader.line_num, row
