"""What a reconstruction of 10^6 and 10^7 photos would take, by the costs of a finished run.

Reads the processor seconds that the stages of WORK/sfm recorded in stats.json, the bytes that lie there, and
how many candidate pairs and mapped components came of a photo. Everything grows with the photos, except for
the search of nearest neighbours, which grows with their square: it is timed here on random descriptors of the
run's length. The collection is taken to be like the finished run's, with the same share of photos that match;
components that become too large are split, so that mapping stays linear. Where a stage recorded no processor
seconds, its wall-clock seconds stand for them. Prints a Markdown table; there is no goal to miss.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import ceil
from pathlib import Path

import numpy as np

from experiments.benchmarks.measuring.measure import arguments, print_table
from groundwork.files import read_json
from sfm.neighbours import neighbour_pairs

_DAY = 86_400.0
_FULL_BATCH = {"scan": 128, "features": 256, "vlad": 128, "matching": 1000}


@dataclass(frozen=True, kw_only=True)
class UnitCosts:
    """What a finished run took: processor seconds, bytes and tasks of each stage a photo of the collection.

    Attributes:
        photos: usable photos of the run.
        cpu_seconds: of each linear stage a photo.
        bytes_kept: that each stage leaves on disk a photo.
        pairs: candidate pairs a photo.
        components: that are mapped, a photo.
        keypoints: of a photo.
        dim: length of the descriptors that candidates come from.

    """

    photos: int
    cpu_seconds: dict[str, float]
    bytes_kept: dict[str, float]
    pairs: float
    components: float
    keypoints: float
    dim: int


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What one stage takes: days of one core, bytes kept, and tasks."""

    core_days: float
    gigabytes: float
    tasks: int


def main(words: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = arguments(__doc__)
    parser.add_argument("sfm", type=Path, metavar="WORK/sfm", help="folder of a finished reconstruction")
    parser.add_argument("--photos", type=int, nargs="+", default=[10**6, 10**7], help="[1000000 10000000]")
    parser.add_argument("--part", type=int, default=16_384, help="photos searched among [%(default)s]")
    given = parser.parse_args(words)
    costs = read_costs(given.sfm)
    search = search_seconds(given.part, costs.dim)
    columns = [project(costs, search / given.part**2, size) for size in given.photos]
    header = [f"{size:,}: {what}" for size in given.photos for what in ("core-days", "GB", "tasks")]
    rows = [[stage, *chain(*(_text(column[stage]) for column in columns))] for stage in columns[0]]
    rows.append(["all", *chain(*(_text(_total(column)) for column in columns))])
    print(
        f"by {costs.photos:,} photos in {given.sfm}: {costs.pairs:.1f} candidate pairs and "
        f"{costs.keypoints:,.0f} keypoints a photo"
    )
    print_table(("stage", *header), rows)
    for size in given.photos:
        print(f"{size:,}: {128 * costs.keypoints * size / 1e9:,.0f} GB of descriptors until matching ends")
    return 0


def read_costs(sfm: Path) -> UnitCosts:
    """Unit costs of a finished run. ValueError where it was too small for nearest neighbours."""
    stats = read_json(sfm / "stats.json")
    stages = stats["stages"]
    photos = int(stages["scan"]["usable"])
    if "vlad" not in stages:
        raise ValueError(
            f"projection {sfm}: expected a run that chose candidates by nearest neighbours, got one that "
            "tried every pair; give a larger collection"
        )
    # Stages of one process record no processor time: their wall-clock time is that.
    seconds = {stage: facts.get("cpu_seconds", facts["seconds"]) for stage, facts in stages.items()}
    parts = {
        "scan": ["collection.parquet", "scan"],
        "features": ["features/shard-*"],
        "vlad": ["features/vlad/rows-*", "features/vlad.npy"],
        "candidates": ["candidates.parquet"],
        "matching": ["matches"],
        "graph": ["graph.parquet"],
        "mapping": ["mapping"],
    }
    kept = {stage: sum(_bytes_below(sfm, name) for name in names) for stage, names in parts.items()}
    mapped = len(list((sfm / "mapping" / "done").iterdir()))
    return UnitCosts(
        photos=photos,
        cpu_seconds={stage: value / photos for stage, value in seconds.items() if stage != "candidates"},
        bytes_kept={stage: value / photos for stage, value in kept.items()},
        pairs=stages["candidates"]["pairs"] / photos,
        components=mapped / photos,
        keypoints=stages["features"]["keypoints"] / photos,
        dim=int(stages["vlad"]["dim"]),
    )


def project(costs: UnitCosts, search: float, photos: int) -> dict[str, Effort]:
    """Effort of each stage; `search` is in seconds by the square of the photos."""
    tasks = {
        "scan": ceil(photos / _FULL_BATCH["scan"]),
        "features": ceil(photos / _FULL_BATCH["features"]),
        "vlad": ceil(photos / _FULL_BATCH["vlad"]),
        "matching": ceil(costs.pairs * photos / _FULL_BATCH["matching"]),
        "mapping": round(costs.components * photos),
    }
    days = {stage: seconds * photos / _DAY for stage, seconds in costs.cpu_seconds.items()}
    days["candidates"] = search * photos**2 / _DAY
    stages = ("scan", "features", "vlad", "candidates", "matching", "graph", "mapping")
    return {
        stage: Effort(
            core_days=days.get(stage, 0.0),
            gigabytes=costs.bytes_kept.get(stage, 0.0) * photos / 1e9,
            tasks=tasks.get(stage, 1),
        )
        for stage in stages
    }


def search_seconds(part: int, dim: int) -> float:
    """Processor seconds of the nearest-neighbour search among random descriptors."""
    vectors = np.random.default_rng(0).standard_normal((part, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    started = time.process_time()
    neighbour_pairs(vectors, np.ones(part, dtype=np.bool_), 12)
    return time.process_time() - started


def _total(column: Mapping[str, Effort]) -> Effort:
    return Effort(
        core_days=sum(effort.core_days for effort in column.values()),
        gigabytes=sum(effort.gigabytes for effort in column.values()),
        tasks=sum(effort.tasks for effort in column.values()),
    )


def _text(effort: Effort) -> list[str]:
    return [f"{effort.core_days:,.2f}", f"{effort.gigabytes:,.1f}", f"{effort.tasks:,}"]


def _bytes_below(folder: Path, pattern: str) -> int:
    found = [
        file for path in folder.glob(pattern) for file in ([path] if path.is_file() else path.rglob("*"))
    ]
    return sum(file.stat().st_size for file in found if file.is_file())


if __name__ == "__main__":
    sys.exit(main())
