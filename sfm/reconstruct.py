"""All stages in order: a folder of photos to models, places, and one line about every file."""

import errno
import time
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from sfm.candidates import CandidateConfig, propose_pairs
from sfm.collection import Collection, ScanConfig, require_folder, scan
from sfm.features import FeatureConfig, Features, extract_features
from sfm.lock import hold
from sfm.mapper import MappingConfig
from sfm.mapping import Mapping, map_places
from sfm.matchgraph import GraphConfig, MatchGraph, build_graph
from sfm.matching import MatchingConfig, match
from sfm.model import Model, load_model
from sfm.settings import Settings
from sfm.store import (
    key_of,
    load_done,
    mark_done,
    read_json,
    read_table,
    sweep,
    write_json,
    write_table,
)

_VERSION = 1
_DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_STAGES = ("scan", "features", "vlad", "candidates", "matching", "graph", "mapping")


class ReconstructConfig(Settings):
    """Settings of all stages of a reconstruction."""

    seed: int = Field(default=0, ge=0, description="of samples, RANSAC and the mapper")
    scan: ScanConfig = ScanConfig()
    features: FeatureConfig = FeatureConfig()
    candidates: CandidateConfig = CandidateConfig()
    matching: MatchingConfig = MatchingConfig()
    graph: GraphConfig = GraphConfig()
    mapping: MappingConfig = MappingConfig()


class ReconstructStats(Settings):
    """Counts of a reconstruction, as in stats.json.

    `images` counts the files found, `reasons` the rejected and unregistered ones by reason.
    """

    images: int
    rejected: int
    duplicates: int
    registered: int
    models: int
    places: int
    seconds: float
    reasons: dict[str, int]
    stages: dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ReconstructResult:
    """What `reconstruct` leaves in its folder.

    Attributes:
        images: one row a file: `name, status (registered|unregistered|duplicate|rejected), reason, model,
            place (-1: none), width, height (stored pixels), orientation (EXIF)`.
        model_folders: a COLMAP model each, with arrays.npz beside it.

    """

    images: pd.DataFrame
    model_folders: tuple[Path, ...]
    stats: ReconstructStats

    @property
    def models(self) -> list[Model]:
        """The models, read from their folders, with their places."""
        place_of = dict(zip(self.images["name"], self.images["place"].tolist(), strict=True))
        models = [load_model(folder / "arrays.npz") for folder in self.model_folders]
        return [replace(model, place=place_of[model.names[0]]) for model in models]


def reconstruct(photos: Path, out: Path, config: ReconstructConfig, executor: Executor) -> ReconstructResult:
    """Reconstruct every place in a folder of photos.

    Writes images.parquet, stats.json and models/<k> to `out`, beside what the stages keep there. What is done
    already with the same photos and settings is not done again. FileNotFoundError and NotADirectoryError when
    there is no such folder, ValueError when it holds no usable photo or no two that match, OSError when the
    disk is full or read-only, FolderInUse while another run works in `out`.
    """
    require_folder(photos)
    try:
        with hold(out):
            sweep(out)
            return _reconstruct(photos, out, config, executor)
    except OSError as error:
        if error.errno not in _DISK_TROUBLE:
            raise
        raise OSError(
            error.errno,
            f"output {out}: expected a folder with room to write, got '{error.strerror}'; make room or choose"
            " another folder, and run again to go on",
        ) from error


def _reconstruct(photos: Path, out: Path, config: ReconstructConfig, executor: Executor) -> ReconstructResult:
    collection = scan(photos, out, config.scan, executor)
    write_json(out / "photos.json", {"version": 1, "photos": str(collection.photos)})
    features = extract_features(collection, out, config.features, executor)
    candidates = propose_pairs(collection, features, out, config.candidates, config.seed, executor)
    matches = match(candidates, features, out, config.matching, config.seed, executor)
    sizes = collection.usable[["width", "height"]].to_numpy(dtype=np.int64)
    graph = build_graph(matches, features.store, sizes, out, config.graph)
    mapping = map_places(collection, features, graph, out, config.mapping, config.seed, executor)
    return _conclude(collection, features, graph, mapping, out, config)


