"""Memory and time of the parent process at a million photos, with everything real but the photos.

A folder of as many empty files is made and goes through the real stages, from the scan to images.parquet.
Only the work of the tasks, which child processes would do, is answered on the spot with made-up facts: seven
candidate pairs a photo, two thirds of them true, places of twelve photos. What remains is what the parent
does: walk, deal out, record, gather, write tables. Left out are pair filters, which read the matches
themselves, and the folders of models: the mapper finds none. Besides, the nearest-neighbour search on 512-D
descriptors is timed on a part, and projected: its seconds grow with the square of the photos. Goal: the
parent's memory stays below 1 GB.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int32

from experiments.benchmarks.measuring.measure import Claim, arguments, conclude, print_table
from experiments.benchmarks.projection import search_seconds
from groundwork.batches import Batch
from groundwork.executors import LocalExecutor, SerialExecutor
from groundwork.files import read_table, write_table
from groundwork.memory import peak_bytes
from groundwork.photos import THUMBNAIL_PX, Photo
from groundwork.records import mark_done
from sfm.collection import scan
from sfm.features import extract_features
from sfm.featurestore import write_descriptors
from sfm.mapping import map_places
from sfm.matchgraph import build_graph
from sfm.matching import match
from sfm.neighbours import union
from sfm.numbering import rank_by_content
from sfm.reconstruct import Matched, ReconstructConfig, tell
from sfm.thumbnails import write_with_thumbnails
from sfm.vlad import describe_images

_LIMIT_GB = 1.0
_PLACE = 12
_OFFSETS = 7
_FOLDER = 1000


Answer = Callable[[Batch[Any]], tuple[dict[str, Any], Sequence[Path]]]


class AnsweringExecutor(Executor):
    """Has every batch recorded as if its function had been run: `answer` says what it found."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run the task with the answer in place of its batch function, its first argument.

        What is no batch runs as it is, in a child.
        """
        if not callable(args[0]):
            with LocalExecutor(1) as executor:
                return executor.submit(fn, *args, **kwargs)
        return SerialExecutor().submit(fn, self._answer, *args[1:], **kwargs)


def main(words: list[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="scratch folder, on a disk with many inodes")
    parser.add_argument("--rows", type=int, default=1_000_000, help="photos [%(default)s]")
    parser.add_argument("--part", type=int, default=16_384, help="photos searched among [%(default)s]")
    given = parser.parse_args(words)
    photos = make_files(given.out / "photos", given.rows)
    seconds = walk_through(photos, given.out / "sfm", given.rows)
    print_table(
        ("parent's part", "s", "peak MB so far"),
        [(stage, f"{took:.1f}", f"{peak:,.0f}") for stage, took, peak in seconds],
    )
    search = search_seconds(given.part, 512)
    blocks = (given.rows / given.part) ** 2
    print(
        f"nearest neighbours of 512-D descriptors: {search:.2f} s among {given.part:,}; "
        f"among {given.rows:,}: {search * blocks / 3600:.2f} h on one core"
    )
    peak = seconds[-1][2] / 1000
    return conclude([Claim(what="parent's peak memory, GB", measured=peak, limit=_LIMIT_GB, at_least=False)])


def make_files(photos: Path, rows: int) -> Path:
    """Empty files, a thousand to a folder; those of an earlier run are used again."""
    for first in range(0, rows, _FOLDER):
        folder = photos / f"{first // _FOLDER:05d}"
        if not folder.exists():
            unfinished = folder.with_suffix(".part")
            unfinished.mkdir(parents=True, exist_ok=True)
            for number in range(first, min(first + _FOLDER, rows)):
                (unfinished / f"{number:08d}.jpg").touch()
            unfinished.rename(folder)
    return photos


def walk_through(photos: Path, out: Path, rows: int) -> list[tuple[str, float, float]]:
    """Take the files through the stages; stage, its seconds and the parent's peak in MB after it."""
    config = ReconstructConfig()
    marks: list[tuple[str, float, float]] = [("at the start", 0.0, peak_bytes() / 1e6)]
    last = time.perf_counter()

    def mark(stage: str) -> None:
        nonlocal last
        marks.append((stage, time.perf_counter() - last, peak_bytes() / 1e6))
        last = time.perf_counter()

    collection = scan(photos, out, config.scan, AnsweringExecutor(partial(_scanned, folder=out / "scan")))
    mark("scan")
    answer = partial(_extracted, folder=out / "features" / "descriptors")
    features = extract_features(collection, out, config.features, AnsweringExecutor(answer))
    mark("features")
    describe_images(
        features,
        out,
        config.candidates.vlad,
        config.seed,
        AnsweringExecutor(partial(_described, folder=out / "features" / "vlad")),
    )
    mark("vlad")
    write_table(out / "candidates.parquet", union({"vlad": _pairs(rows), "gps": _pairs(rows, 3)}, rows))
    mark("candidates")
    matches = match(
        read_table(out / "candidates.parquet"),
        features,
        out,
        config.matching,
        config.seed,
        AnsweringExecutor(_matched),
    )
    mark("matching")
    sizes = collection.of_usable("width", "height").to_numpy(dtype=np.int64)
    unfiltered = config.graph.model_copy(update={"filters": ()})
    graph = build_graph(matches, features.store, sizes, rank_by_content(features.sha256), out, unfiltered)
    matched = Matched(
        collection=collection,
        store=features.store,
        candidates=out / "candidates.parquet",
        graph=graph,
        unmatched={},
        stages=(),
    )
    del matches, features
    mark("graph")
    mapping = map_places(
        collection, matched.store, graph, out, config.mapping, config.seed, AnsweringExecutor(_mapped)
    )
    mark("mapping")
    tell(collection, matched, mapping, out, config, engine="made up")
    mark("pair lists and images")
    return marks


