"""Stage: mined pairs -> a fine-tuned network with its whitening, and the proof on the held-out places.

The network is scored off the shelf and fine-tuned, each as it is and whitened in more than one way: a row
each. The best is what the folder holds in the end, so that nobody is handed a network worse than the one it
started from. It is chosen by places that are set aside for choosing, and reported on others.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from cnnimretrieval.descriptors.inputs import keep_inputs
from cnnimretrieval.distributed import first_says, is_first, num_ranks, rank
from cnnimretrieval.evaluation.heldout import Proof
from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.precision import choose_precision
from cnnimretrieval.search.confidence import CALIBRATION
from cnnimretrieval.training.initial_share import settle
from cnnimretrieval.training.learning.batches import Examples
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.loop import run_loop
from cnnimretrieval.training.learning.optimiser import frozen_layers
from cnnimretrieval.training.local.training import learn_local, read_lessons
from cnnimretrieval.training.photos.descriptions import Descriptions, descriptions_of
from cnnimretrieval.training.proof.calibrating import write_calibration
from cnnimretrieval.training.proof.rows import Candidate, Fitted, Row
from cnnimretrieval.training.proof.size_curve import size_curve
from cnnimretrieval.training.proof.whitening_layers import start_layers
from cnnimretrieval.training.prover import Prover, prover
from cnnimretrieval.training.result import TrainResult, judge, read_result, write_result, write_tuples
from cnnimretrieval.training.safeguards.checkpoint import Progress
from cnnimretrieval.training.safeguards.divergence import before_training
from cnnimretrieval.training.settings.train_config import TrainConfig
from cnnimretrieval.training.sources import STAGE, Sources, read_sources
from cnnimretrieval.training.watching.clock import NAME as PROFILE
from cnnimretrieval.training.watching.clock import Clock, write_profile
from cnnimretrieval.training.watching.journal import Journal
from cnnimretrieval.training.watching.trace import NAME as TRACE
from cnnimretrieval.training.watching.trace import StepTrace
from groundwork.files import discard, write_json
from groundwork.records import load_done, mark_done

logger = logging.getLogger(__name__)

_CHECKPOINT = "checkpoint.pt"


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
    started, clock = time.monotonic(), Clock()
    precision = first_says(choose_precision(config.loop.precision, device))
    loop = config.loop.model_copy(update={"precision": precision.precision})
    config = config.model_copy(update={"loop": loop})
    sources = read_sources(pairs_dir, config, weights)
    key = sources.stage_key()
    if load_done(out, STAGE, key) is not None:
        return read_result(out)
    descriptions = _descriptions(pairs_dir, out, sources, device, workers)
    with before_training(), clock.part("start"):
        start_layers(
            sources.initial, descriptions, config.layers, config.whitening, config.loop.query, config.seed
        )
        proving = prover(descriptions, sources.initial, config)
        learned = proving.learned(sources.initial)
    trace = StepTrace(out if profile and is_first() else None)
    tuned, progress = _learn(sources, proving, learned, out, clock, trace)
    with clock.part("whiten and prove"):
        result, candidates = _prove(sources.initial, tuned, progress, proving, learned)
        network = proving.finished(candidates[result.kept])
        curve = size_curve(descriptions, network, config.curve_sizes)
    if config.network.local is not None:
        network = _with_local(network, pairs_dir, out, sources, descriptions)
    if is_first():
        save(network, out)
    write_calibration(descriptions, network, out)
    discard(_inputs_folder(out))
    seconds = time.monotonic() - started
    told = {"precision": str(precision), "curve": curve, "seconds": round(seconds, 1)}
    result = result.model_copy(update={"train": result.train.model_copy(update=told)})
    if is_first():
        write_result(out, result, candidates)
        if profile:
            write_profile(out, clock.read())
        descriptions.drop_unused()
        mark_done(out, STAGE, key, seconds=seconds, outputs=_outputs(out))
        logger.info("kept %s: %s", result.kept, result.train.verdict)
    return result


def _descriptions(pairs_dir: Path, out: Path, sources: Sources, device: str, workers: int) -> Descriptions:
    """Of the photos and held-out queries, by what is kept of them below the layers that learn."""
    config, initial = sources.config, sources.initial
    inputs = keep_inputs(
        _inputs_folder(out),
        initial,
        frozen_layers(initial, config.loop),
        config.inputs.shared_by(num_ranks()),
        device=device,
    )
    return descriptions_of(
        pairs_dir,
        out / "descriptors",
        config.network.image_size or config.loop.image_size,
        device=device,
        workers=workers,
        inputs=inputs,
    )


def _inputs_folder(out: Path) -> Path:
    """Where this rank keeps what it reads of photos while training runs."""
    return out / ("inputs" if is_first() else f"inputs-{rank()}")


def _learn(
    sources: Sources, proving: Prover, learned: Fitted, out: Path, clock: Clock, trace: StepTrace
) -> tuple[RetrievalNetwork, Progress]:
    """Run the loop, or go on with it; its loss sees descriptors as `learned` whitens them, if it is to."""
    config, descriptions = sources.config, proving.descriptions
    training = Training.of(
        sources.initial,
        descriptions,
        config,
        whitening=proving.seen(learned),
        models=sources.trunk_models,
    )
    journal = Journal(out, tensorboard=config.watch.tensorboard) if is_first() else Journal()
    training = replace(training, journal=journal, clock=clock, trace=trace)
    with training.trace:
        progress = run_loop(
            training,
            out / _CHECKPOINT,
            sources.loop_key(descriptions.content),
            lambda network: _validated(proving.validation(network, learned)),
            partial(_write_tuples, out, descriptions.collection.table.names),
        )
    return training.network, progress


def _prove(
    initial: RetrievalNetwork,
    tuned: RetrievalNetwork,
    progress: Progress,
    proving: Prover,
    learned: Fitted,
) -> tuple[TrainResult, dict[Row, Candidate]]:
    """Move `tuned` back towards `initial` as far as is asked for, and compare all rows."""
    config = proving.config
    share = settle(
        tuned,
        initial,
        config.loop.initial_share,
        lambda network: proving.validation(network, learned).map_of_details,
    )
    candidates = proving.candidates(initial, tuned, learned)
    size = proving.descriptions.image_size
    return judge(candidates, config.keep, progress, image_size=size, initial_share=share), candidates


def _outputs(out: Path) -> list[Path]:
    """The files that the stage answers for.

    A calibration may be learned again later, without training; nothing hangs on where the time went.
    """
    passing = (_CHECKPOINT, ".lock", CALIBRATION, PROFILE, TRACE)
    return [path for path in out.iterdir() if path.is_file() and path.name not in passing]


def _with_local(
    network: RetrievalNetwork, pairs_dir: Path, out: Path, sources: Sources, descriptions: Descriptions
) -> RetrievalNetwork:
    """The network that is handed out with its local head, and what teaching it was like in local.json."""
    config = sources.config
    assert config.network.local is not None
    headed = network.with_local(config.network.local)
    lessons = read_lessons(
        pairs_dir,
        descriptions.collection,
        sources.head_models,
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
