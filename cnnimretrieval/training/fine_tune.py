"""Stage: mined pairs -> a fine-tuned network with its whitening, and the proof on the held-out places.

The network is scored off the shelf and fine-tuned, each as it is and whitened in more than one way: a row
each. The best is what the folder holds in the end, so that nobody is handed a network worse than the one it
started from. It is chosen by places that are set aside for choosing, and reported on others.
"""

import hashlib
import logging
import time
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from importlib.metadata import version
from pathlib import Path

from cnnimretrieval.descriptors.inputs import Inputs, keep_inputs
from cnnimretrieval.evaluation.heldout import Proof
from cnnimretrieval.evaluation.queries import query_set
from cnnimretrieval.networks.network import RetrievalNetwork, build, save
from cnnimretrieval.networks.precision import choose_precision
from cnnimretrieval.search.confidence import CALIBRATION
from cnnimretrieval.training.batches import Examples
from cnnimretrieval.training.clock import Clock, write_profile
from cnnimretrieval.training.collection import Collection
from cnnimretrieval.training.context import Training
from cnnimretrieval.training.descriptions import Descriptions
from cnnimretrieval.training.distributed import first_says, is_first, num_ranks, rank
from cnnimretrieval.training.divergence import before_training
from cnnimretrieval.training.initial_share import settle
from cnnimretrieval.training.journal import Journal
from cnnimretrieval.training.local.training import learn_local, read_lessons, teaching_models
from cnnimretrieval.training.loop import run_loop
from cnnimretrieval.training.optimiser import num_frozen
from cnnimretrieval.training.proof.calibrating import write_calibration
from cnnimretrieval.training.proof.whitening_layers import load_layers, start_layers
from cnnimretrieval.training.prover import prover
from cnnimretrieval.training.result import TrainResult, judge, read_result, write_result, write_tuples
from cnnimretrieval.training.settings import LoopConfig
from cnnimretrieval.training.train_config import TrainConfig
from cnnimretrieval.training.watch import WatchConfig
from groundwork.files import discard, read_json, write_json
from groundwork.keys import key_of
from groundwork.records import load_done, mark_done, read_done
from pairs.heldout import read_heldout
from pairs.pair_table import read_pair_table

logger = logging.getLogger(__name__)

_STAGE = "train"
_CHECKPOINT = "checkpoint.pt"
# Folder of what is kept of photos while training runs.
_INPUTS = "inputs"
# Counts the changes of what the same settings give, so that no earlier result passes for today's.
_REVISION = 2
# What the weights after an epoch do not hang on.
_AFTER_THE_LOOP = {"epochs", "validation_epochs", "initial_share"}
# Of mining, all that training learns from; published pairs have no points.
_LEARNED_FROM = ("images.parquet", "positives.parquet", "apart.parquet", "shared_points.npy")


