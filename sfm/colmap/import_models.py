"""Stage: COLMAP models that exist already, in place of a reconstruction of our own.

Leaves the same files: whoever mines, trains or reports cannot tell the difference.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int

from groundwork.batches import BatchResult
from groundwork.keys import key_of
from groundwork.records import load_done, mark_done
from groundwork.tasks import run_batches, usage
from sfm.collection import Collection
from sfm.colmap.database import read_pairs
from sfm.colmap.files import database_beside, model_folders
from sfm.colmap.model_tasks import model_batch, read_model
from sfm.mapper import ModelFacts
from sfm.matchgraph import GraphConfig, number_places
from sfm.model import ARRAYS, load_model
from sfm.modelfolder import FoundModel, assemble
from sfm.outcome import model_of_image
from sfm.pair_table import is_trusted

logger = logging.getLogger(__name__)

_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class ImportedModels:
    """Models of others, as our own.

    Attributes:
        folders: models/<k>, k = 0, 1, ... by falling number of images, then as they were found.
        place_of_image: of image_id r + 1 in row r; -1 for none.
        num_places: numbered by falling size.
        key: changes with anything that changes a model or a place.

    """

    folders: tuple[Path, ...]
    place_of_image: Int[np.ndarray, " n"]
    num_places: int
    key: str


def import_models(
    collection: Collection, source: Path, out: Path, min_size: int, graph: GraphConfig, executor: Executor
) -> ImportedModels:
    """Copy the models in `source` to `out`/models as COLMAP writes them, with arrays.npz beside.

    Image names are those of the photos of the collection. Images that are no usable photo stay in COLMAP's
    files and are left out of arrays.npz. A model that was made from photos of another size, or turned as
    EXIF says, is brought to the stored photos: then only their images are copied. Models that share a photo
    are of one place; so are those that verified pairs of a database beside them connect. Models with fewer
    than `min_size` photos are dropped.

    ValueError when there is no model, none can be read, no image name is that of a photo, no model has
    points, or a camera has another shape than its photo.
    """
    started = time.perf_counter()
    folders, database = model_folders(source), database_beside(source)
    if not folders:
        raise ValueError(
            f"models {source}: expected a folder with COLMAP's cameras, images and points3D, as .bin or "
            ".txt, with folders of them, or with a database, got none; name the folder that COLMAP wrote"
        )
    base = key_of("import", _VERSION, version("pycolmap"), collection.key)
    batches = [model_batch(number, folder, base) for number, folder in enumerate(folders)]
    kept = out / "imported"
    read = partial(read_model, listing=out / "collection.parquet", folder=kept)
    results = run_batches(read, batches, kept, executor, label="import")
    _require_models(source, collection, results)
    pairs = _verified_pairs(database, collection, graph) if database else np.empty((0, 2), dtype=np.int64)
    found = [kept / batch.name for batch, result in zip(batches, results, strict=True) if result.outputs]
    large = [folder for folder in found if load_model(folder / ARRAYS).num_images >= min_size]
    place_of_image = _places(large, pairs, collection)
    key = key_of(base, [batch.key for batch in batches], min_size, place_of_image.tolist())
    record = load_done(out, "import", key)
    if not record:
        number = assemble(list(_found(large, results, place_of_image, collection)), out)
        dropped = len(found) - len(large)
        facts = {"found": len(folders), "models": number, "too small": dropped, **usage(results)}
        _tell(source, collection, results, database)
        record = mark_done(
            out,
            "import",
            key,
            seconds=time.perf_counter() - started,
            facts=facts | {"missing photos": _count(results, "missing")},
            outputs=[out / "models", out / "models.parquet"],
        )
    return ImportedModels(
        folders=tuple(out / "models" / str(k) for k in range(record.facts["models"])),
        place_of_image=place_of_image,
        num_places=int(place_of_image.max(initial=-1)) + 1,
        key=key,
    )


def fates_of_imported(names: "pd.Series[str]", imported: ImportedModels) -> pd.DataFrame:
    """What became of each usable photo, as `sfm.outcome.describe_files` takes it."""
    model = model_of_image(names, imported.folders)
    status = np.where(model >= 0, "registered", "unregistered")
    reason = np.where(model >= 0, "", "in no imported model")
    return pd.DataFrame(
        {"status": status, "reason": reason, "model": model, "place": imported.place_of_image}
    )


def _verified_pairs(database: Path, collection: Collection, config: GraphConfig) -> Int[np.ndarray, "p 2"]:
    """Rows (image_id - 1) of the usable photos of each pair that the database trusts."""
    table = read_pairs(database)
    row_of = pd.Series(range(len(collection.usable)), index=collection.usable["name"])
    trusted = is_trusted(table, config.min_inliers)
    rows = pd.DataFrame({name: table.loc[trusted, name].map(row_of) for name in ("name1", "name2")})
    return rows.dropna().to_numpy(dtype=np.int64)


def _places(
    folders: Sequence[Path], pairs: Int[np.ndarray, "p 2"], collection: Collection
) -> Int[np.ndarray, " n"]:
    row_of = {name: row for row, name in enumerate(collection.usable["name"])}
    links = [pairs]
    for folder in folders:
        rows = np.array([row_of[name] for name in load_model(folder / ARRAYS).names])
        links.append(np.column_stack([np.full(len(rows) - 1, rows[0]), rows[1:]]))
    return number_places(np.concatenate(links), len(row_of))


def _found(
    folders: Sequence[Path],
    results: Sequence[BatchResult],
    place_of_image: Int[np.ndarray, " n"],
    collection: Collection,
) -> Iterator[FoundModel]:
    row_of = {name: row for row, name in enumerate(collection.usable["name"])}
    sizes = np.bincount(place_of_image + 1)[1:]
    error_px = {result.name: result.facts.get("error_px", 0.0) for result in results}
    for folder in folders:
        model = load_model(folder / ARRAYS)
        place = int(place_of_image[row_of[model.names[0]]])
        facts = ModelFacts(
            way="imported",
            images=model.num_images,
            registered_share=model.num_images / int(sizes[place]),
            points=model.num_points,
            track_length=model.num_observations / max(model.num_points, 1),
            observations=model.num_observations / model.num_images,
            reprojection_error_px=error_px[folder.name],
            seconds=0.0,
        )
        yield FoundModel(folder=folder, place=place, part=0, facts=asdict(facts))


def _require_models(source: Path, collection: Collection, results: Sequence[BatchResult]) -> None:
    """ValueError where a model is refused, or none can be read that has points and usable photos."""
    for result in results:
        if "refused" in result.facts:
            raise ValueError(f"models {source}: {result.name}: {result.facts['refused']}")
    if any(result.outputs for result in results):
        return
    if pointless := next((why for result in results if (why := result.facts.get("pointless"))), None):
        raise ValueError(
            f"models {source}: {pointless} in any model; poses are not enough, triangulate points, as "
            "COLMAP's point_triangulator does"
        )
    if missing := _count(results, "missing"):
        first = next(name for result in results for name in result.facts["names"])
        raise ValueError(
            f"models {source}: expected image names below {collection.photos}, got '{first}' and "
            f"{missing - 1} more that are not there; give as PHOTOS the folder that they are relative to"
        )
    why = next(
        result.quarantined.get(0) or result.facts.get("failed") or "only photos that EXIF mirrors"
        for result in results
    )
    raise ValueError(
        f"models {source}: expected a model that can be read, got '{why}'; write it again with COLMAP"
    )


def _why_unused(result: BatchResult) -> str:
    """Why a model was not taken; nothing for one that was."""
    facts = result.facts
    if why := result.quarantined.get(0) or facts.get("failed"):
        return f"cannot be read and is left out: {why}"
    if why := facts.get("pointless"):
        return f"is left out: {why}"
    return ""


def _tell(
    source: Path, collection: Collection, results: Sequence[BatchResult], database: Path | None
) -> None:
    if missing := _count(results, "missing"):
        names = [name for result in results for name in result.facts["names"]][:3]
        logger.warning(
            "models %s: %d images are no usable photos of %s and are left out: %s%s",
            source,
            missing,
            collection.photos,
            ", ".join(names),
            ", ..." if missing > len(names) else "",
        )
    for result in results:
        if why := _why_unused(result):
            logger.warning("models %s: %s %s", source, result.name, why)
        if what := result.facts.get("frames"):
            logger.warning("models %s: %s is brought to the stored photos: %s", source, result.name, what)
        if mirrored := result.facts.get("mirrored"):
            logger.warning(
                "models %s: %s: %d photos that EXIF mirrors are left out, '%s' the first",
                source,
                result.name,
                len(mirrored),
                mirrored[0],
            )
    if database is None:
        logger.warning(
            "models %s: no database lies beside them, so models that share no photo are taken for different "
            "places, even if two of them show the same one",
            source,
        )


def _count(results: Sequence[BatchResult], name: str) -> int:
    return sum(result.facts[name] for result in results)
