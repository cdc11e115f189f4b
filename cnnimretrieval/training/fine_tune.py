"""Stage: mined pairs -> a fine-tuned network with its whitening, and the proof on the held-out places.

The network is scored off the shelf and fine-tuned, each as it is and whitened in more than one way: a row
each. The best is what the folder holds in the end, so that nobody is handed a network worse than the one it
started from. It is chosen by places that are set aside for choosing, and reported on others.
"""

import logging
import time
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path

from cnnimretrieval.descriptors.inputs import keep_inputs
from cnnimretrieval.evaluation.heldout import Proof
from cnnimretrieval.networks.network import RetrievalNetwork, build, save
from cnnimretrieval.networks.precision import choose_precision
from cnnimretrieval.search.confidence import CALIBRATION
from cnnimretrieval.training.batches import Examples
from cnnimretrieval.training.clock import NAME as PROFILE
from cnnimretrieval.training.clock import Clock, write_profile
from cnnimretrieval.training.context import Training
from cnnimretrieval.training.descriptions import Descriptions, descriptions_of
from cnnimretrieval.training.distillation import Teacher
from cnnimretrieval.training.distributed import first_says, is_first, num_ranks, rank
from cnnimretrieval.training.divergence import before_training
from cnnimretrieval.training.initial_share import settle
from cnnimretrieval.training.journal import Journal
from cnnimretrieval.training.keys import STAGE, loop_key, mining_record, stage_key, stage_key_with_local
from cnnimretrieval.training.local.training import learn_local, read_lessons, teaching_models
from cnnimretrieval.training.loop import run_loop
from cnnimretrieval.training.optimiser import num_frozen
from cnnimretrieval.training.proof.calibrating import write_calibration
from cnnimretrieval.training.proof.rows import Fitted
from cnnimretrieval.training.proof.size_curve import size_curve
from cnnimretrieval.training.proof.whitening_layers import load_layers, start_layers
from cnnimretrieval.training.prover import prover
from cnnimretrieval.training.result import TrainResult, judge, read_result, write_result, write_tuples
from cnnimretrieval.training.trace import NAME as TRACE
from cnnimretrieval.training.trace import StepTrace
from cnnimretrieval.training.tracks import Tracks, track_models
from cnnimretrieval.training.train_config import TrainConfig
from groundwork.files import discard, write_json
from groundwork.records import load_done, mark_done

logger = logging.getLogger(__name__)

_CHECKPOINT = "checkpoint.pt"
# Folder of what is kept of photos while training runs.
_INPUTS = "inputs"


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
    profile.json says where the time of this call went, and trace.json.gz has two steps of it. Returns at once
    when `out` holds the result already.
    ValueError when there is nothing to train or to test with or a file for a layer does not fit it,
    FileNotFoundError when mining has not finished or the tracks are not there, OSError when a photo cannot
    be read any more.
    """
    started = time.monotonic()
    clock = Clock()
    precision = first_says(choose_precision(config.loop.precision, device))
    loop = config.loop.model_copy(update={"precision": precision.precision})
    config = config.model_copy(update={"loop": loop})
    mined = mining_record(pairs_dir)
    initial = initial_network(config.without_local, weights)
    models = teaching_models(pairs_dir, config.local) if config.network.local is not None else []
    of_tracks = track_models(pairs_dir, config.loop.tracks)
    key = stage_key(mined, config.without_local, initial, of_tracks)
    whole_key = key if config.network.local is None else stage_key_with_local(key, config, models)
    if load_done(out, STAGE, whole_key) is not None:
        return read_result(out)
    num_layers = initial.trunk.layers_of(num_frozen(initial, config.loop))
    kept = out / (_INPUTS if is_first() else f"{_INPUTS}-{rank()}")
    inputs = keep_inputs(kept, initial, num_layers, config.inputs.shared_by(num_ranks()), device=device)
    descriptions = descriptions_of(
        pairs_dir,
        out / "descriptors",
        config.network.image_size or config.loop.image_size,
        device=device,
        workers=workers,
        inputs=inputs,
    )
    learning_key = loop_key(mined, descriptions.content, config.without_local, initial, of_tracks)
    tracks = Tracks.of(descriptions.collection, of_tracks, config.loop.tracks, initial.trunk, num_layers)
    with before_training(), clock.part("start"):
        start_layers(initial, descriptions, config.layers, config.whitening, config.loop.query, config.seed)
        proving = prover(descriptions, initial, config)
        learned = proving.learned(initial)
    through = learned if config.loop.through_whitening else None
    training = _training(initial, descriptions, tracks, config, through, out, clock=clock, profile=profile)
    with training.trace:
        progress = run_loop(
            training,
            out / _CHECKPOINT,
            learning_key,
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
    result = judge(candidates, config.keep, progress, image_size=descriptions.image_size, initial_share=share)
    with clock.part("whiten and prove"):
        network = proving.finished(candidates[result.kept])
        curve = size_curve(descriptions, network, config.curve_sizes)
    told = result.train.model_copy(update={"precision": str(precision), "curve": curve})
    result = result.model_copy(update={"train": told})
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
    # A calibration may be learned again later, without training; nothing hangs on where the time went.
    passing = (_CHECKPOINT, ".lock", CALIBRATION, PROFILE, TRACE)
    outputs = [path for path in out.iterdir() if path.is_file() and path.name not in passing]
    mark_done(out, STAGE, whole_key, seconds=time.monotonic() - started, outputs=outputs)
    logger.info("kept %s: %s", result.kept, result.train.verdict)
    return result


def _training(
    initial: RetrievalNetwork,
    descriptions: Descriptions,
    tracks: Tracks | None,
    config: TrainConfig,
    through: Fitted | None,
    out: Path,
    *,
    clock: Clock,
    profile: bool,
) -> Training:
    """What the loop works with: a copy of `initial`, which learns, whitened by `through` for its loss."""
    return Training(
        network=deepcopy(initial),
        collection=descriptions.collection,
        config=config.loop,
        seed=config.seed,
        whitening=None if through is None else through.handed_out,
        device=descriptions.device,
        workers=descriptions.workers,
        inputs=descriptions.inputs,
        descriptions=descriptions,
        teacher=Teacher.of(initial, descriptions, config.loop.distillation, config.loop.query),
        tracks=tracks,
        watch=config.watch,
        journal=Journal(out, tensorboard=config.watch.tensorboard) if is_first() else Journal(),
        clock=clock,
        trace=StepTrace(out if profile and is_first() else None),
    )


def initial_network(config: TrainConfig, weights: str = "pretrained") -> RetrievalNetwork:
    """The network that training starts from, but for layers that start from training photos.

    `weights` and the errors are those of `build_trunk`, besides those of `load_layer`.
    """
    network = build(config.network, weights)
    load_layers(network, config.layers)
    return network


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


def _write_tuples(out: Path, names: Sequence[str], epoch: int, examples: Examples) -> None:
    if is_first():
        write_tuples(out, names, epoch, examples)


def _validated(proof: Proof) -> dict[str, float]:
    """What an epoch is scored by: what choices are made by first, then each kind of query."""
    by_kind = {f"map_{kind}": scores.map for kind, scores in proof.scores.items()}
    return {"map_details": proof.map_of_details, **by_kind}
