"""Renders the demo collection: OUT/photos for everybody, OUT/truth.json and OUT/truth/ for tests only."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from experiments.demo.building import add_building
from experiments.demo.cameras import ring
from experiments.demo.design import KINDS, Design, draw_design
from experiments.demo.occluders import with_occluders
from experiments.demo.photograph import photograph
from experiments.demo.scene import Scene, SceneBuilder
from experiments.demo.surroundings import add_surroundings
from experiments.demo.textures import build_atlas
from experiments.demo.truth import DemoTruth, load_truth, observed, sample_surface, true_model, truth_path
from groundwork.batches import Batch
from groundwork.executors import LocalExecutor, SerialExecutor
from groundwork.files import atomic_path, write_json
from groundwork.keys import key_of
from groundwork.settings import Settings
from groundwork.tasks import run_batches
from sfm.model import save_model

# Part of every key: raise it when the pictures change.
RENDERER_VERSION = 1
# Lone photos cost little each; a child process renders a few.
_LONE_SCENES_PER_BATCH = 8


class DemoConfig(Settings):
    """What to render."""

    seed: int = Field(default=1, ge=0)
    places: int = Field(default=14, ge=1, description="Places with several views.")
    min_views: int = Field(default=8, ge=2, description="Fewest views of a place.")
    max_views: int = Field(default=14, ge=2, description="Most views of a place.")
    unrelated: int = Field(default=40, ge=0, description="Photos of scenes that no other photo shows.")
    twins: bool = Field(default=True, description="Whether the last two places share a building.")
    width: int = Field(default=640, ge=64, description="Long side of a photo, px.")
    height: int = Field(default=480, ge=64, description="Short side of a photo, px.")
    px_per_m: float = Field(default=48.0, ge=12, description="Texels per metre of wall.")
    supersampling: int = Field(default=2, ge=1, le=4, description="Rays per pixel in each direction.")
    points_per_square_m: float = Field(default=4.0, gt=0, description="True surface points, for tests.")


@dataclass(frozen=True, kw_only=True)
class ScenePlan:
    """One scene to build and the names of its photos."""

    place: int
    design_seed: int
    surroundings_seed: int
    names: tuple[str, ...]


def render_collection(out: Path, config: DemoConfig, workers: int | None = None) -> DemoTruth:
    """Render the collection into out/photos with `workers` child processes (None: every core; 0: none).

    What is there already is kept, so that a run that was cut off goes on. The pictures depend on the settings
    only, not on the workers. ValueError for settings that contradict each other and for a folder that holds
    photos of other settings.
    """
    plans = plan_scenes(config)
    names = {name for plan in plans for name in plan.names}
    _check_folder(out / "photos", names)
    key = key_of("demo", RENDERER_VERSION, config)
    several = [plan for plan in plans if plan.place < config.places]
    lone = [plan for plan in plans if plan.place >= config.places]
    groups: list[tuple[ScenePlan, ...]] = [(plan,) for plan in several]
    groups += [
        tuple(lone[first : first + _LONE_SCENES_PER_BATCH])
        for first in range(0, len(lone), _LONE_SCENES_PER_BATCH)
    ]
    batches = [Batch(name=f"scenes-{k:03d}", key=key, items=group) for k, group in enumerate(groups)]
    work = partial(_render_batch, out=out, config=config)
    with SerialExecutor() if workers == 0 else LocalExecutor(workers) as executor:
        results = run_batches(work, batches, out, executor, label="Render demo")
    for result in results:
        for reason in result.quarantined.values():
            raise RuntimeError(f"demo {out}: expected every scene rendered, but a worker died: {reason}")
    write_json(
        out / "truth.json",
        {
            "version": RENDERER_VERSION,
            "num_places": config.places,
            "twins": [config.places - 2, config.places - 1] if _has_twins(config) else None,
            "places": {name: plan.place for plan in plans for name in plan.names},
        },
    )
    return load_truth(out)


def plan_scenes(config: DemoConfig) -> tuple[ScenePlan, ...]:
    """All scenes with the names of their photos, which are shuffled: a name says nothing about its place."""
    if config.min_views > config.max_views:
        raise ValueError(
            f"demo: expected min_views <= max_views, got {config.min_views} > {config.max_views}; "
            "lower min_views"
        )
    rng = np.random.default_rng([config.seed, 1])
    views = [int(n) for n in rng.integers(config.min_views, config.max_views + 1, config.places)]
    views += [1] * config.unrelated
    numbers = rng.permutation(sum(views)) + 1
    seeds = rng.integers(2**31, size=(len(views), 2))
    if _has_twins(config):
        seeds[config.places - 1, 0] = seeds[config.places - 2, 0]
    plans, first = [], 0
    for place, count in enumerate(views):
        names = tuple(f"img_{number:04d}.jpg" for number in numbers[first : first + count])
        first += count
        plans.append(
            ScenePlan(
                place=place,
                design_seed=int(seeds[place, 0]),
                surroundings_seed=int(seeds[place, 1]),
                names=names,
            )
        )
    return tuple(plans)


def build_scene(plan: ScenePlan, config: DemoConfig) -> tuple[Scene, Design]:
    """The building of the plan in its surroundings, and the building's design."""
    twin = _has_twins(config) and plan.place == config.places - 1
    kind = KINDS[(plan.place - twin) % len(KINDS)]
    design = draw_design(plan.design_seed, kind)
    # The building's own pieces of stone belong to its design: twins have the same ones.
    builder = SceneBuilder(design.rng(0))
    add_building(builder, design, 0.0, 0.0, config.px_per_m)
    builder.rng = np.random.default_rng([plan.surroundings_seed, 2])
    add_surroundings(builder, plan.surroundings_seed, design.width_m / 2, config.px_per_m)
    return builder.scene(), design


