"""What a command needs from the machine and from files of weights, checked before any long work begins."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cnnimretrieval import distributed
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.open import load
from cnnimretrieval.training.settings.train_config import TrainConfig
from cnnimretrieval.training.sources import initial_network
from experiments.exit_codes import UsageFault


def device(name: str) -> str:
    """The device to compute on; "auto" is the first GPU if there is one, else the CPU.

    Raises:
        UsageFault: no such device here.

    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    gpus = torch.cuda.device_count()
    if name not in ("cpu", *["cuda"][:gpus], *(f"cuda:{number}" for number in range(gpus))):
        raise UsageFault(
            f"--device: expected auto, cpu or one of {gpus} GPUs as cuda:N, got '{name}'; use auto"
        )
    return name


@contextmanager
def ranks(device: str) -> Iterator[str | None]:
    """`distributed.led`: the device of rank 0, which runs the command, and None on the ranks that helped it.

    These are silent but for errors.
    """
    if distributed.is_follower():
        for package in ("groundwork", "cnnimretrieval", "experiments"):
            logging.getLogger(package).setLevel(logging.ERROR)
    with distributed.led(device) as own:
        yield own


def load_network(model: str, weights: str | None, whitening_from: str | None = None) -> RetrievalNetwork:
    """The network MODEL, a folder, a checkpoint or BACKBONE[:POOLING], with `weights` for the latter.

    A checkpoint may bring whitenings learned from several data sets: `whitening_from` names one of them.

    Raises:
        UsageFault: neither, weights that cannot be read or belong to another architecture, or a whitening
            that is not there.
        OSError: a download that failed.

    """
    try:
        return load(model, weights, whitening_from)
    except (ValueError, FileNotFoundError) as error:
        raise UsageFault(str(error)) from error


def require_local(network: RetrievalNetwork, model: str) -> None:
    """UsageFault unless the network MODEL has a local head."""
    try:
        network.require_local()
    except ValueError as error:
        raise UsageFault(f"{model}: {error}") from error


def check_weights(config: TrainConfig, weights: str) -> None:
    """Build the network once, so that wrong weights stop a run at its start and not after an hour.

    Raises:
        UsageFault: weights that cannot be read or belong to another architecture, or a file for a layer that
            does not fit it.
        OSError: a download that failed.

    """
    try:
        initial_network(config, weights)
    except (ValueError, FileNotFoundError) as error:
        raise UsageFault(str(error)) from error
