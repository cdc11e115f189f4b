"""Stage: places to 3D models, one child process a place, the largest first."""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import Field

from sfm.collection import Collection
from sfm.features import Features
from sfm.featurestore import FeatureStore
from sfm.matchgraph import MatchGraph
from sfm.matching import read_inliers
from sfm.model import load_model, save_model
from sfm.settings import Settings
from sfm.store import UNFINISHED, atomic_path, key_of, load_done, mark_done, require_space
from sfm.tasks import Batch, cpu_seconds, run_batches

if TYPE_CHECKING:
    from sfm.colmap import PairGeometry

_VERSION = 2


class MappingConfig(Settings):
    """How a place is reconstructed."""

    min_model_size: int = Field(default=3, ge=2, description="smaller models are dropped")
    init_min_inliers: int = Field(default=100, ge=15, description="of the pair that a model starts from")
    init_min_angle_deg: float = Field(default=16.0, gt=0, lt=90, description="between that pair's rays")
    relaxed_min_inliers: int = Field(default=30, ge=15, description="second try where no model was found")
    relaxed_min_angle_deg: float = Field(default=4.0, gt=0, lt=90, description="second try")
    global_ba_ratio: float = Field(default=1.3, gt=1, description="growth between global bundle adjustments")
    global_ba_refinements: int = Field(default=5, ge=1, description="rounds of one, at most")


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """All models of a collection.

    Attributes:
        folders: models/<k>, k = 0, 1, ... by falling number of images, then by first name.
        failed: place -> reason, for places that kill their worker or that the mapper cannot read.
        key: changes with anything that changes a model.

    """

    folders: tuple[Path, ...]
    failed: dict[int, str]
    key: str


@dataclass(frozen=True)
class _Place:
    number: int
    cameras: dict[int, int]
    pairs: pd.DataFrame


def map_places(
    collection: Collection,
    features: Features,
    graph: MatchGraph,
    out: Path,
    config: MappingConfig,
    seed: int,
    executor: Executor,
) -> Mapping:
    """Reconstruct every place of at least `min_model_size` images; write COLMAP models to `out`/models.

    Every model of a place is kept, and holds arrays.npz (sfm.model) beside COLMAP's own files. A place
    without a model is tried again with a narrower first pair.
    """
    started = time.perf_counter()
    key = key_of("mapping", _VERSION, version("pycolmap"), config, seed, graph.key, features.key)
    models = out / "models"
    places = _places(collection, graph, config.min_model_size)
    batches = [
        Batch(name=f"place-{place.number:05d}", key=key_of(key, place.number), items=(place,))
        for place in places
    ]
    folder = out / "mapping"
    work = partial(
        _map_batch,
        store=features.store,
        matches=graph.folder,
        folder=folder,
        config=config,
        seed=seed,
    )
    results = run_batches(work, batches, folder, executor, label="mapping")
    failed = {}
    for place, result in zip(places, results, strict=True):
        if reason := result.quarantined.get(0) or result.facts.get("failed"):
            failed[place.number] = reason
    record = load_done(out, "mapping", key)
    if not record:
        found = [folder / f"place-{place.number:05d}" for place in places if place.number not in failed]
        number = _collect(found, models)
        facts = {"models": number, "failed places": len(failed), "cpu_seconds": cpu_seconds(results)}
        seconds = time.perf_counter() - started
        record = mark_done(out, "mapping", key, seconds=seconds, facts=facts, outputs=[models])
    folders = tuple(models / str(k) for k in range(record.facts["models"]))
    return Mapping(folders=folders, failed=failed, key=key)


