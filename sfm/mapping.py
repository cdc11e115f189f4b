"""Stage: places to 3D models, one task a component, the largest first; what is mapped already stays."""

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from groundwork.batches import CHILD_BYTES, Batch, BatchResult
from groundwork.child import Limits
from groundwork.files import atomic_path, read_json, require_space, write_json
from groundwork.keys import key_of
from groundwork.memory import give_back
from groundwork.records import forget, load_done, mark_done, prune, records_in
from groundwork.tasks import run_batches, usage
from sfm.collection import Collection
from sfm.components import Component, components
from sfm.featurestore import FeatureStore
from sfm.mapper import MappingConfig, map_component
from sfm.matchgraph import MatchGraph
from sfm.modelfolder import FoundModel, assemble

_VERSION = 7
# Of a component's memory, for each of its images: keypoints, tracks and the adjustment of all of them.
_IMAGE_BYTES = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """All models of a collection.

    Attributes:
        folders: models/<k>, k = 0, 1, ... by falling number of images, then by place and part.
        failed: image_id -> reason, for the images of components that kill their worker, that reach a limit
            of time or memory, or that the mapper cannot read.
        key: changes with anything that changes a model.

    """

    folders: tuple[Path, ...]
    failed: dict[int, str]
    key: str


def map_places(
    collection: Collection,
    store: FeatureStore,
    graph: MatchGraph,
    out: Path,
    config: MappingConfig,
    seed: int,
    executor: Executor,
) -> Mapping:
    """Reconstruct every place of at least `min_model_size` images.

    COLMAP models go to `out`/models/<k>, with arrays.npz (sfm.model) beside COLMAP's files; one row a model
    to `out`/models.parquet. A component's result is kept under the key of its content in `out`/mapping:
    only components that changed since the last run are mapped.
    """
    started = time.perf_counter()
    contents = ("name", "sha256", "camera", "width", "height", "focal_px")
    # The table is handed over, not held: most is done when it is gone.
    parts = tuple(components(collection.of_usable(*contents), graph, config.min_model_size))
    give_back()
    base = key_of(_VERSION, version("pycolmap"), config.deciding, seed, graph.matches_key)
    batches = [_batch(base, part, config.limits) for part in parts]
    folder = out / "mapping"
    _retry_under_other_limits(folder, config.limits)
    work = partial(_map_batch, store=store, matches=graph.folder, folder=folder, config=config, seed=seed)
    results = run_batches(work, batches, folder, executor, label="mapping")
    failed: dict[int, str] = {}
    for part, result in zip(parts, results, strict=True):
        if reason := result.quarantined.get(0) or result.facts.get("failed"):
            failed |= dict.fromkeys(part.image_ids, f"reconstruction: {reason}")
    key = key_of(
        "mapping",
        [[batch.name, part.place, part.part] for batch, part in zip(batches, parts, strict=True)],
        list(failed.items()),
    )
    record = load_done(out, "mapping", key)
    if not record:
        number = assemble(_found(folder, parts, results), out)
        prune(folder, "component-*", {batch.name for batch in batches})
        failures = sum("failed" in result.facts or bool(result.quarantined) for result in results)
        facts = {"models": number, "failed components": failures, **usage(results)}
        seconds = time.perf_counter() - started
        outputs = [out / "models", out / "models.parquet"]
        record = mark_done(out, "mapping", key, seconds=seconds, facts=facts, outputs=outputs)
    folders = tuple(out / "models" / str(k) for k in range(record.facts["models"]))
    return Mapping(folders=folders, failed=failed, key=key)


def _batch(base: str, part: Component, limits: Limits) -> Batch[Component]:
    key = key_of(base, part.key)
    memory_bytes = CHILD_BYTES + _IMAGE_BYTES * len(part.image_ids)
    name = f"component-{key[:20]}"
    return Batch(name=name, key=key, items=(part,), memory_bytes=memory_bytes, limits=limits)


def _retry_under_other_limits(folder: Path, limits: Limits) -> None:
    """Forget the components that were given up when the limits were others; what is mapped stays mapped."""
    path = folder / "limits.json"
    if path.is_file() and read_json(path) == asdict(limits):
        return
    for record in list(records_in(folder, "component-*")):
        if record.facts["quarantined"]:
            forget(folder, record.stage)
    write_json(path, asdict(limits))


def _map_batch(
    batch: Batch[Component],
    *,
    store: FeatureStore,
    matches: Path,
    folder: Path,
    config: MappingConfig,
    seed: int,
) -> tuple[dict[str, Any], Sequence[Path]]:
    if not batch.items:
        return {"models": []}, []
    (component,) = batch.items
    path = folder / batch.name
    with atomic_path(path) as unfinished:
        unfinished.mkdir()
        try:
            facts = map_component(component, store, matches, unfinished, config, seed)
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:
            require_space(folder)
            return {"models": [], "failed": f"{str(error).splitlines()[0]}"}, []
    return {"models": [asdict(each) for each in facts]}, [path]


def _found(folder: Path, parts: Sequence[Component], results: Sequence[BatchResult]) -> list[FoundModel]:
    return [
        FoundModel(folder=folder / result.name / str(number), place=part.place, part=part.part, facts=facts)
        for part, result in zip(parts, results, strict=True)
        for number, facts in enumerate(result.facts["models"])
    ]
