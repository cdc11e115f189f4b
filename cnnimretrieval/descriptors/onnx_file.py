"""A network as one ONNX file, checked in onnxruntime."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cnnimretrieval.descriptors.finished import INPUT, OUTPUT, Finished, Run, Written
from cnnimretrieval.networks.network import RetrievalNetwork
from groundwork.files import atomic_path


def export_onnx(network: RetrievalNetwork, path: Path, *, whiten: bool = True) -> Written:
    """Write `network`, with its whitening of one scale, to `path`.

    The file takes `images`, uint8 (batch, 3, height, width), RGB levels of upright photos at the size at
    which they are to be described, and gives `descriptors`, float32 (batch, d), unit rows. ValueError when a
    package is missing, when the network cannot be written for any size, or when onnxruntime disagrees.
    """
    require_packages()
    finished = Finished.of(network, whiten=whiten)
    with atomic_path(path) as unfinished:
        program = _traced(finished)
        facts = {f"cnnimretrieval.{name}": json.dumps(value) for name, value in finished.facts.items()}
        program.model.metadata_props.update(facts)
        program.save(unfinished, external_data=False)
        difference = finished.require_agreement(path, in_onnxruntime(unfinished), "onnxruntime")
    return Written(path=path, dim=finished.dim, largest_difference=difference)


def require_packages() -> None:
    """ValueError, one line, unless what writes and checks ONNX files is installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"export to ONNX: expected the packages onnx, onnxruntime and onnxscript, got {error}; "
            "pip install 'cnnimretrieval[onnx]'"
        ) from error


def in_onnxruntime(path: Path) -> Run:
    """Runs the network of a file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]


def _traced(finished: Finished) -> Any:
    try:
        with _quiet():
            return torch.onnx.export(
                finished,
                (finished.example(),),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=finished.free_sides(),
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise finished.no_graph(error, "ONNX") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter tells about its own work."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
