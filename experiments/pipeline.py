"""The stages of one run in their order; each skips what is done, so running again continues."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from cnnimretrieval.distributed import on_all
from cnnimretrieval.training.fine_tune import fine_tune
from cnnimretrieval.training.result import TrainResult
from experiments import machine, manifest, metrics, rounds
from experiments.counts import Mining, Reconstruction
from experiments.engine import Engine
from experiments.initial import with_descriptors
from experiments.manifest import Manifest
from experiments.metrics import Metrics
from experiments.settings.run_config import RunConfig
from groundwork.files import sweep
from groundwork.lock import hold
from groundwork.records import verify
from pairs.mine import mine
from sfm.collection import require_folder, scan
from sfm.reconstruct import reconstruct

logger = logging.getLogger(__name__)
T = TypeVar("T")

SFM, PAIRS, MODEL = "sfm", "pairs", "model"


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How, and by what words, a run was started; nothing here changes its result.

    Attributes:
        device: where networks run, as torch names it.
        engine: where the reconstruction runs; its number of workers also holds for networks.
        command: the words of the command line.
        protocol: where the settings came from.
        overrides: every `--set`, as written.
        verify: read all files of earlier runs first, and make damaged ones again.

    """

    device: str
    engine: Engine
    command: tuple[str, ...] = ()
    protocol: str = ""
    overrides: tuple[str, ...] = ()
    verify: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run leaves for people: its counts and scores, and the page that shows them."""

    metrics: Metrics
    report: Path


def run(photos: Path, work: Path, config: RunConfig, execution: Execution) -> Outcome:
    """From the photos to a proven network, all in `work`: reconstruct, mine, train, report.

    Whatever is done there with the same settings is kept. Each stage logs a line.

    Raises:
        UsageFault: weights that cannot be read or do not fit, before any work.
        FolderInUse: another process writes `work`.
        ValueError: the photos are not enough to learn from; the message says what is missing.

    """
    started, clock = datetime.now(UTC), time.monotonic()
    step = _Steps(total=3 * config.rounds + 1)
    with ExitStack() as locks:
        for folder in (work, work / PAIRS, work / MODEL):  # a reconstruction locks its own folder
            locks.enter_context(hold(folder))
        machine.check_weights(config.train, config.weights)
        sweep(work)
        if execution.verify:
            for damaged in verify(work):
                logger.warning("%s: not what its record says; it is made again", damaged)
        for stale in (metrics.FILE, manifest.FILE):
            (work / stale).unlink(missing_ok=True)
        counts = _rounds(photos, work, config, execution, step)
        metrics.save(counts, work)
        seconds = time.monotonic() - clock
        manifest.save(_manifest(photos, work, config, execution, counts, started, seconds), work)
        report = step("report", lambda: _report(work))
    return Outcome(metrics=counts, report=report)


class _Steps:
    """Runs one stage after the other and logs what each gave and how long it took this time."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._number = 0

    def __call__(self, name: str, stage: Callable[[], T]) -> T:
        started = time.monotonic()
        result = stage()
        self._number += 1
        seconds = time.monotonic() - started
        logger.info("[%d/%d] %s: %s, %.1f s", self._number, self._total, name, _summary(result), seconds)
        return result

    def skip(self, number: int) -> None:
        """Count stages that are not run."""
        self._number += number


def _summary(result: object) -> str:
    if isinstance(result, TrainResult):
        return f"kept {result.kept.replace('_', ' ')}, mAP {result.evaluation[result.kept].map:.4f}"
    return str(result)


def _rounds(photos: Path, work: Path, config: RunConfig, execution: Execution, step: _Steps) -> Metrics:
    """Every round, those that are kept left out, until one finds nothing new; the counts and scores."""
    if config.rounds == 1:
        rounds.take_up(work, config, "")
        return _round(photos, work, config, execution, step)
    require_folder(photos)
    with execution.engine.open(photos, work / SFM) as executor, hold(work / SFM):
        collection_key = scan(photos, work / SFM, config.sfm.scan, executor).key
    told = rounds.take_up(work, config, collection_key)
    for kept in told:
        step.skip(3)
        logger.info("%s; kept", kept)
    for number in range(len(told) + 1, config.rounds + 1):
        rounds.begin(work, number)
        found = _round(photos, work, rounds.with_candidates(work, number, config), execution, step)
        told.append(rounds.count_round(work, number, found.sfm, found.pairs, found.evaluation))
        logger.info("%s", told[-1])
        if number > 1 and not told[-1].new_trusted:
            logger.info("round %d found nothing new: the run ends with it", number)
            break
        if number < config.rounds:
            key = rounds.round_key(number, config, collection_key)
            on, workers = execution.device, execution.engine.workers
            rounds.keep_round(photos, work, key, told[-1], config, device=on, workers=workers)
    return found.model_copy(update={"rounds": tuple(told)})


def _round(photos: Path, work: Path, config: RunConfig, execution: Execution, step: _Steps) -> Metrics:
    found = step("reconstruct", lambda: _reconstruct(photos, work, config, execution))
    mined = step("mine", lambda: _mine(photos, work, config, execution))
    trained = step("train", lambda: _train(work, config, execution))
    return Metrics(sfm=found, pairs=mined, train=trained.train, evaluation=trained.evaluation)


def _reconstruct(photos: Path, work: Path, config: RunConfig, execution: Execution) -> Reconstruction:
    with execution.engine.open(photos, work / SFM) as executor:
        reconstruct(photos, work / SFM, config.sfm, executor)
    return Reconstruction.read(work / SFM)


def _mine(photos: Path, work: Path, config: RunConfig, execution: Execution) -> Mining:
    settings = with_descriptors(
        config,
        photos,
        work / SFM,
        work / PAIRS / "descriptors",
        device=execution.device,
        workers=execution.engine.workers,
    )
    mine(work / SFM, work / PAIRS, settings)
    return Mining.read(work / PAIRS)


def _train(work: Path, config: RunConfig, execution: Execution) -> TrainResult:
    learn = partial(
        fine_tune,
        work / PAIRS,
        work / MODEL,
        config.train,
        weights=config.weights,
        workers=execution.engine.workers,
    )
    return on_all(learn, execution.device)


def _report(work: Path) -> Path:
    # Here, because plotting takes long to import and is not needed before the end.
    from experiments.report.page import write_report

    return write_report(work)


def _manifest(
    photos: Path,
    work: Path,
    config: RunConfig,
    execution: Execution,
    counts: Metrics,
    started: datetime,
    seconds: float,
) -> Manifest:
    return Manifest(
        command=execution.command,
        started=started.isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        seed=config.seed,
        protocol=execution.protocol,
        overrides=execution.overrides,
        config=config.model_dump(mode="json"),
        weights=config.weights,
        photos=str(photos.resolve()),
        input_sha256=manifest.input_hash(work / SFM / "collection.parquet"),
        packages=manifest.installed(),
        machine=manifest.this_machine(execution.device),
        scores=(told := counts.model_dump(mode="json"))["evaluation"],
        rounds=told.get("rounds", []),
    )
