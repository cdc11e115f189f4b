"""Which positives, pooling and loss: each choice trained for the same time, on photos of your own.

Starts from a finished WORK/sfm. One axis at a time is varied around m3, GeM and triplet, all else being that
of protocol `small`. Every cell trains for the same processor time and is scored by the mAP of crop queries of
places set aside to choose by, with the whitening learned from the pairs at hand. A
seed has a split of its own, the same for all choices, so differences are taken within a seed. Cells that are
done are not done again.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.choice_cell import Cell, run_cell
from experiments.benchmarks.measure import arguments, print_table
from experiments.initial import with_descriptors
from experiments.settings import protocol
from experiments.settings.run_config import RunConfig
from groundwork.executors import LocalExecutor
from groundwork.files import read_json, write_json
from pairs.mine import MineConfig, mine
from pairs.split import SplitConfig

# Nothing is reported here, so as many places as that takes are set aside to choose by.
_SPLIT = SplitConfig(choosing_share=0.3)
# What differs from the first, by name.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "m3-gem-triplet": (),
    "m1": ('pairs.strategy="m1"',),
    "m2": ('pairs.strategy="m2"',),
    "weighted": ('pairs.strategy="weighted"',),
    "mac": ('train.network.pooling="mac"',),
    "spoc": ('train.network.pooling="spoc"',),
    # Of whitened descriptors most distances lie near 1.4: the published 0.75 would push nothing apart.
    "contrastive": ('train.loop.loss="contrastive"', "train.loop.margin=1.2"),
    "multi_similarity": ('train.loop.loss="multi_similarity"',),
}


def main(words: Sequence[str] | None = None) -> int:
    """Do the cells that are not done, print the table, write it to OUT/choices.json."""
    parser = arguments(__doc__)
    parser.add_argument("sfm", type=Path, help="folder that reconstruct wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for cells and what they share")
    parser.add_argument("--backbone", default="squeezenet1_1", help="[%(default)s]")
    parser.add_argument("--weights", default="pretrained", help="of the backbone [%(default)s]")
    parser.add_argument("--image-size", type=int, default=224, help="longest side in px [%(default)s]")
    parser.add_argument("--seconds", type=float, default=30.0, help="to learn in, a cell [%(default)s]")
    parser.add_argument("--tuples", type=int, default=120, help="mined once [%(default)s]")
    parser.add_argument("--pool", type=int, default=300, help="images to mine in [%(default)s]")
    parser.add_argument("--seeds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--only", nargs="+", choices=list(CHOICES), default=list(CHOICES), help="choices")
    parser.add_argument("--workers", type=int, default=2, help="cells at a time [%(default)s]")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], help="KEY=VALUE for all cells"
    )
    given = parser.parse_args(words)
    common = [
        'train.network.pooling="gem"',
        f'train.network.backbone="{given.backbone}"',
        f"train.loop.image_size={given.image_size}",
        f"train.loop.tuples_per_epoch={given.tuples}",
        f"train.loop.pool_size={given.pool}",
        "train.whitening.pairs_per_query=1",
        *given.overrides,
    ]
    cells = [_cell(given, choice, seed, common) for seed in range(given.seeds) for choice in given.only]
    results = []
    for scores in _scored(cells, given.workers):
        results.append(scores)
        print(scores, file=sys.stderr)
    rows = [_row(choice, results, given.only[0]) for choice in given.only]
    header = ("choice", "mAP", "spread", f"against {given.only[0]}", "by training", "tuples")
    print_table(header, rows)
    write_json(given.out / "choices.json", {"cells": results, "table": [header, *rows]})
    return 0


def _scored(cells: Sequence[Cell], workers: int) -> Iterator[dict[str, Any]]:
    """The scores of the cells in their order; `workers` child processes, or none for one."""
    if workers == 1:
        yield from map(run_cell, cells)
        return
    with LocalExecutor(workers) as executor:
        for future in [executor.submit(run_cell, cell) for cell in cells]:
            yield future.result()


def _cell(given: Any, choice: str, seed: int, common: Sequence[str]) -> Cell:
    """The cell, with what it shares with others made: the pairs of its seed, descriptors for m1."""
    overrides = [*common, *CHOICES[choice]]
    config = protocol.read(protocol.DEFAULT, overrides, seed=seed, weights=given.weights).resolve(RunConfig)
    pairs, photos = given.out / f"pairs-{seed}", Path(read_json(given.sfm / "photos.json")["photos"])
    mine(given.sfm, pairs, MineConfig(seed=seed, split=_SPLIT))
    descriptors = given.out / "initial"
    mining = with_descriptors(config, photos, given.sfm, descriptors, device="cpu", workers=0)
    return Cell(
        choice=choice,
        seed=seed,
        seconds=given.seconds,
        config=config.model_copy(update={"pairs": mining}),
        sfm=given.sfm,
        pairs=pairs,
        out=given.out,
    )


def _row(choice: str, results: Sequence[Mapping[str, Any]], default: str) -> tuple[str, ...]:
    """Mean, range and differences over the seeds; the standard error of the difference after it."""
    of = {name: [r for r in results if r["choice"] == name] for name in (choice, default)}
    maps, base = (np.array([r["map"] for r in of[name]]) for name in (choice, default))
    gains = maps - np.array([r["map_before"] for r in of[choice]])
    tuples = [r["tuples"] for r in of[choice]]
    return (
        choice,
        f"{maps.mean():.4f}",
        f"{maps.min():.4f}-{maps.max():.4f}",
        _with_error(maps - base) if choice != default else "",
        _with_error(gains),
        f"{np.mean(tuples):.0f}",
    )


def _with_error(differences: np.ndarray) -> str:
    if len(differences) < 2:
        return f"{differences.mean():+.4f}"
    return f"{differences.mean():+.4f} ({differences.std(ddof=1) / len(differences) ** 0.5:.4f})"


if __name__ == "__main__":
    sys.exit(main())
