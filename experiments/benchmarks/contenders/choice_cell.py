"""One cell of the comparison of recipes: a short training, scored by details of places set aside."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from cnnimretrieval.descriptors.inputs import keep_inputs
from cnnimretrieval.evaluation.heldout import DETAILS, Proof
from cnnimretrieval.evaluation.queries import query_set
from cnnimretrieval.networks.network import build
from cnnimretrieval.training.learning.batches import Batch, load_batches
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.mining import draw_epoch, examples_of_part
from cnnimretrieval.training.learning.optimiser import build_optimizer, frozen_layers, set_rate
from cnnimretrieval.training.learning.step import Learner
from cnnimretrieval.training.local.supervision import model_files
from cnnimretrieval.training.photos.collection import Collection
from cnnimretrieval.training.photos.descriptions import Descriptions
from cnnimretrieval.training.proof.rows import choosing_score, proofs
from cnnimretrieval.training.prover import prover
from experiments.settings.run_config import RunConfig
from groundwork.files import discard, read_json, write_json
from groundwork.keys import key_of
from groundwork.photo_source import read_source
from groundwork.random_streams import random_stream
from groundwork.settings import Settings
from pairs.heldout import read_heldout
from pairs.pair_table import PairTable, read_candidates, read_pair_table
from pairs.positives import choose_positives
from pairs.reconstruction import read_reconstruction


class Cell(Settings):
    """What one cell is made of; `config` holds the recipe, `seconds` the processor time to learn in."""

    recipe: str
    seed: int
    seconds: float
    config: RunConfig
    sfm: Path
    pairs: Path
    out: Path

    @property
    def path(self) -> Path:
        """Where the scores go; another setting has another file."""
        return self.out / "cells" / f"{self.recipe}-seed{self.seed}-{key_of(self)[:8]}.json"


def run_cell(cell: Cell) -> dict[str, Any]:
    """Train and score one cell, or read what it scored before."""
    if cell.path.is_file():
        done: dict[str, Any] = read_json(cell.path)
        return done
    torch.set_num_threads(1)
    config = cell.config.train
    table = _table(cell)
    source = read_source(cell.pairs)
    drawn = read_heldout(cell.pairs / "heldout.parquet")
    # Neither what is reported of a split nor what is trained on is ground to choose by.
    aside = set(table.place[table.is_choosing].tolist())
    asked = [query for query in drawn if query.kind != "whole" and query.place in aside]
    descriptions = Descriptions(
        collection=Collection(photos=source.folder, table=table),
        queries=query_set(asked, table, source.folder, needed="choose"),
        folder=cell.out / "descriptors",
        content=source.content,
        image_size=config.network.image_size or config.loop.image_size,
        device="cpu",
        workers=0,
    )
    initial = build(config.network, cell.config.weights)
    proving = prover(descriptions, initial, config)
    learned = proving.learned(initial)
    before = proofs(descriptions, initial, learned, "choose")
    kept = cell.path.with_suffix(".inputs")
    inputs = keep_inputs(kept, initial, frozen_layers(initial, config.loop), config.inputs)
    training = Training.of(
        initial,
        replace(descriptions, inputs=inputs),
        config.model_copy(update={"seed": cell.seed}),
        whitening=proving.seen(learned),
        models=model_files(cell.sfm) if config.loop.tracks.weight else (),
    )
    tuples, seconds = _learn(training, cell.seconds)
    discard(kept)
    tuned = training.network
    after = proofs(descriptions, tuned, proving.learned(tuned), "choose")
    scores = {
        "recipe": cell.recipe,
        "seed": cell.seed,
        "map": choosing_score(after),
        "before": _by_place(before),
        "after": _by_place(after),
        "tuples": tuples,
        "seconds": round(seconds, 1),
    }
    write_json(cell.path, scores)
    return scores


def _by_place(proofs: Sequence[Proof]) -> list[tuple[int, float]]:
    """The mAP of details of each place, mean over kinds and situations, as in `choosing_score`."""
    found: dict[int, list[float]] = {}
    for proof in proofs:
        for kind in DETAILS:
            if kind in proof.kinds:
                of_kind = proof.kinds[kind]
                for place, value in of_kind.by_place(of_kind.average_precision).items():
                    found.setdefault(place, []).append(value)
    return [(place, sum(values) / len(values)) for place, values in sorted(found.items())]


def _table(cell: Cell) -> PairTable:
    """The split of the default positives, whatever the choice: else the choices would be tested on others."""
    table = read_pair_table(cell.pairs)
    candidates = read_candidates(cell.pairs, table.names)
    reconstruction = read_reconstruction(cell.sfm)
    positives = choose_positives(reconstruction, candidates, cell.config.pairs).positives
    return replace(table, positives=positives, shared_points=reconstruction.shared_points(positives))


def _learn(training: Training, budget: float) -> tuple[int, float]:
    """Learn from one epoch's examples, again and again, until the time is up; how many, and the time used.

    Processor time of this process, in which photos are loaded too: another process on the machine costs
    nothing. Mining, and what a teacher says, is not counted.
    """
    rng = random_stream(training.seed, "epoch", 1)
    optimizer = build_optimizer(training.network, training.config)
    set_rate(optimizer, training.config, 1)
    drawn = draw_epoch(training, rng)[0]
    examples = examples_of_part(training, drawn, rng)
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
