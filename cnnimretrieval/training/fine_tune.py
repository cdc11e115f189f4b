"""Stage: mined pairs -> a fine-tuned network with its whitening, and the proof on the held-out places.

Four rows are scored: the network off the shelf and fine-tuned, each as it is and whitened. The best of them
is what the folder holds in the end, so that nobody is handed a network worse than the one it started from.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from cnnimretrieval.descriptors.whitening import Kind, Whitening, apply
from cnnimretrieval.evaluation.proof import Gain, Proof, gain, heldout_test, prove
from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork, build, save
from cnnimretrieval.training.checkpoint import Progress
from cnnimretrieval.training.descriptions import Descriptions
from cnnimretrieval.training.learner import Training
from cnnimretrieval.training.settings import LoopConfig
from cnnimretrieval.training.trainer import run_loop
from cnnimretrieval.training.tuples import Collection, Tuples
from cnnimretrieval.training.whitening import WhiteningConfig, learned_from_pairs, pca_of_collection
from cnnimretrieval.training.whitening_layers import LayersConfig, load_layers, start_layers
from pairs.heldout import read_heldout
from pairs.records import read_pair_table
from sfm.keys import key_of
from sfm.records import load_done, mark_done
from sfm.settings import Settings
from sfm.store import read_json, write_json, write_table

logger = logging.getLogger(__name__)

Row = Literal["off_the_shelf", "off_the_shelf_pca", "fine_tuned", "fine_tuned_whitened"]
_STAGE = "train"
_METRICS = "metrics.json"
_CHECKPOINT = "checkpoint.pt"


class TrainConfig(Settings):
    """Everything that decides the network that is handed out, but the weights it starts from."""

    network: NetworkConfig = NetworkConfig()
    loop: LoopConfig = LoopConfig()
    layers: LayersConfig = LayersConfig()
    whitening: WhiteningConfig = WhiteningConfig()
    keep: Row | Literal["best"] = Field(
        default="best", description="the network that is handed out: the best of the four, or always this one"
    )
    seed: int = Field(default=0, ge=0, description="of pairs, pools, order and distortions")

    @model_validator(mode="after")
    def _layers_to_start(self) -> "TrainConfig":
        network = self.network
        there = network.local_whitening or network.region_whitening or network.projection is not None
        for name in self.layers.files:
            if not getattr(network, name):
                raise ValueError(
                    f"layers.{name}: expected no file for a network without that layer, got "
                    f"{self.layers.files[name]}; set network.{name}, or leave it out"
                )
        if self.layers.start != "identity" and not there:
            raise ValueError(
                "layers.start: expected identity for a network without whitening layers, got "
                f"{self.layers.start}; set network.local_whitening, region_whitening or projection"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What training reached: the content of metrics.json, and which row the folder holds."""

    kept: Row
    train: Mapping[str, Any]
    evaluation: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Candidate:
    """A network as it could be handed out, and what it reaches."""

    network: RetrievalNetwork
    whitening: Whitening | None
    proof: Proof