def _pairs(rows: int, step: int = 1) -> Int32[np.ndarray, "p 2"]:
    first, offsets = np.arange(rows, dtype=np.int32)[:, None], np.arange(1, _OFFSETS + 1, step)
    pairs = np.empty((rows, len(offsets), 2), dtype=np.int32)
    pairs[:, :, 0], pairs[:, :, 1] = first, first + offsets.astype(np.int32)
    inside: Int32[np.ndarray, "p 2"] = pairs[pairs[:, :, 1] < rows]
    return inside


def _scanned(batch: Batch[str], *, folder: Path) -> tuple[dict[str, Any], Sequence[Path]]:
    photo = Photo(
        sha256="",
        width=1024,
        height=768,
        orientation=1,
        focal_px=math.nan,
        camera="Maker Model 4.5",
        latitude=math.nan,
        longitude=math.nan,
        thumbnail=b"",
    )
    # As long and as different as true hashes.
    hashes = [f"{int(Path(name).stem):064x}" for name in batch.items]
    facts = {name: value for name, value in asdict(photo).items() if name != "thumbnail"}
    table = pd.DataFrame({"name": batch.items, "reason": ""}).assign(**facts).assign(sha256=hashes)
    squares = np.random.default_rng(int(Path(batch.items[0]).stem)).integers(0, 256, (len(table), 6, 6))
    thumbnails = squares.repeat(THUMBNAIL_PX // 6, 1).repeat(THUMBNAIL_PX // 6, 2).reshape(len(table), -1)
    path = folder / f"{batch.name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_with_thumbnails(path, table, thumbnails.astype(np.uint8))
    return {}, [path]


def _extracted(batch: Batch[Any], *, folder: Path) -> tuple[dict[str, Any], Sequence[Path]]:
    ids = [item.image_id for item in batch.items]
    descriptors = np.random.default_rng(ids[0]).integers(0, 256, (len(ids), 1, 128), dtype=np.uint8)
    write_descriptors(folder / batch.name, ids, [*descriptors])
    mark_done(folder, batch.name, batch.key, outputs=[folder / batch.name])
    return {"image_ids": ids, "num_keypoints": [2000] * len(ids), "failed": {}}, ()


def _described(batch: Batch[int], *, folder: Path) -> tuple[dict[str, Any], Sequence[Path]]:
    path = folder / f"{batch.name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, image_ids=np.array(batch.items), rows=np.ones((len(batch.items), 128), np.float32))
    return {}, [path]


def _mapped(batch: Batch[Any]) -> tuple[dict[str, Any], Sequence[Path]]:
    return {"models": []}, ()


def _matched(batch: Batch[Any]) -> tuple[dict[str, Any], Sequence[Path]]:
    same = [(one - 1) // _PLACE == (two - 1) // _PLACE for one, two in batch.items]
    kinds, inliers = [2 if one else 1 for one in same], [60 if one else 0 for one in same]
    return {"geometry_kinds": kinds, "inliers": inliers}, ()


if __name__ == "__main__":
    sys.exit(main())
