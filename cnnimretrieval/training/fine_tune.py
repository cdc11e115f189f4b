"""Stage: mined pairs -> a fine-tuned network with its whitening, and the proof on the held-out places.

The network is scored off the shelf and fine-tuned, each as it is and whitened in more than one way: a row
each. The best is what the folder holds in the end, so that nobody is handed a network worse than the one it
started from. It is chosen by the places whose scores are reported, which flatters the chosen row a little.
"""

import hashlib
import logging
import time
from collections.abc import Sequence
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from cnnimretrieval.descriptors.inputs import Inputs, KeepConfig, keep_inputs
from cnnimretrieval.evaluation.heldout import heldout_test, prove
from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork, build, save
from cnnimretrieval.networks.precision import choose_precision
from cnnimretrieval.training.collection import Collection
from cnnimretrieval.training.collection_whitening import (
    WhiteningConfig,
    learned_from_pairs,
    pca_of_collection,
)
from cnnimretrieval.training.context import Training
from cnnimretrieval.training.descriptions import Descriptions
from cnnimretrieval.training.divergence import before_training
from cnnimretrieval.training.local_settings import LocalTrainingConfig
from cnnimretrieval.training.local_training import learn_local, read_lessons, teaching_models
from cnnimretrieval.training.loop import run_loop
from cnnimretrieval.training.optimiser import num_frozen
from cnnimretrieval.training.result import (
    Candidate,
    Row,
    TrainResult,
    judge,
    read_result,
    write_result,
    write_tuples,
)
from cnnimretrieval.training.settings import LoopConfig
from cnnimretrieval.training.whitening_layers import LayersConfig, load_layers, start_layers
from cnnimretrieval.whitening.apply import Kind, Whitening, apply
from groundwork.files import discard, read_json, write_json
from groundwork.keys import key_of
from groundwork.records import load_done, mark_done, read_done
from groundwork.settings import Settings
from pairs.heldout import read_heldout
from pairs.pair_table import read_pair_table

logger = logging.getLogger(__name__)

_STAGE = "train"
_CHECKPOINT = "checkpoint.pt"
# Folder of what is kept of photos while training runs.
_INPUTS = "inputs"
# Counts the changes of what the same settings give, so that no earlier result passes for today's.
_REVISION = 1


class TrainConfig(Settings):
    """Everything that decides the network that is handed out, but the weights it starts from."""

    network: NetworkConfig = NetworkConfig()
    loop: LoopConfig = LoopConfig()
    layers: LayersConfig = LayersConfig()
    whitening: WhiteningConfig = WhiteningConfig()
    inputs: KeepConfig = KeepConfig()
    keep: Row | Literal["best"] = Field(
        default="best", description="the network that is handed out: the best of all rows, or always this one"
    )
    # Left out of what is written unless it is set: see NetworkConfig.local.
    local: LocalTrainingConfig = Field(
        default=LocalTrainingConfig(),
        exclude_if=lambda local: local == LocalTrainingConfig(),
        description="how the head of network.local is learned",
    )
    seed: int = Field(default=0, ge=0, description="of pairs, pools, order and distortions")

    @model_validator(mode="after")
    def _row_to_keep(self) -> "TrainConfig":
        if self.keep == "fine_tuned_loss_whitening" and not self.loop.through_whitening:
            raise ValueError(
                "keep: expected another row for a loss that sees descriptors as they are, got "
                f"{self.keep}; set loop.through_whitening, or keep another"
            )
        return self

    @model_validator(mode="after")
    def _head_to_teach(self) -> "TrainConfig":
        if self.network.local is None and self.local != LocalTrainingConfig():
            raise ValueError(
                "local: expected a network with a local head to teach, got one without; set "
                "network.local.reduction, or leave local out"
            )
        return self

    @property
    def without_local(self) -> "TrainConfig":
        """The same without a local head, which changes nothing else of a training."""
        network = self.network.model_copy(update={"local": None})
        return self.model_copy(update={"network": network, "local": LocalTrainingConfig()})

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


