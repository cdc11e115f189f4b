"""Hashes of what a reconstruction found, to tell whether two runs came to the same result."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from groundwork.files import read_table
from sfm.matching import read_inliers


@dataclass(frozen=True)
class Fingerprint:
    """SHA-256 of each part of a result.

    Attributes:
        images: of images.parquet.
        matches: of all pairs with their kinds of geometry and inliers, in order of the images.
        models: of all files below models, with their names.

    """

    images: str
    matches: str
    models: str


def fingerprint(out: Path) -> Fingerprint:
    """The hashes of a finished reconstruction; times, records and logs have no part in them."""
    models = sorted(path for path in (out / "models").rglob("*") if path.is_file())
    named = ((path.relative_to(out).as_posix(), path) for path in models)
    return Fingerprint(
        images=_hash([(out / "images.parquet").read_bytes()]),
        matches=_hash(_matches(out / "matches")),
        models=_hash(part for name, path in named for part in (name.encode(), path.read_bytes())),
    )


def _matches(folder: Path) -> Iterable[bytes]:
    pairs = read_table(folder / "pairs.parquet")
    done = pairs[pairs["block"] >= 0]
    inliers = {(one, two): (kind, rows) for one, two, kind, rows in read_inliers(folder, done)}
    for (one, two), (kind, rows) in sorted(inliers.items(), key=lambda item: item[0]):
        yield np.array([one, two, kind, len(rows)], dtype=np.int64).tobytes()
        yield np.ascontiguousarray(rows, dtype=np.uint32).tobytes()


def _hash(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()