def fine_tune(
    pairs_dir: Path,
    out: Path,
    config: TrainConfig,
    *,
    weights: str = "pretrained",
    device: str = "cpu",
    workers: int = 0,
    profile: bool = False,
) -> TrainResult:
    """Fine-tune on the pairs in `pairs_dir`, whiten, prove, and write the network of one row to `out`.

    A local head, where the network has one, is learned last, on the row that is kept, from the tracks of the
    reconstruction. `weights` as in `backbones.build_trunk`. An interrupted call goes on at the last
    checkpoint, and so does one that differs in what follows the loop only: more epochs, other whitening or
    queries. On several ranks each takes its share of the work, and rank 0 writes. With `profile`
    profile.json says where the time of this call went. Returns at once when `out` holds the result already.
    ValueError when there is nothing to train or to test with or a file for a layer does not fit it,
    FileNotFoundError when mining has not finished or the tracks are not there, OSError when a photo cannot
    be read any more.
    """
    started = time.monotonic()
    clock = Clock()
    precision = first_says(choose_precision(config.loop.precision, device))
    loop = config.loop.model_copy(update={"precision": precision.precision})
    config = config.model_copy(update={"loop": loop})
    mined = _key_of_mining(pairs_dir)
    initial = initial_network(config.without_local, weights)
    models = teaching_models(pairs_dir, config.local) if config.network.local is not None else []
    key = _key(mined, config.without_local, initial)
    whole_key = key if config.network.local is None else _key_with_local(key, config, models)
    if load_done(out, _STAGE, whole_key) is not None:
        return read_result(out)
    loop_key = _key_of_loop(pairs_dir, config.without_local, initial)
    num_layers = initial.trunk.layers_of(num_frozen(initial, config.loop))
    kept = out / (_INPUTS if is_first() else f"{_INPUTS}-{rank()}")
    inputs = keep_inputs(kept, initial, num_layers, config.inputs.shared_by(num_ranks()), device=device)
    descriptions = _open(pairs_dir, out, config, inputs, device=device, workers=workers)
    with before_training(), clock.part("start"):
        start_layers(initial, descriptions, config.layers, config.whitening, config.loop.query, config.seed)
        proving = prover(descriptions, initial, config)
        learned = proving.learned(initial)
    through = learned if config.loop.through_whitening else None
    training = Training(
        network=deepcopy(initial),
        collection=descriptions.collection,
        config=config.loop,
        seed=config.seed,
        whitening=None if through is None else through.handed_out,
        device=device,
        workers=workers,
        inputs=inputs,
        descriptions=descriptions,
        watch=config.watch,
        journal=Journal(out, tensorboard=config.watch.tensorboard) if is_first() else Journal(),
        clock=clock,
    )
    progress = run_loop(
        training,
        out / _CHECKPOINT,
        loop_key,
        lambda network: _validated(proving.validation(network, through)),
        partial(_write_tuples, out, descriptions.collection.table.names),
    )
    tuned = training.network
    with clock.part("whiten and prove"):
        share = settle(
            tuned,
            initial,
            config.loop.initial_share,
            lambda network: proving.validation(network, through).map_of_details,
        )
        candidates = proving.candidates(initial, tuned, learned)
    result = judge(
        candidates,
        config.keep,
        progress,
        image_size=descriptions.image_size,
        initial_share=share,
    )
    chosen = result.train.model_copy(update={"precision": str(precision)})
    result = result.model_copy(update={"train": chosen})
    with clock.part("whiten and prove"):
        network = proving.finished(candidates[result.kept])
    if config.network.local is not None:
        network = _with_local(network, pairs_dir, out, config, descriptions, models)
    if is_first():
        save(network, out)
    write_calibration(descriptions, network, out)
    if not is_first():
        discard(kept)
        return result
    write_result(out, result, candidates)
    if profile:
        write_profile(out, clock.read())
    descriptions.drop_unused()
    discard(kept)
    # A calibration may be learned again later, without training.
    passing = (_CHECKPOINT, ".lock", CALIBRATION)
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
    # What the files of layers hold decides, not where they lie; how much is kept and told decides nothing.
    without = {
        "layers": config.layers.without_paths(),
        "inputs": config.inputs.without_limit(),
        "watch": WatchConfig(),
    }
    settings = config.model_copy(update=without)
    return key_of(
        _STAGE, _REVISION, _versions(), mined, settings, list(config.layers.files), initial.fingerprint()
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
    if is_first():
        write_json(out / "local.json", result.model_dump(mode="json"))
    return headed


def _key_of_loop(pairs_dir: Path, config: TrainConfig, initial: RetrievalNetwork) -> str:
    """Of what the weights after an epoch hang on, so that a change of the rest does not lose them."""
    record = read_done(pairs_dir, "mine", remedy="mine again")
    assert record is not None  # the stage has begun
    files = {name: record.outputs[name].sha256 for name in _LEARNED_FROM if name in record.outputs}
    seen = config.loop.through_whitening
    return key_of(
        f"{_STAGE} loop",
        _REVISION,
        _versions(),
        files,
        read_json(pairs_dir / "photos.json")["content"],
        config.loop.model_dump(mode="json", exclude=_AFTER_THE_LOOP),
        *_length_that_counts(config.loop),
        config.network,
        config.layers.without_paths(),
        config.whitening.model_dump(mode="json", exclude={"scales"}) if seen else None,
        config.inputs.without_limit(),
        config.seed,
        list(config.layers.files),
        initial.fingerprint(),
    )


def _length_that_counts(loop: LoopConfig) -> list[int]:
    """The number of epochs where the weights after each hang on it; nothing else."""
    return [loop.epochs] if loop.schedule.kind == "cosine" else []


def _write_tuples(out: Path, names: Sequence[str], epoch: int, examples: Examples) -> None:
    if is_first():
        write_tuples(out, names, epoch, examples)


def _versions() -> list[str]:
    return [version(package) for package in ("cnnimretrieval", "torch")]


def _key_of_mining(pairs_dir: Path) -> str:
    record = read_done(pairs_dir, "mine", remedy="mine again")
    if record is None:
        raise FileNotFoundError(
            f"pairs: expected a folder that mining finished, got {pairs_dir}; run mine first"
        )
    return record.key


def _validated(proof: Proof) -> dict[str, float]:
    """What an epoch is scored by: what choices are made by first, then each kind of query."""
    by_kind = {f"map_{kind}": scores.map for kind, scores in proof.scores.items()}
    return {"map_details": proof.map_of_details, **by_kind}


def _open(
    pairs_dir: Path, out: Path, config: TrainConfig, inputs: Inputs, *, device: str, workers: int
) -> Descriptions:
    source = read_json(pairs_dir / "photos.json")
    photos, table = Path(source["photos"]), read_pair_table(pairs_dir)
    return Descriptions(
        collection=Collection(photos=photos, table=table),
        queries=query_set(read_heldout(pairs_dir / "heldout.parquet"), table, photos),
        folder=out / "descriptors",
        content=source["content"],
        image_size=config.network.image_size or config.loop.image_size,
        device=device,
        workers=workers,
        inputs=inputs,
    )