def fine_tune(
    pairs_dir: Path,
    out: Path,
    config: TrainConfig,
    *,
    weights: str = "pretrained",
    device: str = "cpu",
    workers: int = 0,
) -> TrainResult:
    """Fine-tune on the pairs in `pairs_dir`, whiten, prove, and write the network of one row to `out`.

    A local head, where the network has one, is learned last, on the row that is kept, from the tracks of the
    reconstruction. `weights` as in `backbones.build_trunk`. An interrupted call goes on at the last finished
    epoch. Returns at once when `out` holds the result already. ValueError when there is nothing to train or
    to test with or a file for a layer does not fit it, FileNotFoundError when mining has not finished or the
    tracks are not there, OSError when a photo cannot be read any more.
    """
    started = time.monotonic()
    precision = choose_precision(config.loop.precision, device)
    loop = config.loop.model_copy(update={"precision": precision.precision})
    config = config.model_copy(update={"loop": loop})
    mined = _key_of_mining(pairs_dir)
    initial = initial_network(config.without_local, weights)
    models = teaching_models(pairs_dir, config.local) if config.network.local is not None else []
    key = _key(mined, config.without_local, initial)
    whole_key = key if config.network.local is None else _key_with_local(key, config, models)
    if load_done(out, _STAGE, whole_key) is not None:
        return read_result(out)
    num_layers = initial.trunk.layers_of(num_frozen(initial, config.loop))
    inputs = keep_inputs(out / _INPUTS, initial, num_layers, config.inputs, device=device)
    descriptions = _open(pairs_dir, out, config, key, device=device, workers=workers, inputs=inputs)
    with before_training():
        start_layers(initial, descriptions, config.layers, config.whitening, config.loop.query, config.seed)
        learned = _estimated(descriptions, initial, config, "learned")
    through = learned if config.loop.through_whitening else None
    training = Training(
        network=deepcopy(initial),
        collection=descriptions.collection,
        config=config.loop,
        seed=config.seed,
        whitening=through,
        device=device,
        workers=workers,
        inputs=inputs,
        descriptions=descriptions,
    )
    progress = run_loop(
        training,
        out / _CHECKPOINT,
        key,
        lambda network: _validation(descriptions, network, through),
        lambda epoch, examples: write_tuples(out, descriptions.collection.table.names, epoch, examples),
    )
    candidates = _candidates(descriptions, initial, training.network, learned, config)
    result = judge(
        candidates,
        descriptions.test,
        config.keep,
        progress,
        held_out=bool(descriptions.collection.table.is_val.any()),
    )
    chosen = result.train.model_copy(update={"precision": str(precision)})
    result = result.model_copy(update={"train": chosen})
    network = _finished(descriptions, candidates[result.kept], config)
    if config.network.local is not None:
        network = _with_local(network, pairs_dir, out, config, descriptions, models)
    save(network, out)
    write_result(out, result, candidates)
    discard(out / _INPUTS)
    passing = (_CHECKPOINT, ".lock")
    outputs = [path for path in out.iterdir() if path.is_file() and path.name not in passing]
    mark_done(out, _STAGE, whole_key, seconds=time.monotonic() - started, outputs=outputs)
    logger.info("kept %s: %s", result.kept, result.train.verdict)
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
    # What the files of layers hold decides, not where they lie; and how much is kept decides nothing.
    without = {"layers": config.layers.without_paths(), "inputs": config.inputs.without_limit()}
    settings = config.model_copy(update=without)
    return key_of(
        _STAGE, _REVISION, *versions, mined, settings, list(config.layers.files), initial.fingerprint()
    )


def _key_with_local(key: str, config: TrainConfig, models: Sequence[Path]) -> str:
    """That of the training of a local head too; `key` is that of the rest, which goes on without it."""
    local = config.local.model_copy(update={"sfm": None})
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in models]
    return key_of(key, config.network.local, local, digests)


def _with_local(
    network: RetrievalNetwork,
    pairs_dir: Path,
    out: Path,
    config: TrainConfig,
    descriptions: Descriptions,
    models: Sequence[Path],
) -> RetrievalNetwork:
    """The network that is handed out with its local head, and what teaching it was like in local.json."""
    assert config.network.local is not None
    headed = network.with_local(config.network.local)
    lessons = read_lessons(
        pairs_dir,
        descriptions.collection,
        models,
        device=descriptions.device,
        workers=descriptions.workers,
    )
    result = learn_local(headed, lessons, config.local, config.seed)
    write_json(out / "local.json", result.model_dump(mode="json"))
    return headed


def _key_of_mining(pairs_dir: Path) -> str:
    record = read_done(pairs_dir, "mine", remedy="mine again")
    if record is None:
        raise FileNotFoundError(
            f"pairs: expected a folder that mining finished, got {pairs_dir}; run mine first"
        )
    return record.key


def _open(
    pairs_dir: Path,
    out: Path,
    config: TrainConfig,
    key: str,
    *,
    device: str,
    workers: int,
    inputs: Inputs,
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
        inputs=inputs,
    )


def _validation(
    descriptions: Descriptions, network: RetrievalNetwork, whitening: Whitening | None
) -> dict[str, float]:
    """The mAP of each kind of held-out query, of the descriptors that the loss sees."""
    scores = _candidate(descriptions, network, whitening).proof.scores
    return {f"map_{kind}": scores[kind].map for kind in scores}


def _candidates(
    descriptions: Descriptions,
    initial: RetrievalNetwork,
    tuned: RetrievalNetwork,
    learned: Whitening,
    config: TrainConfig,
) -> dict[Row, Candidate]:
    """The rows, from what is simplest to get; `learned` is the whitening of the initial network."""
    pca = _estimated(descriptions, initial, config, "pca")
    found: dict[Row, Candidate] = {
        "off_the_shelf": _candidate(descriptions, initial, None),
        "off_the_shelf_pca": _candidate(descriptions, initial, pca),
        "off_the_shelf_whitened": _candidate(descriptions, initial, learned),
        "fine_tuned": _candidate(descriptions, tuned, None),
    }
    if config.loop.through_whitening:
        found["fine_tuned_loss_whitening"] = _candidate(descriptions, tuned, learned, whitened_as=initial)
    anew = _estimated(descriptions, tuned, config, "learned")
    return {**found, "fine_tuned_whitened": _candidate(descriptions, tuned, anew)}


def _candidate(
    descriptions: Descriptions,
    network: RetrievalNetwork,
    whitening: Whitening | None,
    *,
    whitened_as: RetrievalNetwork | None = None,
) -> Candidate:
    queries, database = descriptions.queries(network), descriptions.database(network)
    if whitening is not None:
        queries, database = apply(whitening, queries), apply(whitening, database)
    proof = prove(descriptions.test, queries, database)
    return Candidate(network=network, whitening=whitening, whitened_as=whitened_as or network, proof=proof)


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


def _finished(descriptions: Descriptions, chosen: Candidate, config: TrainConfig) -> RetrievalNetwork:
    """The chosen network with its whitening, and with that of several scales where it is asked for."""
    network, whitening, scales = chosen.network, chosen.whitening, config.whitening.scales
    network.whitening = whitening
    if whitening is not None and len(scales) > 1:
        several = _estimated(descriptions, chosen.whitened_as, config, whitening.kind, scales)
        network.multi_scale_whitening = several
    return network
