"""Rounds of a run: photos that the network of one round finds alike are candidates of the next one.

WORK holds the last round. Of an earlier one WORK/rounds/<number> keeps what it counted and scored, its
network and pairs, its photos' fates and trusted pairs, and the descriptors from which the next one went on.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import extract
from cnnimretrieval.networks.open import load as open_network
from cnnimretrieval.training.proof.rows import Row
from cnnimretrieval.training.result import RowScores
from experiments.counts import Mining, Reconstruction
from experiments.settings.run_config import RunConfig
from groundwork.files import discard, read_json, read_table, write_json
from groundwork.keys import key_of, key_of_table
from groundwork.links import share
from groundwork.records import forget, load_done, mark_done
from groundwork.settings import Values
from sfm.pair_table import ENDS, image_ids

FOLDER = "rounds"
_VERSION = 1
_COUNTS, _DESCRIPTORS, _REACHED = "round.json", "descriptors", "reached.json"
# Of WORK, what is kept of a round.
_KEPT = ("model", "pairs", "sfm/images.parquet", "sfm/graph.parquet", "sfm/matches/pairs.parquet")


class Round(Values):
    """What one round came to.

    Attributes:
        number: from 1.
        sfm: its counts.
        pairs: its counts.
        tried: image pairs that were matched until then.
        trusted: of these those that prove one place.
        new_tried: pairs that the round before had not tried.
        new_trusted: trusted pairs that it did not have.
        heldout: changes with the photos and queries that the scores are on: of two rounds with the same one
            the scores can be compared.
        evaluation: scores on the held-out places.

    """

    number: int
    sfm: Reconstruction
    pairs: Mining
    tried: int
    trusted: int
    new_tried: int
    new_trusted: int
    heldout: str
    evaluation: dict[Row, RowScores]

    def __str__(self) -> str:
        share = f"{self.new_trusted:,} new trusted pairs of {self.new_tried:,} tried"
        return f"round {self.number}: {share}, {self.sfm.registered:,} photos registered"


def round_key(number: int, config: RunConfig, collection_key: str) -> str:
    """Changes with all that decides what a round comes to, but not with the number of rounds asked for."""
    settings = config.model_dump(mode="json", exclude={"rounds"})
    return key_of("round", _VERSION, number, settings, collection_key)


def take_up(work: Path, config: RunConfig, collection_key: str) -> list[Round]:
    """The rounds that are kept whole, from the first on; the next one is to be done.

    Where `work` has gone on to a later round already, none: pairs that were matched then would count in an
    earlier one. It begins anew, without them.
    """
    kept = []
    for number in range(1, config.rounds):
        folder = _folder(work, number)
        if not load_done(folder, "round", round_key(number, config, collection_key)):
            break
        kept.append(Round.load(folder / _COUNTS))
    path = work / FOLDER / _REACHED
    if path.is_file() and int(read_json(path)["round"]) > len(kept) + 1:
        discard(work / FOLDER)
        for matched in (work / "sfm", work / "sfm/second"):
            forget(matched, "matching")
        return []
    return kept


def begin(work: Path, number: int) -> None:
    """Note that `work` takes part in this round from now on."""
    if number > 1:
        write_json(work / FOLDER / _REACHED, {"version": 1, "round": number})


def count_round(
    work: Path, number: int, sfm: Reconstruction, pairs: Mining, evaluation: dict[Row, RowScores]
) -> Round:
    """What the round in `work` came to, against the one that is kept before it."""
    tried, trusted = (_codes(work / "sfm" / name) for name in ("matches/pairs.parquet", "graph.parquet"))
    known, proven = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    if number > 1:
        before = _folder(work, number - 1) / "sfm"
        known, proven = (_codes(before / name) for name in ("matches/pairs.parquet", "graph.parquet"))
    return Round(
        number=number,
        sfm=sfm,
        pairs=pairs,
        tried=len(tried),
        trusted=len(trusted),
        new_tried=len(np.setdiff1d(tried, known)),
        new_trusted=len(np.setdiff1d(trusted, proven)),
        heldout=_heldout_key(work),
        evaluation=evaluation,
    )


def keep_round(
    photos: Path, work: Path, key: str, counts: Round, config: RunConfig, *, device: str, workers: int
) -> None:
    """Keep the round in `work`, whose files the next one writes anew, with the descriptors for that one.

    All usable photos are described as the training sees them, with the whitening that was learned.
    """
    folder = _folder(work, counts.number)
    folder.mkdir(parents=True, exist_ok=True)
    collection = read_table(work / "sfm/collection.parquet", ["name", "image_id"])
    names = collection["name"][collection["image_id"] > 0]
    extract(
        open_network(str(work / "model"), None),
        [ImageRequest(path=photos / name) for name in names],
        photos,
        folder / _DESCRIPTORS,
        ExtractConfig(image_size=config.train.loop.image_size),
        whiten=True,
        device=device,
        workers=workers,
    )
    for name in _KEPT:
        share(work / name, folder / name)
    write_json(folder / _COUNTS, counts.model_dump(mode="json"))
    mark_done(folder, "round", key, outputs=[folder / name for name in (*_KEPT, _DESCRIPTORS, _COUNTS)])


def with_candidates(work: Path, number: int, config: RunConfig) -> RunConfig:
    """The settings of a round: from the second on with the descriptors of the one before."""
    if number == 1:
        return config
    given = {"descriptors": _folder(work, number - 1) / _DESCRIPTORS}
    candidates = config.sfm.candidates.model_copy(update=given)
    return config.model_copy(update={"sfm": config.sfm.model_copy(update={"candidates": candidates})})


def _folder(work: Path, number: int) -> Path:
    return work / FOLDER / str(number)


def _codes(path: Path) -> Int64[np.ndarray, " p"]:
    """One number a pair of a table; a photo keeps its number from round to round."""
    one, two = image_ids(read_table(path, list(ENDS))).astype(np.int64).T
    codes: Int64[np.ndarray, " p"] = (one << 32) + two
    return codes


def _heldout_key(work: Path) -> str:
    queries = read_table(work / "pairs/heldout.parquet").drop(columns="place")
    # Whichever columns hold lists: a key is made of plain values.
    answers = {
        str(name): queries[name].map(lambda names: "\0".join(names))
        for name in queries
        if len(queries) and isinstance(queries[name].iloc[0], np.ndarray)
    }
    images = read_table(work / "pairs/images.parquet", ["name", "split"])
    return key_of(key_of_table(queries.assign(**answers)), key_of_table(images[images["split"] == "val"]))
