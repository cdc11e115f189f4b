"""INRIA Holidays: the names of its photos are the ground truth."""

import logging
import re
from pathlib import Path

from cnnimretrieval.evaluation.benchmark import Benchmark, Query, judgement

logger = logging.getLogger(__name__)

_NAME = re.compile(r"\d{6}\.jpg", re.ASCII)


def read_holidays(photos: Path, name: str, *, published_size: int | None = None) -> Benchmark:
    """The benchmark of the photos in a folder, called SSSSNN.jpg: photo NN of scene SSSS.

    Photo 00 of a scene is its query, the others are its positives, and the query itself is left out of the
    ranking. Jegou et al., ECCV 2008: 1,491 photos, 500 queries; average precision by trapezoids as for
    Oxford5k. Files of other names are left out, logged and counted. FileNotFoundError without photos,
    ValueError naming a scene without a query or without any other photo.
    """
    files = sorted(path.name for path in photos.iterdir()) if photos.is_dir() else []
    names = tuple(file for file in files if _NAME.fullmatch(file))
    if not names:
        raise FileNotFoundError(
            f"{name}: expected photos called like 100000.jpg in {photos}, got none; download them first"
        )
    others = [file for file in files if not _NAME.fullmatch(file)]
    if others:
        logger.warning(
            "%s: %d files of %s are not called like 100000.jpg and are left out, '%s' the first",
            name,
            len(others),
            photos,
            others[0],
        )
    scenes: dict[str, list[int]] = {}
    for row, photo in enumerate(names):
        scenes.setdefault(photo[:4], []).append(row)
    for scene, rows in scenes.items():
        if names[rows[0]] != f"{scene}00.jpg" or len(rows) < 2:
            raise ValueError(
                f"{name}: expected {scene}00.jpg and another photo of its scene in {photos}, got "
                f"{', '.join(names[row] for row in rows)}; download what is missing"
            )
    relevance = tuple(
        judgement(rows[1:], rows[:1], len(names), f"{name}: scene {scene}") for scene, rows in scenes.items()
    )
    return Benchmark(
        name=name,
        photos=photos,
        query_photos=photos,
        database=names,
        queries=tuple(Query(name=names[rows[0]]) for rows in scenes.values()),
        protocols={"": relevance},
        published_size=published_size,
        told={"files of other names": len(others)} if others else {},
    )
