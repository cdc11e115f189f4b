"""All stages in order: a folder of photos to models, places, and one line about every file."""

import errno
import os
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field

from groundwork.child import preload
from groundwork.files import read_table, sweep
from groundwork.keys import key_of, key_of_table
from groundwork.lock import hold
from groundwork.photo_source import PhotoSource, write_source
from groundwork.settings import Settings
from sfm.candidates import CandidateConfig, propose_pairs, require_given
from sfm.collection import Collection, require_folder, scan
from sfm.colmap.files import database_alone
from sfm.colmap.import_matches import import_matches
from sfm.colmap.import_models import fates_of_imported, import_models
from sfm.descriptors import drop_descriptors
from sfm.detection import FeatureConfig
from sfm.features import extract_features
from sfm.featurestore import FeatureStore
from sfm.inspection import ScanConfig
from sfm.local_features.interface import modules_of
from sfm.mapper import MappingConfig
from sfm.mapping import Mapping, map_places
from sfm.matchgraph import GraphConfig, MatchGraph, build_graph
from sfm.matching import Matches, MatchingConfig, match
from sfm.numbering import digests, rank_by_content
from sfm.outcome import ReconstructResult, conclude, describe_files, model_of_image
from sfm.pair_table import ENDS
from sfm.pairlists import write_pair_lists
from sfm.second_look import FirstLook, SecondConfig, look_again, require_second

_VERSION = 3
# What tasks of a reconstruction need: for `groundwork.child.preload`, before the first child.
PRELOAD = ("sfm.colmap.calls", __name__)
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
    second: SecondConfig = SecondConfig()
    graph: GraphConfig = GraphConfig()
    mapping: MappingConfig = MappingConfig()

    @property
    def methods(self) -> tuple[str, ...]:
        """The local features that are used."""
        return (self.features.method, self.second.method) if self.second.wanted else (self.features.method,)


def reconstruct(photos: Path, out: Path, config: ReconstructConfig, executor: Executor) -> ReconstructResult:
    """Reconstruct every place in a folder of photos.

    Writes images.parquet, stats.json and models/<k> to `out`, beside what the stages keep there. What is done
    already with the same photos and settings is not done again. FileNotFoundError and NotADirectoryError when
    there is no such folder, ValueError when it holds no usable photo or no two that match, OSError when the
    disk is full or read-only, FolderInUse while another run works in `out`.
    """
    require_folder(photos)
    preload(*PRELOAD, *modules_of(*config.methods))
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
class Matched:
    """What mapping builds on, our own or somebody else's.

    Attributes:
        collection: the photos with their sizes and cameras.
        candidates: file of the pairs of image ids that were tried.
        unmatched: image_id -> status and reason, for photos that had nothing to match.
        stages: that led here, after the scan.

    """

    collection: Collection
    store: FeatureStore
    candidates: Path
    graph: MatchGraph
    unmatched: dict[int, tuple[str, str]]
    stages: tuple[str, ...]


def _reconstruct(photos: Path, out: Path, config: ReconstructConfig, executor: Executor) -> ReconstructResult:
    collection = scan(photos, out, config.scan, executor)
    write_source(PhotoSource(photos=str(collection.photos)), out)
    if config.from_colmap is None:
        matched = _match(collection, out, config, executor)
    elif (database := database_alone(config.from_colmap)) is not None:
        matched = _take_over(collection, database, out, config, executor)
    else:
        return _import(collection, config.from_colmap, out, config, executor)
    mapping = map_places(
        matched.collection, matched.store, matched.graph, out, config.mapping, config.seed, executor
    )
    return tell(collection, matched, mapping, out, config, str(executor))


def _match(collection: Collection, out: Path, config: ReconstructConfig, executor: Executor) -> Matched:
    require_given(config.candidates, collection, out)
    require_second(config.second)
    features = extract_features(collection, out, config.features, executor)
    candidates = propose_pairs(collection, features, out, config.candidates, config.seed, executor)
    matches = match(candidates, features, out, config.matching, config.seed, executor)
    del candidates  # of a million photos each table of pairs takes a tenth of a gigabyte
    if not config.features.keep_descriptors:
        drop_descriptors(features)
    store: FeatureStore = features.store
    stages: tuple[str, ...] = ("features", "vlad", "candidates", "matching")
    if config.second.wanted:
        first = FirstLook(
            collection=collection,
            features=features,
            matches=matches,
            graph=_graph(collection, matches, features.store, out / "second", config.graph),
            matching=config.matching,
            min_inliers=config.graph.min_inliers,
            seed=config.seed,
        )
        both = look_again(first, out, config.second, executor)
        store, matches, stages = both.store, both.matches, (*stages, "second")
    few = np.flatnonzero(features.num_keypoints < config.candidates.min_keypoints) + 1
    failed = {image_id: ("rejected", reason) for image_id, reason in features.failed.items()}
    return Matched(
        collection=collection,
        store=store,
        candidates=out / "candidates.parquet",
        graph=_graph(collection, matches, store, out, config.graph),
        unmatched=dict.fromkeys(few.tolist(), ("unregistered", "too few keypoints")) | failed,
        stages=(*stages, "graph"),
    )


