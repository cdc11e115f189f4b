"""Stage: published pairs -> the folder that mining writes, so that training takes them as its own.

Every cluster counts as a place of its own, for the file says no more. Photos of the side "val" are held out;
each of its queries, as a whole photo, must find its positives.
"""

import hashlib
import time
from collections import Counter, defaultdict
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from groundwork.files import write_json
from groundwork.keys import key_of
from groundwork.orientation import upright_size
from groundwork.photos import UnusablePhoto, stored_shape
from groundwork.records import load_done, mark_done
from pairs.heldout import HeldoutQuery, write_heldout
from pairs.image_pairs import Positives
from pairs.pair_table import PairTable, read_pair_table, write_pair_table
from pairs.retrieval_sfm_files import PublishedPairs, read_training_pairs

_STAGE = "mine"
_OUTPUTS = ("images.parquet", "positives.parquet", "heldout.parquet", "photos.json", "stats.json")


def adopt(pickle: Path, photos: Path, out: Path, *, drop_repeats: bool = False) -> PairTable:
    """Write the pairs of `pickle`, whose photos lie below `photos`, to `out`; or read what is there already.

    A pair that the file holds several times is drawn as many times as often as the query's other ones, as in
    the PyTorch reference, unless repeats are dropped, as in the MatConvNet one.
    FileNotFoundError for a missing file or photo, ValueError when the file is no file of pairs or an image is
    on both of its sides, OSError for a photo that cannot be read.
    """
    started = time.monotonic()
    digest = hashlib.sha256(pickle.read_bytes()).hexdigest() if pickle.is_file() else ""
    key = key_of("adopt", digest, str(photos.resolve()), drop_repeats, version("cnnimretrieval"))
    if load_done(out, _STAGE, key) is not None:
        return read_pair_table(out)
    train, val = read_training_pairs(pickle)
    table = _table(train, val, photos)
    if drop_repeats:
        once = replace(table.positives, weight=np.ones(len(table.positives)))
        table = replace(table, positives=once)
    write_pair_table(table, out)
    write_heldout(_heldout(table), out / "heldout.parquet")
    write_json(out / "photos.json", {"version": 1, "photos": str(photos.resolve())})
    seconds = time.monotonic() - started
    stats = _stats(table, seconds)
    write_json(out / "stats.json", stats)
    mark_done(out, _STAGE, key, seconds=seconds, facts=stats, outputs=[out / name for name in _OUTPUTS])
    return table


def _table(train: PublishedPairs, val: PublishedPairs, photos: Path) -> PairTable:
    twice = sorted(name for name, count in Counter((*train.cids, *val.cids)).items() if count > 1)
    if twice:
        raise ValueError(
            f"published pairs: expected every image once, in train or in val, got '{twice[0]}' twice; "
            "download the file again"
        )
    names = np.array((*train.names, *val.names))
    order = np.argsort(names)
    place_of = np.empty_like(order)
    place_of[order] = np.arange(len(order))
    # Clusters are numbered anew: the two sides may use the same numbers.
    sides = np.repeat([0, 1], [len(train.cids), len(val.cids)])
    labels = np.stack([sides, np.concatenate([train.cluster, val.cluster])], axis=1)
    cluster = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)[order]
    query = place_of[np.concatenate([train.query, val.query + len(train.cids)])]
    positive = place_of[np.concatenate([train.positive, val.positive + len(train.cids)])]
    shapes = [_shape(photos / name) for name in names[order]]
    return PairTable(
        names=tuple(names[order].tolist()),
        cluster=cluster,
        place=cluster,
        is_val=sides[order] == 1,
        sizes=np.array([shape[:2] for shape in shapes]),
        orientation=np.array([shape[2] for shape in shapes]),
        positives=_positives(query, positive),
    )


def _positives(query: Int[np.ndarray, " r"], positive: Int[np.ndarray, " r"]) -> Positives:
    """Each pair once, its weight the number of times it was given; its geometry is not known."""
    pairs, times = np.unique(np.stack([query, positive], axis=1), axis=0, return_counts=True)
    count = len(pairs)
    return Positives(
        query=pairs[:, 0],
        positive=pairs[:, 1],
        shared_points=np.zeros(count, dtype=np.int64),
        overlap=np.zeros(count),
        scale_change=np.full(count, np.inf),
        angle_deg=np.full(count, np.inf),
        strategy=np.full(count, "published"),
        weight=times.astype(np.float64),
    )


def _shape(path: Path) -> tuple[int, int, int]:
    """Stored width and height in px, and the EXIF orientation; only the head of the file is read."""
    if not path.exists():
        raise FileNotFoundError(
            f"published pairs: expected the photo {path}, got none; download the photos again"
        )
    try:
        return stored_shape(path)
    except UnusablePhoto as finding:
        raise OSError(
            f"{path}: expected a photo, got '{finding}'; remove it and download it again"
        ) from finding


def _heldout(table: PairTable) -> list[HeldoutQuery]:
    """Every query of the held-out side as a whole photo; what shares its cluster unproven is junk."""
    positives = table.positives_of("val")
    found: dict[int, list[int]] = defaultdict(list)
    for query, positive in zip(positives.query.tolist(), positives.positive.tolist(), strict=True):
        found[query].append(positive)
    members: dict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(table.is_val).tolist():
        members[int(table.cluster[row])].append(row)
    return [_query(table, row, rows, members[int(table.cluster[row])]) for row, rows in sorted(found.items())]


def _query(table: PairTable, row: int, positives: list[int], members: list[int]) -> HeldoutQuery:
    width, height = table.sizes[row]
    size = upright_size(int(width), int(height), int(table.orientation[row]))
    proven = set(positives)
    return HeldoutQuery(
        query=table.names[row],
        kind="whole",
        box=(0, 0, *size),
        rotation_deg=0.0,
        seed=0,
        positives=tuple(table.names[other] for other in sorted(proven)),
        junk=tuple(table.names[other] for other in members if other not in proven),
        place=int(table.place[row]),
    )


def _stats(table: PairTable, seconds: float) -> dict[str, Any]:
    return {
        "images": table.num_images,
        "queries": len(np.unique(table.positives.query)),
        "positives": len(table.positives),
        "clusters": len(np.unique(table.cluster)),
        "places": len(np.unique(table.place)),
        "seconds": round(seconds, 3),
    }
