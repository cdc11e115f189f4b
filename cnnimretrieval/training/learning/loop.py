"""The training loop: per epoch, draw and mine examples with the network as it is, then learn from them."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.epoch import Epoch, KeepExamples
from cnnimretrieval.training.learning.state import LearningState, start
from cnnimretrieval.training.safeguards.checkpoint import Checkpoints, EpochLog, Progress
from cnnimretrieval.training.safeguards.divergence import Diverged, before_training, stopped
from cnnimretrieval.training.safeguards.early_stopping import out_of_patience
from cnnimretrieval.training.safeguards.out_of_memory import OutOfMemory

logger = logging.getLogger(__name__)

# Scores of the network as it is: called before the first epoch (0) and after each.
Validate = Callable[[RetrievalNetwork], dict[str, float]]


def run_loop(
    training: Training,
    checkpoint: Path,
    key: str,
    validate: Validate,
    keep_examples: KeepExamples = lambda epoch, examples: None,
) -> Progress:
    """Fine-tune the network in place and return a log per epoch, the initial network's first.

    Goes on from `checkpoint` when that was made with the same `key`; a training that was interrupted at any
    moment ends with the same weights as an unbroken one. Running statistics of BatchNorm stay as they are,
    its affine weights learn, as published. A training that diverges stops at once and leaves the checkpoint
    of the last sound step it kept; so does one that needs more memory than its GPU has, with RuntimeError.
    ValueError then, and when the training places give no pair or no negative;
    OSError when a photo cannot be read any more, or a checkpoint not be written: that before it stays.
    """
    config, state = training.config, start(training)
    checkpoints = Checkpoints(checkpoint, key, state.parts, minutes=training.watch.checkpoint_minutes)
    progress = checkpoints.load(most_epochs=config.epochs)
    steps = 0 if progress.begun is None else progress.begun["learner"]["steps"]
    training.journal.go_on(progress.epoch, steps, max(0, progress.epoch) * config.steps_per_epoch + steps)
    if progress.epoch < 0:
        with before_training():
            progress = Progress(logs=(EpochLog(epoch=0, validation=validate(state.shown)),))
        checkpoints.save(progress)
    for number in range(progress.epoch + 1, config.epochs + 1):
        if out_of_patience(progress.logs, config.patience):
            logger.info("stopped after epoch %d: no better than before %d times", number - 1, config.patience)
            break
        epoch = _next_epoch(training, state, progress)
        try:
            log = epoch.learn(keep_examples, partial(_keep, checkpoints, progress, epoch))
            if number % config.validation_epochs == 0 or number == config.epochs:
                with training.clock.part("score"):
                    log = log.model_copy(update={"validation": validate(state.shown)})
        except Diverged as found:
            raise stopped(found, epoch=number, step=epoch.steps, rate=epoch.rate, kept=checkpoints) from found
        except OutOfMemory as found:
            raise found.at(epoch=number, step=epoch.steps, kept=checkpoints) from found
        logger.info(_described(log))
        training.journal.epoch(log, epoch.at)
        progress = Progress(logs=(*progress.logs, log))
        state.scored(progress.logs)
        checkpoints.save(progress)
    state.hand_out()
    training.journal.close()
    return progress


def _next_epoch(training: Training, state: LearningState, progress: Progress) -> Epoch:
    """The epoch after those of `progress`, or what is left of it."""
    if progress.begun is not None:
        return Epoch.resumed(training, state, progress.begun)
    return Epoch(training=training, state=state, number=progress.epoch + 1)


def _keep(checkpoints: Checkpoints, progress: Progress, epoch: Epoch) -> None:
    """Keep how far the epoch after those of `progress` has come, if it is time to."""
    if checkpoints.due:
        with epoch.training.clock.part("keep"):
            checkpoints.save(Progress(logs=progress.logs, begun=epoch.state_dict()))


def _described(log: EpochLog) -> str:
    scores = "".join(f", {name} {value:.4f}" for name, value in log.validation.items())
    short = (
        f", {log.missing_negatives} negatives missing: too few other places" if log.missing_negatives else ""
    )
    short += f", {log.skipped_steps} steps skipped" if log.skipped_steps else ""
    return f"epoch {log.epoch}: loss {log.loss:.4f}{scores}{short}, {log.seconds:.0f} s"