def _take_over(
    collection: Collection, database: Path, out: Path, config: ReconstructConfig, executor: Executor
) -> Matched:
    imported = import_matches(collection, database, out, executor)
    return Matched(
        collection=imported.collection,
        store=imported.store,
        candidates=imported.matches.folder / "pairs.parquet",
        graph=_graph(imported.collection, imported.matches, imported.store, out, config.graph),
        unmatched=dict.fromkeys(imported.missing, ("unregistered", "not in the database")),
        stages=("import", "graph"),
    )


def _graph(
    collection: Collection, matches: Matches, store: FeatureStore, out: Path, config: GraphConfig
) -> MatchGraph:
    sizes = collection.of_usable("width", "height").to_numpy(dtype=np.int64)
    rank = rank_by_content(digests(collection.of_usable("sha256")["sha256"]))
    return build_graph(matches, store, sizes, rank, out, config)


def tell(
    collection: Collection,
    matched: Matched,
    mapping: Mapping,
    out: Path,
    config: ReconstructConfig,
    engine: str,
) -> ReconstructResult:
    """Write to `out` what a finished reconstruction tells: pair lists, images.parquet and stats.json."""
    names, graph = collection.of_usable("name")["name"], matched.graph
    candidates = read_table(matched.candidates, list(ENDS))
    lists_key = key_of(_key_of_files(collection), key_of_table(candidates), graph.key, mapping.key)
    write_pair_lists(out, lists_key, names, candidates, graph.pairs, mapping.folders)
    del candidates
    return conclude(
        out,
        key_of("images", _VERSION, config, _key_of_files(collection), mapping.key),
        lambda: describe_files(
            collection.table,
            _fates(names, matched.unmatched, graph, mapping, config.mapping.min_model_size),
        ),
        mapping.folders,
        places=graph.num_places,
        stages=("scan", *matched.stages, "mapping", "pair lists"),
        engine=engine,
    )


def _import(
    collection: Collection, source: Path, out: Path, config: ReconstructConfig, executor: Executor
) -> ReconstructResult:
    imported = import_models(collection, source, out, config.mapping.min_model_size, config.graph, executor)
    names = collection.of_usable("name")["name"]
    write_pair_lists(out, imported.key, names, None, None, imported.folders)
    return conclude(
        out,
        key_of("images", _VERSION, _key_of_files(collection), imported.key),
        lambda: describe_files(collection.table, fates_of_imported(names, imported)),
        imported.folders,
        places=imported.num_places,
        stages=("scan", "import", "pair lists"),
        engine=str(executor),
    )


def _key_of_files(collection: Collection) -> str:
    return key_of_table(collection.table[["name", "status", "reason", "image_id"]])


def _fates(
    names: "pd.Series[str]",
    unmatched: dict[int, tuple[str, str]],
    graph: MatchGraph,
    mapping: Mapping,
    min_model_size: int,
) -> pd.DataFrame:
    """What became of each usable photo, as `sfm.outcome.describe_files` takes it."""
    model, place = model_of_image(names, mapping.folders), graph.place_of_image
    sizes = np.append(np.bincount(place + 1)[1:], 0)  # the last is that of place -1
    status = np.full(len(names), "unregistered", dtype=object)
    reason = np.full(len(names), "not placed by the mapper", dtype=object)
    # From the last word to the first: what is said later counts more.
    for image_id, why in mapping.failed.items():
        reason[image_id - 1] = why
    reason[sizes[place] < min_model_size] = "place has too few photos"
    reason[place < 0] = "matches no other photo"
    for image_id, fate in unmatched.items():
        status[image_id - 1], reason[image_id - 1] = fate
    status[model >= 0], reason[model >= 0] = "registered", ""
    return pd.DataFrame({"status": status, "reason": reason, "model": model, "place": place})
