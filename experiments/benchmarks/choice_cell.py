"""One cell of the comparison of choices: a short training, scored by crops of held-out places."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from cnnimretrieval.evaluation.heldout import heldout_test, prove
from cnnimretrieval.networks.network import RetrievalNetwork, build
from cnnimretrieval.training.batches import Batch, load_batches
from cnnimretrieval.training.collection import Collection
from cnnimretrieval.training.collection_whitening import learned_from_pairs
from cnnimretrieval.training.context import Training
from cnnimretrieval.training.descriptions import Descriptions
from cnnimretrieval.training.mining import mine_tuples
from cnnimretrieval.training.optimiser import build_optimizer, set_rate
from cnnimretrieval.training.step import Learner
from cnnimretrieval.whitening.apply import apply
from experiments.settings.run_config import RunConfig
from groundwork.files import read_json, write_json
from groundwork.keys import key_of
from groundwork.random_streams import random_stream
from groundwork.settings import Settings
from pairs.heldout import read_heldout
from pairs.pair_table import PairTable, read_candidates, read_pair_table
from pairs.positives import choose_positives
from pairs.reconstruction import read_reconstruction


class Cell(Settings):
    """What one cell is made of; `config` holds the choice, `seconds` the processor time to learn in."""

    choice: str
    seed: int
    seconds: float
    config: RunConfig
    sfm: Path
    pairs: Path
    out: Path

    @property
    def path(self) -> Path:
        """Where the scores go; another setting has another file."""
        return self.out / "cells" / f"{self.choice}-seed{self.seed}-{key_of(self)[:8]}.json"


def run_cell(cell: Cell) -> dict[str, Any]:
    """Train and score one cell, or read what it scored before."""
    if cell.path.is_file():
        done: dict[str, Any] = read_json(cell.path)
        return done
    torch.set_num_threads(1)
    config = cell.config.train
    table = _table(cell)
    photos = Path(read_json(cell.pairs / "photos.json")["photos"])
    test = heldout_test(
        [query for query in read_heldout(cell.pairs / "heldout.parquet") if query.kind == "crop"],
        table.names,
        photos,
    )
    descriptions = _Describer(
        collection=Collection(photos=photos, table=table),
        test=test,
        folder=cell.out / "descriptors",
        key="",
        image_size=config.loop.image_size,
        device="cpu",
        workers=0,
        cell=cell,
    )
    network = build(config.network, cell.config.weights)
    whitening = learned_from_pairs(descriptions, network, config.whitening, config.loop.query, config.seed)
    before = descriptions.score(network)
    training = Training(
        network=network,
        collection=descriptions.collection,
        config=config.loop,
        seed=cell.seed,
        whitening=whitening if config.loop.through_whitening else None,
    )
    tuples, seconds = _learn(training, cell.seconds)
    scores = {
        "choice": cell.choice,
        "seed": cell.seed,
        "map_before": before,
        "map": descriptions.score(network),
        "tuples": tuples,
        "seconds": round(seconds, 1),
    }
    write_json(cell.path, scores)
    return scores


@dataclass(frozen=True, kw_only=True, eq=False)
class _Describer(Descriptions):
    """Descriptions in which all cells share those of the untrained network, as far as they agree."""

    cell: Cell

    def key_of_content(self, what: str) -> str:
        """Test queries hang on the seed's split, those of whitening on the positives too."""
        seed, strategy = self.cell.seed, self.cell.config.pairs.strategy
        parts = {"database": (), "queries": (seed,)}.get(what, (seed, strategy))
        return key_of(self.image_size, parts)

    def score(self, network: RetrievalNetwork) -> float:
        """The mAP of the crops with the whitening that is learned from the same pairs."""
        train = self.cell.config.train
        whitening = learned_from_pairs(self, network, train.whitening, train.loop.query, train.seed)
        queries = apply(whitening, self.queries(network))
        database = apply(whitening, self.database(network))
        return prove(self.test, queries, database).scores["crop"].map


def _table(cell: Cell) -> PairTable:
    """The split of the default positives, whatever the choice: else the choices would be tested on others."""
    table = read_pair_table(cell.pairs)
    candidates = read_candidates(cell.pairs, table.names)
    chosen = choose_positives(read_reconstruction(cell.sfm), candidates, cell.config.pairs)
    return replace(table, positives=chosen.positives)


def _learn(training: Training, budget: float) -> tuple[int, float]:
    """Learn from one epoch's tuples, again and again, until the time is up; how many, and the time used.

    Processor time of this process, in which photos are loaded too: another process on the machine costs
    nothing. Mining is not counted; it is the same for all.
    """
    rng = random_stream(training.seed, "epoch", 1)
    optimizer = build_optimizer(training.network, training.config)
    set_rate(optimizer, training.config, 1)
    examples = mine_tuples(training, training.config.tuples_per_epoch, rng)
    learner, learned, started = Learner(training, optimizer), 0, time.process_time()

    def batches() -> Iterator[Batch]:
        for _ in count():
            yield from load_batches(examples, replace(training, workers=0))

    for batch in batches():
        learner.step(batch)
        learned += len(batch)
        if (seconds := time.process_time() - started) >= budget:
            break
    return learned, seconds
