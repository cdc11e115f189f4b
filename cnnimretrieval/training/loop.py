"""The training loop: per epoch, draw and mine examples with the network as it is, then learn from them."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.checkpoint import Checkpoints, EpochLog, Progress, Stateful
from cnnimretrieval.training.classes import all_that_learns, classes_of, learn_too
from cnnimretrieval.training.context import Training
from cnnimretrieval.training.divergence import Diverged, before_training, stopped
from cnnimretrieval.training.epoch import Epoch, KeepExamples
from cnnimretrieval.training.optimiser import build_optimizer, set_rate
from cnnimretrieval.training.step import Learner

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
    of the last sound step it kept. ValueError then, and when the training places give no pair or no negative;
    OSError when a photo cannot be read any more, or a checkpoint not be written: that before it stays.
    """
    network, config = training.network, training.config
    # In the order in memory that convolutions like; kept inputs need the layers below to stay as they are.
    network.to(training.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    optimizer, classes = build_optimizer(network, config), classes_of(training)
    learn_too(optimizer, classes, config.class_loss.rate_factor)
    parts: dict[str, Stateful] = {"network": all_that_learns(network, classes), "optimizer": optimizer}
    checkpoints = Checkpoints(checkpoint, key, parts, minutes=training.watch.checkpoint_minutes)
    progress = checkpoints.load(most_epochs=config.epochs)
    if progress.epoch < 0:
        with before_training():
            progress = Progress(logs=(EpochLog(epoch=0, validation=validate(network)),))
        checkpoints.save(progress)
    for number in range(progress.epoch + 1, config.epochs + 1):
        rate, learner = set_rate(optimizer, config, number), Learner(training, optimizer, classes)
        try:
            log = _learn_epoch(training, learner, progress, checkpoints, keep_examples)
            due = number % config.validation_epochs == 0 or number == config.epochs
            scores = validate(network) if due else {}
        except Diverged as found:
            raise stopped(found, epoch=number, step=learner.steps, rate=rate, kept=checkpoints) from found
        log = log.model_copy(update={"learning_rate": rate, "validation": scores})
        logger.info(_described(log))
        progress = Progress(logs=(*progress.logs, log))
        checkpoints.save(progress)
    return progress


def _learn_epoch(
    training: Training,
    learner: Learner,
    progress: Progress,
    checkpoints: Checkpoints,
    keep_examples: KeepExamples,
) -> EpochLog:
    """Learn from the epoch after those of `progress`, or from what is left of it; keep how far that came."""
    if progress.begun is None:
        epoch = Epoch(number=progress.epoch + 1, learner=learner)
    else:
        epoch = Epoch.resumed(progress.begun, learner)

    def pause() -> None:
        if checkpoints.due:
            checkpoints.save(Progress(logs=progress.logs, begun=epoch.state_dict()))

    return epoch.learn(training, keep_examples, pause)


def _described(log: EpochLog) -> str:
    scores = "".join(f", {name} {value:.4f}" for name, value in log.validation.items())
    short = (
        f", {log.missing_negatives} negatives missing: too few other places" if log.missing_negatives else ""
    )
    return f"epoch {log.epoch}: loss {log.loss:.4f}{scores}{short}, {log.seconds:.0f} s"
