"""Reads what a run left in WORK, and keeps account of what is not there."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from groundwork.files import REMEDY, read_json, read_table
from groundwork.photo_source import SOURCE, PhotoSource
from sfm.model import Model, load_model
from sfm.modelfolder import arrays_of_models

logger = logging.getLogger(__name__)
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
        rounds: counts and scores of each round, of a run of several.
        images: sfm/images.parquet.
        tried: `origin, inliers` of sfm/matches/pairs.parquet.
        trusted: `origin` of sfm/graph.parquet.
        described: sfm/models.parquet, which older runs have not.
        positives: pairs/positives.parquet.
        tuples: model/tuples.parquet, of the last epoch.
        first_tuples: model/tuples-first.parquet, of the first one, which older runs have not.
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
    rounds: list[Json]
    images: pd.DataFrame | None
    tried: pd.DataFrame | None
    trusted: pd.DataFrame | None
    described: pd.DataFrame | None
    positives: pd.DataFrame | None
    tuples: pd.DataFrame | None
    first_tuples: pd.DataFrame | None
    rankings: pd.DataFrame | None
    models: tuple[tuple[str, Model], ...]
    missing: tuple[str, ...]


def read_run(work: Path) -> RunFiles:
    """Everything that is there and whole. FileNotFoundError when `work` holds nothing of a run."""
    parts = _Parts(work)
    sfm = parts.read("sfm/stats.json", "what became of the photos is not known", _read_object)
    images = parts.read("sfm/images.parquet", "no list of the photos", read_table)
    models = _read_models(parts, images)
    pairs = parts.read("pairs/stats.json", "what was mined is not counted", _read_object)
    positives = parts.read("pairs/positives.parquet", "there are no positives to show", read_table)
    # A training that was started by itself leaves its scores beside the network only.
    learned = parts.read("metrics.json", "the run as a whole has not finished", _read_object)
    if learned is None:
        learned = parts.read("model/metrics.json", "there are no scores", _read_object) or {}
    tuples = parts.read("model/tuples.parquet", "no hard negatives of the last epoch", read_table)
    rankings = parts.read("model/rankings.parquet", "there are no rankings to show", read_table)
    manifest = parts.read("manifest.json", "settings, versions and machine are not recorded", _read_object)
    if sfm is None and pairs is None and not learned:
        raise FileNotFoundError(
            f"report {work}: expected the folder of a run, got one without sfm, pairs and model; "
            "give the folder that `run` wrote"
        )
    return RunFiles(
        work=work,
        photos=_photos(parts),
        manifest=manifest,
        sfm=sfm,
        pairs=pairs,
        train=learned.get("train"),
        evaluation=learned.get("evaluation"),
        rounds=learned.get("rounds", []),
        images=images,
        tried=parts.read("sfm/matches/pairs.parquet", "", _columns("origin", "inliers")),
        trusted=parts.read("sfm/graph.parquet", "", _columns("origin")),
        described=parts.read("sfm/models.parquet", "", read_table),
        positives=positives,
        tuples=tuples,
        first_tuples=parts.read("model/tuples-first.parquet", "", read_table),
        rankings=rankings,
        models=models,
        missing=tuple(parts.missing),
    )


class _Parts:
    """Reads the files of a run; `missing` has a sentence for each that is not there or not whole."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.missing: list[str] = []

    def read(self, path: str, lack: str, read: Callable[[Path], T]) -> T | None:
        """What `read` makes of a file; None when that cannot be had.

        `lack` says what the page goes without; empty where the file may be absent without a word.
        """
        try:
            return read(self.work / path)
        except FileNotFoundError:
            if lack:
                self.missing.append(f"{path}: {lack}")
        except (ValueError, IsADirectoryError) as error:
            logger.warning("%s", error)
            self.missing.append(f"{path} is damaged{lack and ': '}{lack}")
        return None


def _read_object(path: Path) -> Json:
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}; {REMEDY}")
    return value


def _columns(*names: str) -> Callable[[Path], pd.DataFrame]:
    return lambda path: read_table(path, list(names))


def _photos(parts: _Parts) -> Path | None:
    for folder in ("pairs", "sfm"):
        source = parts.read(f"{folder}/{SOURCE}", "", PhotoSource.load)
        if source is not None:
            return source.folder
    return None


def _read_models(parts: _Parts, images: pd.DataFrame | None) -> tuple[tuple[str, Model], ...]:
    """Models by falling size, with their places, which only the table of images knows."""
    place_of: dict[str, int] = {}
    if images is not None and "place" in images:
        place_of = dict(zip(images["name"], images["place"].tolist(), strict=True))
    found = []
    for path in arrays_of_models(parts.work / "sfm"):
        model = parts.read(path.relative_to(parts.work).as_posix(), "the model is not drawn", load_model)
        if model is not None:
            name = path.parent.name
            found.append((name, replace(model, place=place_of.get(model.names[0], model.place))))
    if not found:
        parts.missing.append("sfm/models: there is no 3D model to draw")
    return tuple(sorted(found, key=lambda named: -named[1].num_images))
