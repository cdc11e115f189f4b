"""What a reconstruction leaves for its readers: one line about every file, the counts, the models."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from groundwork.files import read_table, write_json, write_table
from groundwork.records import load_done, mark_done, record_of
from groundwork.settings import Values
from sfm.model import ARRAYS, Model, load_model


class ReconstructCounts(Values):
    """Files found and what became of them; `seconds` of all stages."""

    images: int
    rejected: int
    duplicates: int
    registered: int
    models: int
    places: int
    seconds: float


class ReconstructStats(ReconstructCounts):
    """Counts of a reconstruction, as in stats.json.

    Attributes:
        reasons: the rejected and unregistered files by reason.
        engine: where the last stage ran, in words.
        stages: of each stage its seconds, its counts, and what it took (`groundwork.tasks.usage`).

    """

    reasons: dict[str, int]
    engine: str
    stages: dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ReconstructResult:
    """What `reconstruct` leaves in its folder.

    Attributes:
        images: one row a file, by name: `name, status (registered|unregistered|duplicate|rejected), reason,
            model, place (-1: none), width, height (stored pixels), orientation (EXIF), sha256` (of the bytes;
            empty where they could not be read).
        model_folders: a COLMAP model each, with arrays.npz beside it.

    """

    images: pd.DataFrame
    model_folders: tuple[Path, ...]
    stats: ReconstructStats

    @property
    def models(self) -> list[Model]:
        """The models, read from their folders, with their places."""
        place_of = dict(zip(self.images["name"], self.images["place"].tolist(), strict=True))
        models = [load_model(folder / ARRAYS) for folder in self.model_folders]
        return [replace(model, place=place_of[model.names[0]]) for model in models]


def conclude(
    out: Path,
    key: str,
    images: Callable[[], pd.DataFrame],
    model_folders: tuple[Path, ...],
    *,
    places: int,
    stages: Sequence[str],
    engine: str,
) -> ReconstructResult:
    """Write `out`/images.parquet and stats.json, unless they are there with this key.

    `images` makes the table; `stages` are those whose records in `out`/done are shown.
    """
    started = time.perf_counter()
    images_path, stats_path = out / "images.parquet", out / "stats.json"
    if load_done(out, "images", key):
        table = read_table(images_path)
    else:
        table = images()
        write_table(images_path, table)
        stats = _stats(table, len(model_folders), places, _records(out, stages), engine)
        write_json(stats_path, stats.model_dump(mode="json"))
        seconds = time.perf_counter() - started
        mark_done(out, "images", key, seconds=seconds, outputs=[images_path, stats_path])
    return ReconstructResult(
        images=table, model_folders=model_folders, stats=ReconstructStats.load(stats_path)
    )


def model_of_image(names: "pd.Series[str]", folders: Sequence[Path]) -> Int[np.ndarray, " n"]:
    """The model that holds each image, -1 for none; `names` are those of the images by id.

    Of several the one that sees most points in it, then the first.
    """
    found, points, sizes = [pa.array([], pa.string())], [np.empty(0, dtype=np.int64)], []
    for folder in folders:
        model = load_model(folder / ARRAYS)
        found.append(pa.array(model.names, pa.string()))
        points.append(np.bincount(model.track_image, minlength=model.num_images))
        sizes.append(model.num_images)
    row = pc.index_in(pa.chunked_array(found), value_set=pa.array(names, pa.string()))
    rows = row.fill_null(-1).to_numpy().astype(np.int64)
    models = np.repeat(np.arange(len(folders)), sizes)
    # The best comes last, and stays.
    order = np.lexsort((-models, np.concatenate(points)))
    order = order[rows[order] >= 0]
    best = np.full(len(names), -1, dtype=np.int64)
    best[rows[order]] = models[order]
    return best


def describe_files(table: pd.DataFrame, fates: pd.DataFrame) -> pd.DataFrame:
    """One row a file, as `ReconstructResult.images`, from `Collection.table` and the fates of its photos.

    `fates` says `status, reason, model, place` of each usable photo, row r that of image_id r + 1.
    """
    image_id = table["image_id"].to_numpy()
    usable, others = np.flatnonzero(image_id > 0), np.flatnonzero(image_id == 0)
    told = fates.take(image_id[usable] - 1).set_axis(usable)
    untold = table.iloc[others][["status", "reason"]].set_axis(others).assign(model=-1, place=-1)
    every = pd.concat([told, untold]).sort_index().set_axis(table.index)
    columns = ["status", "reason", "model", "place"]
    own = table[["width", "height", "orientation", "sha256"]]
    return pd.concat([table["name"], every[columns], own], axis=1)


def _records(out: Path, stages: Sequence[str]) -> dict[str, dict[str, Any]]:
    records = {stage: record_of(out, stage) for stage in stages}
    return {stage: {"seconds": one.seconds, **one.facts} for stage, one in records.items() if one is not None}


def _stats(
    images: pd.DataFrame, models: int, places: int, stages: dict[str, dict[str, Any]], engine: str
) -> ReconstructStats:
    counts = images["status"].value_counts()
    explained = images.loc[images["status"].isin(("rejected", "unregistered")), "reason"]
    return ReconstructStats(
        images=len(images),
        rejected=int(counts.get("rejected", 0)),
        duplicates=int(counts.get("duplicate", 0)),
        registered=int(counts.get("registered", 0)),
        models=models,
        places=places,
        seconds=round(sum(stage["seconds"] for stage in stages.values()), 3),
        reasons={str(reason): int(number) for reason, number in explained.value_counts().items()},
        engine=engine,
        stages=stages,
    )
