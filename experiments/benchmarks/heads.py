"""Local heads, and what teaches them, against each other on the network of a finished run.

A recipe is a list of settings laid over protocol `small-local`; a TOML file names them. Each head is taught
on the same frozen network and the tracks of its run, so nothing but local features differs: of the settings
those of `train.network.local` and `train.local` count, without `train.local.sfm`. It is judged by held-out
crops and retaken crops, re-ranked by its features, beside SIFT and no re-ranking, and by what it attends to
(`attention`). With `--purpose choose` places are asked for that a run does not report.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from cnnimretrieval.local.pyramid import PyramidConfig
from cnnimretrieval.local.store import read_local
from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.local.settings import LocalTrainingConfig
from cnnimretrieval.training.local.training import Lessons, learn_local, read_lessons, teaching_models
from cnnimretrieval.training.settings.train_config import TrainConfig
from experiments.benchmarks.attention import attention_ratios, held_out_rows
from experiments.benchmarks.material.finished import Finished, finished, search_arguments
from experiments.benchmarks.material.recipes import read_recipes
from experiments.benchmarks.material.reranked import Sources, rerank
from experiments.benchmarks.measuring.measure import print_table, timed
from experiments.commands import listing
from experiments.settings import protocol
from groundwork.files import write_json

_PROTOCOL = "small-local"
_RECIPES = Path(__file__).with_suffix(".toml")
_KINDS = ("crop", "retaken")
_JUDGES = ("tracks", "place")
_HEADER = (
    "head",
    *(f"{kind}, by {judge}" for kind in _KINDS for judge in _JUDGES),
    "ms a query",
    "bytes a photo",
    "attention",
    "taught in s",
)


def main(words: Sequence[str] | None = None) -> int:
    """Teach, measure, print the table, and write it to OUT/heads.json."""
    parser = search_arguments(__doc__)
    parser.add_argument("--recipes", type=Path, default=_RECIPES, help="TOML file [%(default)s]")
    parser.add_argument("--only", nargs="+", metavar="RECIPE", help="these, of the file")
    parser.add_argument("--workers", type=int, default=1, help="processes [%(default)s]")
    given = parser.parse_args(words)
    try:
        recipes = read_recipes(given.recipes, given.only)
        configs = {
            name: protocol.read(_PROTOCOL, [*recipes.all, *own]).resolve(TrainConfig, "train")
            for name, own in recipes.recipes.items()
        }
        pyramid = listing.pyramid(given.local_set or [], asked=True)
        run = finished(given.work, given.workers, unseen=given.unseen, purpose=given.purpose)
        pairs = given.work / "pairs"
        files = teaching_models(pairs, LocalTrainingConfig())
    except (OSError, ValueError) as error:
        parser.error(str(error))
    lessons = read_lessons(pairs, run.descriptions.collection, files, device="cpu", workers=given.workers)
    attended = [row for row in held_out_rows(run.test.table, given.purpose) if row in lessons.seen]
    judge = _Judge(run, pyramid, given.out, given.every, given.workers)
    rows = [
        ("none", *judge.scores(run.network, ""), "", "", ""),
        ("SIFT", *judge.scores(run.network, "spatial:features=sift"), "", "", ""),
    ]
    for name, config in configs.items():
        network, took = timed(partial(_taught, run.network, lessons, config))
        out = given.out / name
        save(network, out / "model")
        scores = judge.scores(network, "spatial:features=local", out)
        ratios = attention_ratios(network, lessons, attended, pyramid.image_size)
        size = read_local(out).bytes_a_photo
        rows.append((name, *scores, f"{size:,.0f}", f"{np.median(ratios):.2f}", f"{took.cpu:.0f}"))
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    print(judge)
    print_table(_HEADER, rows)
    write_json(given.out / "heads.json", [_HEADER, *rows])
    return 0


def _taught(network: RetrievalNetwork, lessons: Lessons, config: TrainConfig) -> RetrievalNetwork:
    """The same network with the head of a recipe, taught."""
    headed = network.with_local(config.network.local)
    learn_local(headed, lessons, config.local, config.seed)
    return headed.eval()


class _Judge:
    """Re-ranks the held-out queries of a run, described once."""

    def __init__(self, run: Finished, pyramid: PyramidConfig, out: Path, every: int, workers: int) -> None:
        self._run, self._pyramid, self._out, self._workers = run, pyramid, out, workers
        self._asked = [run.asked(kind, every) for kind in _KINDS]

    def __str__(self) -> str:
        counts = " and ".join(f"{len(asked.requests)} {asked.kind} queries" for asked in self._asked)
        places = len({place for asked in self._asked for place in asked.places})
        return f"{counts} of {places} places, {len(self._run.names):,} photos"

    def scores(self, network: RetrievalNetwork, setting: str, out: Path | None = None) -> tuple[str, ...]:
        """The mAP of each kind of query by each judge, and the processor time of a query in ms."""
        run = replace(self._run, network=network)
        sources = Sources(run, self._pyramid, out or self._out, self._workers)
        found = [rerank(run, asked, setting, sources) for asked in self._asked]
        maps = (f"{one.maps[judge]:.4f}" for one in found for judge in _JUDGES)
        return (*maps, f"{np.mean([one.cpu_ms for one in found]):.0f}")


if __name__ == "__main__":
    sys.exit(main())
