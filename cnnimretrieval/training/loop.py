"""The training loop: per epoch, draw and mine examples with the network as it is, then learn from them."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.batches import Examples, load_batches
from cnnimretrieval.training.checkpoint import EpochLog, Progress, load_checkpoint, save_checkpoint
from cnnimretrieval.training.classes import all_that_learns, classes_of, learn_too
from cnnimretrieval.training.context import Training
from cnnimretrieval.training.divergence import Diverged, before_training, stopped
from cnnimretrieval.training.mining import examples_of_epoch
from cnnimretrieval.training.optimiser import build_optimizer, set_rate
from cnnimretrieval.training.step import Learner
from groundwork.random_streams import random_stream

logger = logging.getLogger(__name__)

# Scores of the network as it is: called before the first epoch (0) and after each.
Validate = Callable[[RetrievalNetwork], dict[str, float]]
# Sees what is learned from next, with the number of the epoch.
KeepExamples = Callable[[int, Examples], None]


def run_loop(
    training: Training,
    checkpoint: Path,
    key: str,
    validate: Validate,
    keep_examples: KeepExamples = lambda epoch, examples: None,
) -> Progress:
    """Fine-tune the network in place and return a log per epoch, the initial network's first.

    Goes on from `checkpoint` when that was made with the same `key`; an interrupted training ends with the
    same weights as an unbroken one. Running statistics of BatchNorm stay as they are, its affine weights
    learn, as published. A training that diverges stops at once and leaves the checkpoint of the last sound
    epoch. ValueError then, and when the training places give no pair or no negative; OSError when a photo
    cannot be read any more.
    """
    network, config = training.network, training.config
    # In the order in memory that convolutions like; kept inputs need the layers below to stay as they are.
    network.to(training.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    optimizer, classes = build_optimizer(network, config), classes_of(training)
    learn_too(optimizer, classes, config.class_loss.rate_factor)
    learning = all_that_learns(network, classes)
    progress = load_checkpoint(checkpoint, key, learning, optimizer, most_epochs=config.epochs)
    if progress.epoch < 0:
        with before_training():
            progress = Progress(logs=(EpochLog(epoch=0, validation=validate(network)),))
        save_checkpoint(checkpoint, key, learning, optimizer, progress)
    for epoch in range(progress.epoch + 1, config.epochs + 1):
        started = time.monotonic()
        rate, learner = set_rate(optimizer, config, epoch), Learner(training, optimizer, classes)
        try:
            log = _learn_epoch(training, learner, epoch, keep_examples)
            seconds = round(time.monotonic() - started, 1)
            due = epoch % config.validation_epochs == 0 or epoch == config.epochs
            scores = validate(network) if due else {}
        except Diverged as found:
            raise stopped(found, epoch=epoch, step=learner.steps, rate=rate, checkpoint=checkpoint) from found
        log = log.model_copy(update={"learning_rate": rate, "seconds": seconds, "validation": scores})
        logger.info(_described(log))
        progress = Progress(logs=(*progress.logs, log))
        save_checkpoint(checkpoint, key, learning, optimizer, progress)
    return progress


def _learn_epoch(training: Training, learner: Learner, epoch: int, keep_examples: KeepExamples) -> EpochLog:
    losses, distances, missing = [], [], 0
    for examples in examples_of_epoch(training, random_stream(training.seed, "epoch", epoch)):
        keep_examples(epoch, examples)
        losses.append(_learn(training, learner, examples))
        learner.check()
        missing += int((examples.negatives < 0).sum())
        if examples.negative_distance is not None:
            distances.append(examples.negative_distance)
    return EpochLog(
        epoch=epoch,
        loss=float(np.mean(losses)),
        negative_distance=float(np.mean(distances)) if distances else None,
        missing_negatives=missing,
    )


def _learn(training: Training, learner: Learner, examples: Examples) -> float:
    """One pass over the examples; the mean loss of one before its own step."""
    return sum(learner.step(batch) for batch in load_batches(examples, training)) / len(examples.order)


def _described(log: EpochLog) -> str:
    scores = "".join(f", {name} {value:.4f}" for name, value in log.validation.items())
    short = (
        f", {log.missing_negatives} negatives missing: too few other places" if log.missing_negatives else ""
    )
    return f"epoch {log.epoch}: loss {log.loss:.4f}{scores}{short}, {log.seconds:.0f} s"
