"""One component to its 3D models, in a child process: the mapper, and what is tried where it finds little."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from groundwork.child import Limits
from groundwork.files import UNFINISHED
from groundwork.settings import Settings
from sfm.components import Component
from sfm.featurestore import FeatureStore
from sfm.matching import read_inliers
from sfm.model import ARRAYS, save_model

if TYPE_CHECKING:
    from sfm.colmap.calls import ModelSummary, PairGeometry


class MappingConfig(Settings):
    """How a component is reconstructed."""

    min_model_size: int = Field(default=3, ge=2, description="smaller models are dropped")
    min_points: int = Field(
        default=15, ge=1, description="3D points that an image of a model sees on average, at least"
    )
    init_min_inliers: int = Field(default=100, ge=15, description="of the pair that a model starts from")
    init_min_angle_deg: float = Field(default=16.0, gt=0, lt=90, description="between that pair's rays")
    relaxed_min_inliers: int = Field(
        default=30, ge=15, description="of the first pair, in a start's second and third try"
    )
    relaxed_min_angle_deg: float = Field(
        default=4.0, gt=0, lt=90, description="in a start's second and third try"
    )
    starts: int = Field(
        default=3,
        ge=1,
        le=100,
        description="of the mapper, by other seeds, where it registers little; the best counts",
    )
    enough_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="of a component's images; with as many registered, no other start is tried",
    )
    global_fallback: bool = Field(
        default=True, description="whether the global mapper has the last try where no model was found"
    )
    global_max_error_px: float = Field(
        default=2.0, gt=0, description="mean reprojection error of a model of the global mapper, at most"
    )
    global_min_points: int = Field(
        default=30, ge=1, description="as min_points, of a model of the global mapper"
    )
    global_ba_ratio: float = Field(default=1.3, gt=1, description="growth between global bundle adjustments")
    global_ba_refinements: int = Field(default=5, ge=1, description="rounds of one, at most")
    max_minutes: float = Field(default=240.0, gt=0, description="for a component; then it is given up")
    max_memory_gb: float = Field(default=32.0, gt=0, description="for a component; then it is given up")

    @property
    def limits(self) -> Limits:
        """What the task of a component may take."""
        return Limits(seconds=60.0 * self.max_minutes, memory_bytes=int(1e9 * self.max_memory_gb))

    @property
    def deciding(self) -> dict[str, Any]:
        """All that decides how a finished model looks: everything but the limits."""
        return self.model_dump(mode="json", exclude={"max_minutes", "max_memory_gb"})


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """How one model turned out.

    Attributes:
        way: that found it: incremental, relaxed (a narrower first pair), fixed distortion (that pair, and
            no lens distortion estimated) or global.
        images: registered ones.
        registered_share: of the component's images.
        points: 3D points.
        track_length: observations of a point, mean.
        observations: of an image, mean.
        reprojection_error_px: mean over the points, in pixels of the stored photos.
        seconds: that the way took, for all models it found in the component.

    """

    way: str
    images: int
    registered_share: float
    points: int
    track_length: float
    observations: float
    reprojection_error_px: float
    seconds: float


def map_component(
    component: Component, store: FeatureStore, matches: Path, out: Path, config: MappingConfig, seed: int
) -> list[ModelFacts]:
    """Put the component's models into `out`/0, 1, ..., arrays.npz beside COLMAP's files; return their facts.

    Where a model starts decides at times whether there is one. A component of which too little is
    registered is tried again with a narrower first pair; with that pair and the distortion of lenses left as
    it is, which runs away where each of a few photos has a camera of its own, and takes the model with it;
    then all three ways by other seeds. One without a model in the end is tried by the global mapper, whose
    models count only if they explain their images well. Of the tries the one counts that registers most
    images, of those the one with most points, of those the first. Every model of it that is large enough is
    kept.
    """
    # In the child only: pycolmap is heavy, and ends the process when it fails.
    from sfm.colmap import calls as colmap

    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=out.parent) as scratch:
        database = Path(scratch) / "component.db"
        stored = {image.image_id: image for image in store.read(component.image_ids)}
        images = [
            replace(stored[image_id], image_id=number)
            for number, image_id in enumerate(component.image_ids, start=1)
        ]
        cameras = dict(enumerate(component.camera_ids, start=1))
        colmap.write_database(database, images, cameras, _geometries(component, matches))
        best = _Try(models=(), registered=0)
        for number, (way, run) in enumerate(_ways(config, len(images), seed)):
            if way == "global" and best.models:
                break
            started, found = time.perf_counter(), Path(scratch) / str(number)
            run(database, found)
            tried = _judge(found, component, config, way, time.perf_counter() - started)
            best = max(best, tried, key=lambda each: (each.registered, each.points))  # of equals the first
            if best.models and best.registered >= config.enough_share * len(images):
                break
        for number, (folder, _) in enumerate(best.models):
            shutil.move(folder, out / str(number))
    return [facts for _, facts in best.models]


@dataclass(frozen=True, kw_only=True)
class _Try:
    """What one try found: folders of the models that are good enough, and the images in any of them."""

    models: tuple[tuple[Path, ModelFacts], ...]
    registered: int

    @property
    def points(self) -> int:
        return sum(facts.points for _, facts in self.models)


def _ways(
    config: MappingConfig, num_images: int, seed: int
) -> "Iterator[tuple[str, Callable[[Path, Path], None]]]":
    """The tries, in order: how each is called, and what maps a database into a folder."""
    from sfm.colmap import calls as colmap

    strict = (config.init_min_inliers, config.init_min_angle_deg)
    relaxed = (config.relaxed_min_inliers, config.relaxed_min_angle_deg)
    ways = (
        ("incremental", strict, True),
        ("relaxed", relaxed, True),
        ("fixed distortion", relaxed, False),
    )
    for start, (way, (min_inliers, min_angle_deg), refine_distortion) in product(range(config.starts), ways):
        options = colmap.IncrementalOptions(
            seed=(seed + start) % 2**31,
            init_min_inliers=min_inliers,
            init_min_angle_deg=min_angle_deg,
            refine_distortion=refine_distortion,
            min_model_size=config.min_model_size,
            max_models=num_images,
            global_ba_ratio=config.global_ba_ratio,
            global_ba_refinements=config.global_ba_refinements,
        )
        yield way, partial(colmap.map_incrementally, options=options)
    if config.global_fallback:
        yield "global", partial(colmap.map_globally, min_model_size=config.min_model_size, seed=seed)


def _geometries(component: Component, matches: Path) -> "Iterator[tuple[int, int, PairGeometry]]":
    from sfm.colmap import calls as colmap

    number = {image_id: position + 1 for position, image_id in enumerate(component.image_ids)}
    for image_id1, image_id2, kind, inliers in read_inliers(matches, component.pair_table):
        inliers = component.printed.beside(image_id1, image_id2, inliers)
        one, two = number[image_id1], number[image_id2]
        if one < two:
            yield one, two, colmap.PairGeometry(geometry_kind=kind, inliers=inliers)
        else:
            yield two, one, colmap.PairGeometry(geometry_kind=kind, inliers=inliers[:, ::-1])


def _judge(found: Path, component: Component, config: MappingConfig, way: str, seconds: float) -> _Try:
    """The models that are good enough, with their arrays beside them.

    The size is checked here: COLMAP keeps the first model of a database whatever its size, and of some models
    next to no point is left when it has thrown out what does not fit.
    """
    from sfm.colmap import calls as colmap

    models: list[tuple[Path, ModelFacts]] = []
    registered: set[str] = set()
    for folder in sorted(found.iterdir(), key=lambda folder: int(folder.name)):
        summary = colmap.summarise(folder)
        if summary.images < config.min_model_size or summary.observations < config.min_points:
            continue
        if way == "global" and not _is_sane(summary, config):
            continue
        model = colmap.read_reconstruction(folder)
        save_model(model, folder / ARRAYS)
        registered.update(model.names)
        share = summary.images / len(component.image_ids)
        facts = ModelFacts(way=way, registered_share=share, seconds=round(seconds, 3), **asdict(summary))
        models.append((folder, facts))
    return _Try(models=tuple(models), registered=len(registered))


def _is_sane(summary: "ModelSummary", config: MappingConfig) -> bool:
    return (
        summary.reprojection_error_px <= config.global_max_error_px
        and summary.observations >= config.global_min_points
    )
