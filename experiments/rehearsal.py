"""What a run would do, without doing it: stages with their state, data, space and expected hours."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnimretrieval.downloads.catalogue import find
from cnnimretrieval.downloads.download import free_bytes, is_present
from experiments import effort, manifest, pipeline
from experiments.effort import Effort
from experiments.settings.protocol import Protocol
from experiments.settings.recipe import Recipe, Target
from experiments.settings.run_config import RunConfig
from experiments.sizes import size
from groundwork.folder import list_files, usable_names
from groundwork.records import last_done, records_in

# Section of the settings, folder in WORK, name of the record that its stage leaves last.
_STAGES = (
    ("sfm", pipeline.SFM, "images", "reconstruct"),
    ("pairs", pipeline.PAIRS, "mine", "mine"),
    ("train", pipeline.MODEL, "train", "train"),
)


@dataclass(frozen=True, kw_only=True)
class _Collection:
    num_files: int
    num_bytes: int


def of_photos(photos: Path, work: Path, protocol: Protocol, *, device: str, workers: int) -> str:
    """What `run PHOTOS --out WORK` would do."""
    config = protocol.resolve(RunConfig)
    collection = _count(photos)
    hours = {
        "reconstruct": effort.reconstruction_effort(collection.num_files, workers),
        "mine": Effort(hours={}),
        "train": effort.training_effort(config, collection.num_files, device=device, workers=workers),
    }
    lines = [
        f"{photos}: {collection.num_files:,} files, {size(collection.num_bytes)}",
        f"{work}: free {size(free_bytes(work))}",
        f"settings: {protocol.source}; device: {device}; processes: {workers}",
    ]
    lines += [f"  {stage:<12} {_hours(hours[stage]):>9}  {state}" for stage, state in _states(work, config)]
    return "\n".join([*lines, "h: hours, estimated"])


def of_row(work: Path, protocol: Protocol, recipe: Recipe, data: Path) -> str:
    """What `run --protocol ROW --data DIR` would do."""
    target = protocol.target
    lines = [f"{protocol.source}: {target.title if target else 'a row of your own'}"]
    for name in recipe.downloads:
        one = find(name)
        state = "there" if is_present(one, data) else "to come"
        lines.append(f"  data   {state:<8} {size(one.about_bytes):>8}  {name}")
    try:
        parts = effort.published_effort(protocol.resolve(RunConfig), recipe).hours
    except ValueError as error:
        parts = {}
        lines.append(f"  hours  unknown: {error}")
    lines += [f"  stage  {name:<10} {_number(hours):>6} h" for name, hours in parts.items()]
    lines += [f"  target {row}" for row in _targets(target)]
    return "\n".join([*lines, f"written to {work}; h: hours of one P100, estimated"])


def _targets(target: Target | None) -> Iterator[str]:
    if target is None:
        return
    for key, score in target.scores.items():
        yield f"{key:<17} {score:5.1f} +- {target.tolerance:g} mAP"
    if target.note:
        yield f"({target.note})"


def _states(work: Path, config: RunConfig) -> Iterator[tuple[str, str]]:
    """Each stage and whether it is done, by the records in `work` and the settings of its last run."""
    former, redo = _former_settings(work), ""
    # Only a run that reached its end says in its manifest by which settings.
    done = "done, if the photos are the same" if former else "done, if photos and settings are the same"
    for section, folder, record, stage in _STAGES:
        changed = sorted(_changed(former.get(section, {}), config.model_dump(mode="json")[section], section))
        redo = redo or (f"settings changed: {', '.join(changed)}" if former and changed else "")
        if not _is_whole(work / folder, record):
            yield stage, "begun" if any(records_in(work / folder)) else "to do"
        else:
            yield stage, f"to redo, {redo}" if redo else done


def _former_settings(work: Path) -> Mapping[str, Any]:
    try:
        return manifest.load(work).config
    except (OSError, ValueError):
        return {}


def _changed(old: Any, new: Any, key: str) -> Iterator[str]:
    """Dotted keys of the settings that differ."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        if old != new:
            yield key
        return
    for name in {*old, *new}:
        yield from _changed(old.get(name), new.get(name), f"{key}.{name}")


def _is_whole(folder: Path, stage: str) -> bool:
    """Whether the record of `stage` is there with all the files it lists."""
    return last_done(folder, stage) is not None


def _count(photos: Path) -> _Collection:
    files = list_files(photos)
    return _Collection(num_files=len(usable_names(files)), num_bytes=int(files["size"].sum()))


def _hours(one: Effort | None) -> str:
    if one is None:
        return "? h"
    return f"{_number(one.total)} h"


def _number(hours: float) -> str:
    """Two digits: nobody knows it better."""
    if hours < 0.005:
        return "< 0.01"
    return f"{hours:,.0f}" if hours >= 9.5 else f"{hours:.2g}"