def fine_tune(
    pairs_dir: Path,
    out: Path,
    config: TrainConfig,
    *,
    weights: str = "pretrained",
    device: str = "cpu",
    workers: int = 0,
) -> TrainResult:
    """Fine-tune on the pairs in `pairs_dir`, whiten, prove, and write one of four networks to `out`.

    `weights` as in `backbones.build_trunk`. An interrupted call goes on at the last finished epoch. Returns
    at once when `out` holds the result already. ValueError when there is nothing to train or to test with or
    a file for a layer does not fit it, FileNotFoundError when mining has not finished, OSError when a photo
    cannot be read any more.
    """
    started = time.monotonic()
    mined = _key_of_mining(pairs_dir)
    initial = initial_network(config, weights)
    key = _key(mined, config, initial)
    if load_done(out, _STAGE, key) is not None:
        return _read_result(out)
    descriptions = _open(pairs_dir, out, config, key, device=device, workers=workers)
    start_layers(initial, descriptions, config.layers, config.whitening, config.loop.query, config.seed)
    through = None
    if config.loop.through_whitening:
        through = _estimated(descriptions, initial, config, "learned")
    training = Training(
        network=deepcopy(initial),
        collection=descriptions.collection,
        config=config.loop,
        seed=config.seed,
        whitening=through,
        device=device,
        workers=workers,
    )
    progress = run_loop(
        training,
        out / _CHECKPOINT,
        key,
        lambda network: _validation(descriptions, network, through),
        lambda epoch, tuples: _keep_tuples(out, descriptions.collection, epoch, tuples),
    )
    tuned = training.network
    candidates: dict[Row, _Candidate] = {
        "off_the_shelf": _candidate(descriptions, initial, None),
        "off_the_shelf_pca": _candidate(
            descriptions, initial, _estimated(descriptions, initial, config, "pca")
        ),
        "fine_tuned": _candidate(descriptions, tuned, None),
        "fine_tuned_whitened": _candidate(
            descriptions, tuned, _estimated(descriptions, tuned, config, "learned")
        ),
    }
    result = _result(descriptions, candidates, progress, config)
    save(_finished(descriptions, candidates[result.kept], config), out)
    _write(out, result, candidates)
    passing = (_CHECKPOINT, ".lock")
    outputs = [path for path in out.iterdir() if path.is_file() and path.name not in passing]
    mark_done(out, _STAGE, key, seconds=time.monotonic() - started, outputs=outputs)
    logger.info("kept %s: %s", result.kept, result.train["verdict"])
    return result


def initial_network(config: TrainConfig, weights: str = "pretrained") -> RetrievalNetwork:
    """The network that training starts from, but for layers that start from training photos.

    `weights` and the errors are those of `build_trunk`, besides those of `load_layer`.
    """
    network = build(config.network, weights)
    load_layers(network, config.layers)
    return network


def _key(mined: str, config: TrainConfig, initial: RetrievalNetwork) -> str:
    versions = [version(package) for package in ("cnnimretrieval", "torch")]
    # What the files of layers hold decides, not where they lie.
    settings = config.model_copy(update={"layers": config.layers.without_paths()})
    return key_of(_STAGE, *versions, mined, settings, list(config.layers.files), initial.fingerprint())


def _key_of_mining(pairs_dir: Path) -> str:
    try:
        key: str = read_json(pairs_dir / "done" / "mine.json")["key"]
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"pairs: expected a folder that mining finished, got {pairs_dir}; run mine first"
        ) from error
    return key


def _open(
    pairs_dir: Path, out: Path, config: TrainConfig, key: str, *, device: str, workers: int
) -> Descriptions:
    photos = Path(read_json(pairs_dir / "photos.json")["photos"])
    table = read_pair_table(pairs_dir)
    return Descriptions(
        collection=Collection(photos=photos, table=table),
        test=heldout_test(read_heldout(pairs_dir / "heldout.parquet"), table.names, photos),
        folder=out / "descriptors",
        key=key,
        image_size=config.loop.image_size,
        device=device,
        workers=workers,
    )


def _validation(
    descriptions: Descriptions, network: RetrievalNetwork, whitening: Whitening | None
) -> dict[str, float]:
    """The mAP of each kind of held-out query, of the descriptors that the loss sees."""
    scores = _candidate(descriptions, network, whitening).proof.scores
    return {f"map_{kind}": scores[kind].map for kind in scores}


def _candidate(
    descriptions: Descriptions, network: RetrievalNetwork, whitening: Whitening | None
) -> _Candidate:
    queries, database = descriptions.queries(network), descriptions.database(network)
    if whitening is not None:
        queries, database = apply(whitening, queries), apply(whitening, database)
    proof = prove(descriptions.test, queries, database)
    return _Candidate(network=network, whitening=whitening, proof=proof)