def _places(collection: Collection, graph: MatchGraph, min_size: int) -> list[_Place]:
    usable = collection.usable
    # Photos that share maker, model, focal length and size share a camera; all others have one of their own.
    shared = usable["camera"] + " " + usable["width"].astype(str) + "x" + usable["height"].astype(str)
    own = usable["image_id"].astype(str)
    camera_of_row = pd.factorize(shared.where(usable["camera"] != "", own))[0] + 1
    numbers = np.arange(graph.num_places + 1)
    rows = np.argsort(graph.place_of_image, kind="stable")
    first_row = np.searchsorted(graph.place_of_image[rows], numbers)
    pairs = graph.pairs.sort_values("place", kind="stable")
    first_pair = np.searchsorted(pairs["place"].to_numpy(), numbers)
    places = []
    for number in range(graph.num_places):
        own_rows = rows[first_row[number] : first_row[number + 1]].tolist()
        if len(own_rows) >= min_size:
            cameras = {row + 1: int(camera_of_row[row]) for row in own_rows}
            own_pairs = pairs.iloc[first_pair[number] : first_pair[number + 1]]
            places.append(_Place(number=number, cameras=cameras, pairs=own_pairs))
    return places


def _map_batch(
    batch: Batch[_Place],
    *,
    store: FeatureStore,
    matches: Path,
    folder: Path,
    config: MappingConfig,
    seed: int,
) -> tuple[dict[str, Any], Sequence[Path]]:

    if not batch.items:
        return {"models": 0}, []
    (place,) = batch.items
    path = folder / batch.name
    with atomic_path(path) as unfinished:
        unfinished.mkdir()
        try:
            models = _map_place(place, store, matches, unfinished, config, seed)
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:
            require_space(folder)
            return {"models": 0, "failed": f"mapper: {str(error).splitlines()[0]}"}, []
    return {"models": models}, [path]


def _map_place(
    place: _Place, store: FeatureStore, matches: Path, out: Path, config: MappingConfig, seed: int
) -> int:
    """Put the place's models into `out`/0, 1, ...; return how many."""
    from sfm import colmap  # in the child only: pycolmap is heavy, and ends the process when it fails

    images = list(store.read(place.cameras))
    for min_inliers, min_angle_deg in (
        (config.init_min_inliers, config.init_min_angle_deg),
        (config.relaxed_min_inliers, config.relaxed_min_angle_deg),
    ):
        options = colmap.MapperOptions(
            seed=seed,
            init_min_inliers=min_inliers,
            init_min_angle_deg=min_angle_deg,
            min_model_size=config.min_model_size,
            max_models=len(images),
            global_ba_ratio=config.global_ba_ratio,
            global_ba_refinements=config.global_ba_refinements,
        )
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=out.parent) as scratch:
            found = Path(scratch) / "models"
            pairs = _geometries(matches, place.pairs)
            colmap.map_images(images, place.cameras, pairs, Path(scratch), found, options)
            if kept := _keep(found, out, place.number, config.min_model_size):
                return kept
    return 0


def _geometries(matches: Path, pairs: pd.DataFrame) -> "Iterator[tuple[int, int, PairGeometry]]":
    from sfm import colmap

    for image_id1, image_id2, config, inliers in read_inliers(matches, pairs):
        yield image_id1, image_id2, colmap.PairGeometry(config=config, inliers=inliers)


def _keep(found: Path, kept: Path, place: int, min_size: int) -> int:
    """Move the models that are large enough, with their arrays beside them; return how many."""
    from sfm import colmap

    number = 0
    for folder in sorted(found.iterdir(), key=lambda folder: int(folder.name)):
        if colmap.num_registered(folder) < min_size:
            continue
        save_model(colmap.read_reconstruction(folder, place), folder / "arrays.npz")
        shutil.move(folder, kept / str(number))
        number += 1
    return number


def _collect(places: Sequence[Path], models: Path) -> int:
    """Number all models by falling size, then first name, and put them into one folder; return how many."""
    found = []
    for place in places:
        for folder in sorted(place.iterdir()) if place.is_dir() else []:
            model = load_model(folder / "arrays.npz")
            found.append((-model.num_images, model.names[0], folder))
    with atomic_path(models) as unfinished:
        unfinished.mkdir()
        for number, (_, _, folder) in enumerate(sorted(found)):
            shutil.copytree(folder, unfinished / str(number))
    return len(found)
