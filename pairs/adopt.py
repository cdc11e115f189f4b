"""Stage: published pairs -> the folder that mining writes, so that training takes them as its own.

Every cluster counts as a place of its own, for the file says no more. Photos of the side "val" are held out;
each of its queries, as a whole photo, must find its positives.
"""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from groundwork.digest import sha256_of
from groundwork.files import write_json
from groundwork.keys import key_of
from groundwork.orientation import upright_size
from groundwork.photo_source import SOURCE, PhotoSource, write_source
from groundwork.photos import UnusablePhoto, stored_shape
from groundwork.progress import progress
from groundwork.records import load_done, mark_done
from pairs.heldout import HeldoutQuery, write_heldout
from pairs.image_pairs import Positives
from pairs.pair_table import PairTable, read_pair_table, write_pair_table
from pairs.published_pairs import PublishedPairs
from pairs.retrieval_sfm_files import read_training_pairs, tell

logger = logging.getLogger(__name__)

_STAGE = "mine"
_OUTPUTS = ("images.parquet", "positives.parquet", "heldout.parquet", SOURCE, "stats.json")
_VERSION = 3

# Stored width and height in px, and the EXIF orientation.
Shape = tuple[int, int, int]


def adopt(pickle: Path, photos: Path, out: Path, *, drop_repeats: bool = False) -> PairTable:
    """Write the pairs of `pickle`, whose photos lie below `photos`, to `out`; or read what is there already.

    A pair that the file holds several times is drawn as many times as often as the query's other ones, as in
    the PyTorch reference, unless repeats are dropped, as in the MatConvNet one. What is left out, photos that
    are missing or cannot be read among it, is logged and counted in stats.json by reason. Without any pair
    of the side "val" nothing is held out: the queries of "train" are the test.

    FileNotFoundError for a missing file or when no photo is there, ValueError when the file is no file of
    pairs or leaves none to train on.
    """
    started = time.monotonic()
    train, val = read_training_pairs(pickle)
    stamps = {name: _stamp(photos / name) for name in (*train.names, *val.names)}
    place = str(photos.resolve())
    key = key_of("adopt", _VERSION, sha256_of(pickle), place, stamps, drop_repeats, version("cnnimretrieval"))
    if load_done(out, _STAGE, key) is not None:
        return read_pair_table(out)
    if stamps and not any(stamps.values()):
        raise FileNotFoundError(
            f"published pairs: expected photos like {photos / next(iter(stamps))}, got none of "
            f"{len(stamps)}; give the folder ims of the download"
        )
    train, val, shapes = _with_photos(train, val, photos)
    if not len(val.query):
        logger.warning("pairs %s: no pair is held out; scores will be of what is trained on", pickle)
        val = val.only(np.zeros(len(val.cids), np.bool_), "of val, which has no pair")
    told = dict(Counter(train.told) + Counter(val.told))
    tell(pickle, told)
    if not len(train.query):
        why = "; ".join(f"{count} x {reason}" for reason, count in told.items()) or "as in the file"
        raise ValueError(
            f"pairs {pickle}: expected a pair to train on, got none ({why}); give another file, or its photos"
        )
    table = _table(train, val, shapes)
    if drop_repeats:
        once = replace(table.positives, weight=np.ones(len(table.positives)))
        table = replace(table, positives=once)
    stats = _stats(table, told) | {"seconds": round(time.monotonic() - started, 3)}
    _write(table, photos, key_of(stamps), stats, out)
    seconds = time.monotonic() - started
    mark_done(out, _STAGE, key, seconds=seconds, facts=stats, outputs=[out / name for name in _OUTPUTS])
    return table


def _write(table: PairTable, photos: Path, content: str, stats: Mapping[str, Any], out: Path) -> None:
    write_pair_table(table, out)
    write_heldout(_heldout(table), out / "heldout.parquet")
    write_source(PhotoSource(photos=str(photos.resolve()), content=content), out)
    write_json(out / "stats.json", stats)


def _stamp(photo: Path) -> tuple[int, int] | None:
    """Bytes and time of the last change; None where there is no such file."""
    try:
        facts = photo.stat()
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns


def _with_photos(
    train: PublishedPairs, val: PublishedPairs, photos: Path
) -> tuple[PublishedPairs, PublishedPairs, dict[str, Shape]]:
    """Both sides without the photos that are not there or cannot be read, and the shapes of the others."""
    names = (*train.names, *val.names)
    found = {name: _shape(photos / name) for name in progress(names, desc="photos", unit="photo")}
    shapes = {name: shape for name, shape in found.items() if not isinstance(shape, str)}
    for reason in sorted({shape for shape in found.values() if isinstance(shape, str)}):
        lost = [name for name in names if found[name] == reason]
        logger.warning("photos %s: %d %s, '%s' the first", photos, len(lost), reason, lost[0])
        train, val = (
            side.only(np.array([found[name] != reason for name in side.names], np.bool_), reason)
            for side in (train, val)
        )
    return train, val, shapes


def _table(train: PublishedPairs, val: PublishedPairs, shapes: Mapping[str, Shape]) -> PairTable:
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
    ordered = [shapes[name] for name in names[order]]
    return PairTable(
        names=tuple(names[order].tolist()),
        cluster=cluster,
        place=cluster,
        is_val=sides[order] == 1,
        is_choosing=np.zeros(len(order), np.bool_),
        sizes=np.array([shape[:2] for shape in ordered]),
        orientation=np.array([shape[2] for shape in ordered]),
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


def _shape(path: Path) -> Shape | str:
    """What the head of the file says, or why it says nothing."""
    if not path.exists():
        return "missing"
    try:
        return stored_shape(path)
    except UnusablePhoto as finding:
        return str(finding)


def _heldout(table: PairTable) -> list[HeldoutQuery]:
    """Every query of the held-out side as a whole photo; what shares its cluster unproven is junk."""
    tested = table.is_val if table.is_val.any() else np.ones_like(table.is_val)
    positives = table.positives.take(tested[table.positives.query])
    found: dict[int, list[int]] = defaultdict(list)
    for query, positive in zip(positives.query.tolist(), positives.positive.tolist(), strict=True):
        found[query].append(positive)
    return [_query(table, row, rows) for row, rows in sorted(found.items())]


def _query(table: PairTable, row: int, positives: list[int]) -> HeldoutQuery:
    width, height = table.sizes[row]
    size = upright_size(int(width), int(height), int(table.orientation[row]))
    return HeldoutQuery(
        query=table.names[row],
        kind="whole",
        purpose="report",
        box=(0, 0, *size),
        rotation_deg=0.0,
        seed=0,
        positives=tuple(table.names[other] for other in sorted(set(positives))),
        far=(),
        place=int(table.place[row]),
    )


def _stats(table: PairTable, told: Mapping[str, int]) -> dict[str, Any]:
    return {
        "images": table.num_images,
        "queries": len(np.unique(table.positives.query)),
        "positives": len(table.positives),
        "clusters": len(np.unique(table.cluster)),
        "places": len(np.unique(table.place)),
        "dropped": dict(told),
    }
