"""All stages in order: a folder of photos to models, places, and one line about every file."""

import errno
import os
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field

from sfm.candidates import CandidateConfig, propose_pairs
from sfm.collection import Collection, ScanConfig, require_folder, scan
from sfm.colmapfiles import database_alone
from sfm.descriptors import drop_descriptors
from sfm.features import FeatureConfig, extract_features
from sfm.featurestore import FeatureStore
from sfm.imported import describe_files, import_models
from sfm.importedmatches import import_matches
from sfm.keys import key_of, key_of_table
from sfm.lock import hold
from sfm.mapper import MappingConfig
from sfm.mapping import Mapping, map_places
from sfm.matchgraph import GraphConfig, MatchGraph, build_graph
from sfm.matching import Matches, MatchingConfig, match
from sfm.outcome import ReconstructResult, conclude, model_of_name
from sfm.pairlists import write_pair_lists
from sfm.settings import Settings
from sfm.store import sweep, write_json

_VERSION = 1
_DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class ReconstructConfig(Settings):
    """Settings of all stages of a reconstruction."""

    seed: int = Field(default=0, ge=0, description="of samples, RANSAC and the mapper")
    from_colmap: Path | None = Field(
        default=None,
        description="COLMAP models to use in place of our own (a folder), or a COLMAP database whose "
        "verified pairs to use in place of our own",
    )
    scan: ScanConfig = ScanConfig()
    features: FeatureConfig = FeatureConfig()
    candidates: CandidateConfig = CandidateConfig()
    matching: MatchingConfig = MatchingConfig()
    graph: GraphConfig = GraphConfig()
    mapping: MappingConfig = MappingConfig()


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
        why = os.strerror(error.errno)
        raise OSError(
            error.errno,
            f"output {out}: expected a folder with room to write, got '{why}'; make room or choose"
            " another folder, and run again to go on",
        ) from error


@dataclass(frozen=True, kw_only=True)
class _Matched:
    """What graph and mapping build on, our own or somebody else's.

    Attributes:
        collection: the photos with their sizes and cameras.
        candidates: pairs of image ids that were tried.
        unmatched: image_id -> status and reason, for photos that had nothing to match.

    """

    collection: Collection
    store: FeatureStore
    candidates: pd.DataFrame
    matches: Matches
    unmatched: dict[int, tuple[str, str]]
    stages: tuple[str, ...]


def _reconstruct(photos: Path, out: Path, config: ReconstructConfig, executor: Executor) -> ReconstructResult:
    collection = scan(photos, out, config.scan, executor)
    write_json(out / "photos.json", {"version": 1, "photos": str(collection.photos)})
    if config.from_colmap is None:
        return _build(collection, _match(collection, out, config, executor), out, config, executor)
    database = database_alone(config.from_colmap)
    if database is None:
        return _import(collection, config.from_colmap, out, config, executor)
    imported = import_matches(collection, database, out, executor)
    matched = _Matched(
        collection=imported.collection,
        store=imported.store,
        candidates=imported.matches.pairs,
        matches=imported.matches,
        unmatched=dict.fromkeys(imported.missing, ("unregistered", "not in the database")),
        stages=("import",),
    )
    return _build(collection, matched, out, config, executor)


def _match(collection: Collection, out: Path, config: ReconstructConfig, executor: Executor) -> _Matched:
    features = extract_features(collection, out, config.features, executor)
    candidates = propose_pairs(collection, features, out, config.candidates, config.seed, executor)
    matches = match(candidates, features, out, config.matching, config.seed, executor)
    if not config.features.keep_descriptors:
        drop_descriptors(features)
    few = np.flatnonzero(features.num_keypoints < config.candidates.min_keypoints) + 1
    failed = {image_id: ("rejected", reason) for image_id, reason in features.failed.items()}
    return _Matched(
        collection=collection,
        store=features.store,
        candidates=candidates,
        matches=matches,
        unmatched=dict.fromkeys(few.tolist(), ("unregistered", "too few keypoints")) | failed,
        stages=("features", "vlad", "candidates", "matching"),
    )


def _build(
    collection: Collection, matched: _Matched, out: Path, config: ReconstructConfig, executor: Executor
) -> ReconstructResult:
    sizes = matched.collection.usable[["width", "height"]].to_numpy(dtype=np.int64)
    graph = build_graph(matched.matches, matched.store, sizes, out, config.graph)
    mapping = map_places(matched.collection, matched.store, graph, out, config.mapping, config.seed, executor)
    names = collection.usable["name"].tolist()
    lists_key = key_of(names, key_of_table(matched.candidates), graph.key, mapping.key)
    write_pair_lists(out, lists_key, names, matched.candidates, graph.pairs, mapping.folders)
    files = collection.table[["name", "status", "reason"]].to_numpy().tolist()
    return conclude(
        out,
        key_of("images", _VERSION, config, files, mapping.key),
        lambda: _images(collection.table, matched.unmatched, graph, mapping, config.mapping.min_model_size),
        mapping.folders,
        places=graph.num_places,
        stages=("scan", *matched.stages, "graph", "mapping", "pair lists"),
        engine=str(executor),
    )


def _import(
    collection: Collection, source: Path, out: Path, config: ReconstructConfig, executor: Executor
) -> ReconstructResult:
    imported = import_models(collection, source, out, config.mapping.min_model_size, config.graph, executor)
    write_pair_lists(out, imported.key, collection.usable["name"].tolist(), None, None, imported.folders)
    files = collection.table[["name", "status", "reason"]].to_numpy().tolist()
    return conclude(
        out,
        key_of("images", _VERSION, files, imported.key),
        lambda: describe_files(collection, imported),
        imported.folders,
        places=imported.num_places,
        stages=("scan", "import", "pair lists"),
        engine=str(executor),
    )


def _images(
    table: pd.DataFrame,
    unmatched: dict[int, tuple[str, str]],
    graph: MatchGraph,
    mapping: Mapping,
    min_model_size: int,
) -> pd.DataFrame:
    model_of = model_of_name(mapping.folders)
    place_sizes = np.bincount(graph.place_of_image + 1)[1:]
    rows = []
    for name, status, reason, image_id in zip(
        table["name"], table["status"], table["reason"], table["image_id"].tolist(), strict=True
    ):
        if status != "usable":
            rows.append((name, status, reason, -1, -1))
            continue
        place, model = int(graph.place_of_image[image_id - 1]), model_of.get(name, -1)
        if model >= 0:
            rows.append((name, "registered", "", model, place))
        elif image_id in unmatched:
            rows.append((name, *unmatched[image_id], -1, place))
        elif place < 0:
            rows.append((name, "unregistered", "matches no other photo", -1, -1))
        elif place_sizes[place] < min_model_size:
            rows.append((name, "unregistered", "place has too few photos", -1, place))
        else:
            why = mapping.failed.get(image_id, "not placed by the mapper")
            rows.append((name, "unregistered", why, -1, place))
    images = pd.DataFrame(rows, columns=["name", "status", "reason", "model", "place"])
    return images.assign(**{column: table[column] for column in ("width", "height", "orientation")})
