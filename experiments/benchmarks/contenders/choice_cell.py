"""One cell of the comparison of recipes: a short training, scored by details of places set aside."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cnnimretrieval.descriptors.inputs import keep_inputs
from cnnimretrieval.evaluation.heldout import DETAILS, Proof
from cnnimretrieval.evaluation.queries import query_set
from cnnimretrieval.networks.network import RetrievalNetwork, build
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.epoch import Epoch
from cnnimretrieval.training.learning.optimiser import frozen_layers
from cnnimretrieval.training.learning.state import start
from cnnimretrieval.training.local.supervision import model_files
from cnnimretrieval.training.photos.collection import Collection
from cnnimretrieval.training.photos.descriptions import Descriptions
from cnnimretrieval.training.proof.rows import choosing_proof
from cnnimretrieval.training.prover import prover
from experiments.settings.run_config import RunConfig
from groundwork.files import discard, read_json, write_json
from groundwork.keys import key_of
from groundwork.photo_source import read_source
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
    kept = cell.path.with_suffix(".inputs")
    inputs = keep_inputs(kept, initial, frozen_layers(initial, config.loop), config.inputs)
    training = Training.of(
        initial,
        replace(descriptions, inputs=inputs),
        config.model_copy(update={"seed": cell.seed}),
        whitening=proving.seen(learned),
        models=model_files(cell.sfm) if config.loop.tracks.weight else (),
    )
    tuned, steps, seconds = _learn(training, cell.seconds)
    discard(kept)
    before, after = (
        choosing_proof(descriptions, network, learned.handed_out) for network in (initial, tuned)
    )
    scores = {
        "recipe": cell.recipe,
        "seed": cell.seed,
        "map": after.map_of_details,
        "before": _by_place(before),
        "after": _by_place(after),
        "steps": steps,
        "seconds": round(seconds, 1),
    }
    write_json(cell.path, scores)
    return scores


def _by_place(proof: Proof) -> dict[str, list[tuple[int, float]]]:
    """The mAP of each place by each kind of query."""
    return {
        kind: sorted(one.by_place(one.average_precision).items())
        for kind, one in proof.kinds.items()
        if kind in DETAILS
    }


def _table(cell: Cell) -> PairTable:
    """The split of the default positives, whatever the choice: else the choices would be tested on others."""
    table = read_pair_table(cell.pairs)
    candidates = read_candidates(cell.pairs, table.names)
    reconstruction = read_reconstruction(cell.sfm)
    positives = choose_positives(reconstruction, candidates, cell.config.pairs).positives
    return replace(table, positives=positives, shared_points=reconstruction.shared_points(positives))


class _TimeIsUp(Exception):
    pass


def _learn(training: Training, budget: float) -> tuple[RetrievalNetwork, int, float]:
    """Learn as `train` does, until its epochs or the time are over: the network, steps, and seconds.

    Processor time of this process, in which photos are described, mined and loaded too: another process on
    the machine costs nothing.
    """
    state, steps, started = start(training), 0, time.process_time()

    def pause() -> None:
        if time.process_time() - started >= budget:
            raise _TimeIsUp

    for number in range(1, training.config.epochs + 1):
        epoch = Epoch(training=training, state=state, number=number)
        try:
            epoch.learn(lambda number, examples: None, pause)
        except _TimeIsUp:
            break
        finally:
            steps += epoch.steps
    return state.shown, steps, time.process_time() - started