def _estimated(
    descriptions: Descriptions,
    network: RetrievalNetwork,
    config: TrainConfig,
    kind: Kind,
    scales: Sequence[float] = (1.0,),
) -> Whitening:
    """The whitening of the descriptors of `network`, of this kind and at these scales."""
    settings = config.whitening
    if kind == "pca":
        return pca_of_collection(descriptions, network, settings, scales=scales)
    query = config.loop.query
    return learned_from_pairs(descriptions, network, settings, query, config.seed, scales=scales)


def _finished(descriptions: Descriptions, chosen: _Candidate, config: TrainConfig) -> RetrievalNetwork:
    """The chosen network with its whitening, and with that of several scales where it is asked for."""
    network, whitening, scales = chosen.network, chosen.whitening, config.whitening.scales
    network.whitening = whitening
    if whitening is not None and len(scales) > 1:
        network.multi_scale_whitening = _estimated(descriptions, network, config, whitening.kind, scales)
    return network


def _result(
    descriptions: Descriptions,
    candidates: Mapping[Row, _Candidate],
    progress: Progress,
    config: TrainConfig,
) -> TrainResult:
    test = descriptions.test
    decisive = test.kinds[0]
    # The first of equals: what was simpler to get.
    best = max(candidates, key=lambda row: candidates[row].proof.scores[decisive].map)
    kept = best if config.keep == "best" else config.keep
    over = gain(test, candidates["fine_tuned_whitened"].proof, candidates["off_the_shelf_pca"].proof)
    return TrainResult(
        kept=kept,
        train={
            "backbone": config.network.backbone,
            "pooling": config.network.pooling,
            "kept": kept,
            "verdict": _verdict(kept, best, over, held_out=bool(descriptions.collection.table.is_val.any())),
            "gain": over.model_dump(),
            "epochs": [log.model_dump() for log in progress.logs],
            "seconds": round(sum(log.seconds for log in progress.logs), 1),
            "missing_negatives": sum(log.missing_negatives for log in progress.logs),
            "whitening": {
                row: found.note for row in candidates if (found := candidates[row].whitening) is not None
            },
        },
        evaluation={row: _row_scores(candidates[row].proof, decisive) for row in candidates},
    )


def _row_scores(proof: Proof, decisive: str) -> dict[str, Any]:
    scores = {kind: proof.scores[kind].model_dump() for kind in proof.scores}
    return {**scores[decisive], **scores}


def _verdict(kept: Row, best: Row, over: Gain, *, held_out: bool) -> str:
    found = (
        f"fine-tuning with learned whitening is {over.map:+.4f} mAP "
        f"(standard error {over.standard_error:.4f}) on {over.kind} queries "
        "over off the shelf with PCA whitening"
    )
    if not held_out:
        found += ", measured on the one place that was trained on: nothing was held out"
    if kept == "fine_tuned_whitened":
        return found
    which = "the best of the four rows" if kept == best else "as the settings say"
    return f"{found}; {which}, {kept.replace('_', ' ')}, is kept"


def _write(out: Path, result: TrainResult, candidates: Mapping[Row, _Candidate]) -> None:
    rankings = [candidates[row].proof.rankings.assign(row=row) for row in candidates]
    write_table(out / "rankings.parquet", pd.concat(rankings, ignore_index=True))
    write_json(out / _METRICS, asdict(result))


def _read_result(out: Path) -> TrainResult:
    return TrainResult(**read_json(out / _METRICS))


def _keep_tuples(out: Path, collection: Collection, epoch: int, tuples: Tuples) -> None:
    """Keep the tuples of the latest epoch as names, for the report."""
    names = collection.table.names
    boxes = [request.box for request in tuples.requests]
    frame = pd.DataFrame(
        {
            "epoch": epoch,
            "query": [names[row] for row in tuples.query],
            **{
                edge: [np.nan if box is None else box[number] for box in boxes]
                for number, edge in enumerate(("x1", "y1", "x2", "y2"))
            },
            "positive": [names[row] for row in tuples.positive],
            "negatives": [[names[row] for row in rows if row >= 0] for rows in tuples.negatives],
        }
    )
    write_table(out / "tuples.parquet", frame)