def _has_twins(config: DemoConfig) -> bool:
    return config.twins and config.places >= 2


def _check_folder(photos: Path, names: set[str]) -> None:
    strays = (
        sorted(path.name for path in photos.iterdir() if path.name not in names) if photos.is_dir() else []
    )
    if strays:
        raise ValueError(
            f"demo photos {photos}: expected nothing but the photos to render, got '{strays[0]}'; "
            "choose another folder"
        )


def _render_batch(
    batch: Batch[ScenePlan], *, out: Path, config: DemoConfig
) -> tuple[dict[str, Any], Sequence[Path]]:
    """Render the scenes of a batch; returns their number and the files written."""
    written = [path for plan in batch.items for path in _render_scene(plan, out, config)]
    return {"scenes": len(batch.items)}, written


def _render_scene(plan: ScenePlan, out: Path, config: DemoConfig) -> list[Path]:
    scene, design = build_scene(plan, config)
    atlas = build_atlas(scene.textures)
    rng = np.random.default_rng([config.seed, 3, plan.place])
    cameras = ring(
        rng,
        len(plan.names),
        (config.width, config.height),
        design.width_m,
        design.height_m + 0.6 * design.gable_m,
    )
    points = sample_surface(scene, rng, config.points_per_square_m)
    observations, written = [], []
    for view, (name, camera) in enumerate(zip(plan.names, cameras, strict=True)):
        shot = np.random.default_rng([config.seed, 4, plan.place, view])
        peopled = with_occluders(scene, shot, camera.centre_in_world, np.zeros(3))
        jpeg, seen_quad = photograph(
            peopled, build_atlas(peopled.textures, atlas), camera, shot, config.supersampling
        )
        observations.append(observed(points, scene, camera, seen_quad))
        with atomic_path(out / "photos" / name) as unfinished:
            unfinished.write_bytes(jpeg)
        written.append(out / "photos" / name)
    model = true_model(plan.names, cameras, points, tuple(observations), plan.place)
    save_model(model, truth_path(out, plan.place))
    return [*written, truth_path(out, plan.place)]
