"""Recipes of a training against each other: each learns for the same time, on photos of your own.

Starts from a finished WORK/sfm. A recipe is a list of settings laid over protocol `small`; a TOML file names
them, and without one positives, pooling and loss are varied one at a time. Every cell, a recipe and a seed,
learns as `train` does, for as many epochs or for the same processor time, and is scored as `train` scores its
epochs, by crops and retaken crops of places set aside to choose by, through the initial network's whitening:
nothing is looked at that is reported. A seed has a split of its own, the same for all recipes, so differences
are paired by place, with a bootstrap interval over the places of all seeds. Cells that are done are not done
again; descriptors are shared among cells.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnimretrieval.evaluation.heldout import DETAILS
from cnnimretrieval.evaluation.paired import Difference, paired_difference
from experiments.benchmarks.contenders.choice_cell import Cell, run_cell
from experiments.benchmarks.material.recipes import read_recipes
from experiments.benchmarks.measuring.choice_plot import plot
from experiments.benchmarks.measuring.measure import arguments, print_table
from experiments.initial import with_descriptors
from experiments.settings import protocol
from experiments.settings.run_config import RunConfig
from groundwork.executors import LocalExecutor
from groundwork.files import write_json
from groundwork.photo_source import read_source
from pairs.mine import MineConfig, mine
from pairs.split import SplitConfig

# Nothing is reported here, so as many places as that takes are set aside to choose by.
_SPLIT = SplitConfig(choosing_share=0.3)
_RECIPES = Path(__file__).with_suffix(".toml")


def main(words: Sequence[str] | None = None) -> int:
    """Do the cells that are not done, print the table, write it to OUT/choices.json and OUT/choices.svg."""
    parser = arguments(__doc__)
    parser.add_argument("sfm", type=Path, help="folder that reconstruct wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for cells and what they share")
    parser.add_argument("--recipes", type=Path, default=_RECIPES, help="TOML file [%(default)s]")
    parser.add_argument("--backbone", default="squeezenet1_1", help="[%(default)s]")
    parser.add_argument("--weights", default="pretrained", help="of the backbone [%(default)s]")
    parser.add_argument("--image-size", type=int, default=224, help="longest side in px [%(default)s]")
    parser.add_argument("--seconds", type=float, default=60.0, help="to learn in, at most [%(default)s]")
    parser.add_argument("--tuples", type=int, default=120, help="of an epoch [%(default)s]")
    parser.add_argument("--pool", type=int, default=300, help="images to mine in [%(default)s]")
    parser.add_argument("--seeds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--only", nargs="+", metavar="RECIPE", help="these, compared with the first")
    parser.add_argument("--workers", type=int, default=2, help="cells at a time [%(default)s]")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], help="KEY=VALUE for all cells"
    )
    given = parser.parse_args(words)
    try:
        recipes = read_recipes(given.recipes, given.only)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    common = [
        f'train.network.backbone="{given.backbone}"',
        f"train.loop.image_size={given.image_size}",
        f"train.loop.tuples_per_epoch={given.tuples}",
        f"train.loop.pool_size={given.pool}",
        "train.whitening.pairs_per_query=1",
        *recipes.all,
        *given.overrides,
    ]
    # Cells at a time are of different splits: the first of a split describes its photos for the others.
    cells = [
        _cell(given, name, seed, [*common, *own])
        for name, own in recipes.recipes.items()
        for seed in range(given.seeds)
    ]
    results = []
    for scores in _scored(cells, given.workers):
        results.append(scores)
        print(f"{scores['recipe']}, seed {scores['seed']}: {scores['map']:.4f}", file=sys.stderr)
    names = list(recipes.recipes)
    against = {name: _against(names[0], name, results) for name in names[1:]}
    kinds = [f"{kind} against {names[0]}" for kind in DETAILS]
    header = (
        "recipe",
        "mAP of details",
        f"against {names[0]}",
        "places",
        *kinds,
        "by training",
        "steps",
        "cpu s",
    )
    rows = [_row(name, results, against.get(name)) for name in names]
    print_table(header, rows)
    write_json(given.out / "choices.json", {"cells": results, "table": [header, *rows]})
    overall = {name: found for name, (found, *_) in against.items()}
    plot(overall, names[0], given.out / "choices.svg")
    return 0


def _scored(cells: Sequence[Cell], workers: int) -> Iterator[dict[str, Any]]:
    """The scores of the cells in their order; `workers` child processes, or none for one."""
    if workers == 1:
        yield from map(run_cell, cells)
        return
    with LocalExecutor(workers) as executor:
        for future in [executor.submit(run_cell, cell) for cell in cells]:
            yield future.result()


def _cell(given: Any, name: str, seed: int, overrides: Sequence[str]) -> Cell:
    """The cell, with what it shares with others made: the pairs of its seed, descriptors for m1."""
    config = protocol.read(protocol.DEFAULT, overrides, seed=seed, weights=given.weights).resolve(RunConfig)
    pairs, photos = given.out / f"pairs-{seed}", read_source(given.sfm).folder
    mine(given.sfm, pairs, MineConfig(seed=seed, split=_SPLIT))
    descriptors = given.out / "initial"
    mining = with_descriptors(config, photos, given.sfm, descriptors, device="cpu", workers=0)
    return Cell(
        recipe=name,
        seed=seed,
        seconds=given.seconds,
        config=config.model_copy(update={"pairs": mining}),
        sfm=given.sfm,
        pairs=pairs,
        out=given.out,
    )


def _of(
    results: Sequence[Mapping[str, Any]], recipe: str, when: str, kinds: Sequence[str] = DETAILS
) -> dict[tuple[int, int], float]:
    """The mAP by seed and place, mean over the kinds of query that the place has."""
    found: dict[tuple[int, int], list[float]] = {}
    for scores in results:
        for kind in kinds if scores["recipe"] == recipe else ():
            for place, value in scores[when].get(kind, ()):
                found.setdefault((scores["seed"], place), []).append(value)
    return {key: sum(values) / len(values) for key, values in found.items()}


def _difference(a: Mapping[tuple[int, int], float], b: Mapping[tuple[int, int], float]) -> Difference:
    """B - A over the places of all seeds; a place of two seeds, which have other queries, is two."""
    both = sorted(a.keys() & b.keys())
    one, other = (np.array([of[key] for key in both]) for of in (a, b))
    return paired_difference(one, other, np.arange(len(both)), "places")


def _against(first: str, name: str, results: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """What a recipe has above the first: by all details, then by each kind of them."""
    return [
        _difference(_of(results, first, "after", kinds), _of(results, name, "after", kinds))
        for kinds in (DETAILS, *((kind,) for kind in DETAILS))
    ]


def _row(
    name: str, results: Sequence[Mapping[str, Any]], against: Sequence[Difference] | None
) -> tuple[str, ...]:
    own = [scores for scores in results if scores["recipe"] == name]
    trained = _difference(_of(own, name, "before"), _of(own, name, "after"))
    overall, *by_kind = map(_with_interval, against) if against else [""] * (1 + len(DETAILS))
    return (
        name,
        f"{np.mean([scores['map'] for scores in own]):.4f}",
        overall,
        f"{against[0].better} better, {against[0].worse} worse" if against else "",
        *by_kind,
        _with_interval(trained),
        f"{np.mean([scores['steps'] for scores in own]):.0f}",
        f"{np.mean([scores['seconds'] for scores in own]):.0f}",
    )


def _with_interval(found: Difference) -> str:
    if found.low is None or found.high is None:
        return f"{found.mean:+.4f}"
    return f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


if __name__ == "__main__":
    sys.exit(main())
