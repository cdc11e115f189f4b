"""Reads what a run left in WORK, and keeps account of what is not there."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from groundwork.files import read_json, read_table
from sfm.model import Model, load_model

T = TypeVar("T")
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class RunFiles:
    """The files of one run that the page shows; None, or no models, where a stage has not finished.

    Attributes:
        work: the folder of the run.
        photos: the folder of the collection.
        manifest: manifest.json.
        sfm: sfm/stats.json.
        pairs: pairs/stats.json.
        train: how training went, as in metrics.json.
        evaluation: scores of the rows, as in metrics.json.
        images: sfm/images.parquet.
        tried: `origin, inliers` of sfm/matches/pairs.parquet.
        trusted: `origin` of sfm/graph.parquet.
        described: sfm/models.parquet, which older runs have not.
        positives: pairs/positives.parquet.
        tuples: model/tuples.parquet.
        rankings: model/rankings.parquet.
        models: every model with its name, the largest first.
        missing: a sentence for each part of the page that has nothing to show.

    """

    work: Path
    photos: Path | None
    manifest: Json | None
    sfm: Json | None
    pairs: Json | None
    train: Json | None
    evaluation: Json | None
    images: pd.DataFrame | None
    tried: pd.DataFrame | None
    trusted: pd.DataFrame | None
    described: pd.DataFrame | None
    positives: pd.DataFrame | None
    tuples: pd.DataFrame | None
    rankings: pd.DataFrame | None
    models: tuple[tuple[str, Model], ...]
    missing: tuple[str, ...]


def read_run(work: Path) -> RunFiles:
    """Everything that is there. FileNotFoundError when `work` holds nothing of a run."""
    missing: list[str] = []

    def part(path: str, what: str, read: Callable[[Path], T]) -> T | None:
        try:
            return read(work / path)
        except FileNotFoundError:
            missing.append(f"{path}: {what}")
            return None

    sfm = part("sfm/stats.json", "what became of the photos is not known", read_json)
    images = part("sfm/images.parquet", "no list of the photos", read_table)
    models = _read_models(work / "sfm" / "models", images)
    if not models:
        missing.append("sfm/models: there is no 3D model to draw")
    pairs = part("pairs/stats.json", "what was mined is not counted", read_json)
    positives = part("pairs/positives.parquet", "there are no positives to show", read_table)
    # A training that was started by itself leaves its scores beside the network only.
    learned = part("metrics.json", "the run as a whole has not finished", read_json)
    if learned is None:
        learned = part("model/metrics.json", "there are no scores", read_json) or {}
    tuples = part("model/tuples.parquet", "no hard negatives of the last epoch", read_table)
    rankings = part("model/rankings.parquet", "there are no rankings to show", read_table)
    manifest = part("manifest.json", "settings, versions and machine are not recorded", read_json)
    if sfm is None and pairs is None and not learned:
        raise FileNotFoundError(
            f"report {work}: expected the folder of a run, got one without sfm, pairs and model; "
            "give the folder that `run` wrote"
        )
    return RunFiles(
        work=work,
        photos=_photos(work),
        manifest=manifest,
        sfm=sfm,
        pairs=pairs,
        train=learned.get("train"),
        evaluation=learned.get("evaluation"),
        images=images,
        tried=_columns(work / "sfm" / "matches" / "pairs.parquet", ["origin", "inliers"]),
        trusted=_columns(work / "sfm" / "graph.parquet", ["origin"]),
        described=_columns(work / "sfm" / "models.parquet", None),
        positives=positives,
        tuples=tuples,
        rankings=rankings,
        models=models,
        missing=tuple(missing),
    )


def _photos(work: Path) -> Path | None:
    for path in (work / "pairs" / "photos.json", work / "sfm" / "photos.json"):
        if path.is_file():
            return Path(read_json(path)["photos"])
    return None


def _columns(path: Path, columns: list[str] | None) -> pd.DataFrame | None:
    """Some columns of a table, or all; None where there is no such file."""
    return pd.read_parquet(path, columns=columns) if path.is_file() else None


def _read_models(folder: Path, images: pd.DataFrame | None) -> tuple[tuple[str, Model], ...]:
    """Models by falling size, with their places, which only the table of images knows."""
    place_of: dict[str, int] = {}
    if images is not None and "place" in images:
        place_of = dict(zip(images["name"], images["place"].tolist(), strict=True))
    paths = sorted(folder.glob("*/arrays.npz"), key=lambda path: int(path.parent.name))
    found = []
    for path in paths:
        model = load_model(path)
        place = place_of.get(model.names[0], model.place)
        found.append((path.parent.name, replace(model, place=place)))
    return tuple(sorted(found, key=lambda named: -named[1].num_images))