def _conclude(
    collection: Collection,
    features: Features,
    graph: MatchGraph,
    mapping: Mapping,
    out: Path,
    config: ReconstructConfig,
) -> ReconstructResult:
    """Write the line about every file and the counts."""
    started = time.perf_counter()
    files = collection.table[["name", "status", "reason"]].to_numpy().tolist()
    key = key_of("images", _VERSION, config, files, mapping.key)
    images_path, stats_path = out / "images.parquet", out / "stats.json"
    if not load_done(out, "images", key):
        images = _images(collection, features, graph, mapping, config)
        write_table(images_path, images)
        write_json(stats_path, _stats(images, graph, mapping, out).model_dump(mode="json"))
        mark_done(
            out, "images", key, seconds=time.perf_counter() - started, outputs=[images_path, stats_path]
        )
    return ReconstructResult(
        images=read_table(images_path),
        model_folders=mapping.folders,
        stats=ReconstructStats.model_validate(read_json(stats_path)),
    )


def _images(
    collection: Collection,
    features: Features,
    graph: MatchGraph,
    mapping: Mapping,
    config: ReconstructConfig,
) -> pd.DataFrame:
    table = collection.table
    model_of_name = _model_of_name(mapping)
    place_sizes = np.bincount(graph.place_of_image + 1)[1:]
    rows = []
    for name, status, reason, image_id in zip(
        table["name"], table["status"], table["reason"], table["image_id"].tolist(), strict=True
    ):
        if status != "usable":
            rows.append((name, status, reason, -1, -1))
            continue
        place, model = int(graph.place_of_image[image_id - 1]), model_of_name.get(name, -1)
        if model >= 0:
            rows.append((name, "registered", "", model, place))
        elif image_id in features.failed:
            rows.append((name, "rejected", features.failed[image_id], -1, -1))
        elif features.num_keypoints[image_id - 1] < config.candidates.min_keypoints:
            rows.append((name, "unregistered", "too few keypoints", -1, place))
        elif place < 0:
            rows.append((name, "unregistered", "matches no other photo", -1, -1))
        elif place_sizes[place] < config.mapping.min_model_size:
            rows.append((name, "unregistered", "place has too few photos", -1, place))
        else:
            why = mapping.failed.get(place, "not placed by the mapper")
            rows.append((name, "unregistered", why, -1, place))
    images = pd.DataFrame(rows, columns=["name", "status", "reason", "model", "place"])
    return images.assign(**{column: table[column] for column in ("width", "height", "orientation")})


def _model_of_name(mapping: Mapping) -> dict[str, int]:
    """The model of each registered image; of several, the one that sees most points in it, then the first."""
    best: dict[str, tuple[int, int]] = {}
    for number, folder in enumerate(mapping.folders):
        model = load_model(folder / "arrays.npz")
        points = np.bincount(model.track_image, minlength=model.num_images)
        for name, seen in zip(model.names, points.tolist(), strict=True):
            best[name] = max(best.get(name, (-1, 0)), (seen, -number))
    return {name: -number for name, (_, number) in best.items()}


def _stats(images: pd.DataFrame, graph: MatchGraph, mapping: Mapping, out: Path) -> ReconstructStats:
    counts = images["status"].value_counts()
    explained = images.loc[images["status"].isin(("rejected", "unregistered")), "reason"]
    stages: dict[str, dict[str, Any]] = {}
    for stage in _STAGES:
        path = out / "done" / f"{stage}.json"
        if path.is_file():
            record = read_json(path)
            stages[stage] = {"seconds": record["seconds"], **record["facts"]}
    return ReconstructStats(
        images=len(images),
        rejected=int(counts.get("rejected", 0)),
        duplicates=int(counts.get("duplicate", 0)),
        registered=int(counts.get("registered", 0)),
        models=len(mapping.folders),
        places=graph.num_places,
        seconds=round(sum(stage["seconds"] for stage in stages.values()), 3),
        reasons={str(reason): int(number) for reason, number in explained.value_counts().items()},
        stages=stages,
    )
