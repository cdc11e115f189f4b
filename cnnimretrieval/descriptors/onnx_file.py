"""A network as one ONNX file: levels of photos in, finished descriptors out, for any batch and size.

Normalisation, pooling, whitening and L2 norm are inside. What onnxruntime computes from the file is compared
with PyTorch before the file gets its name.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from cnnimretrieval.descriptors.tensors import normalise
from cnnimretrieval.networks.masked_regions import for_any_size
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.pooling import l2_normalise
from cnnimretrieval.whitening.apply import Whitening
from groundwork.files import atomic_path

INPUT, OUTPUT = "images", "descriptors"
# Heights and widths that are compared, in px: lying, standing, and of odd sides.
TRIED_SIZES = ((96, 128), (160, 96), (131, 97))
TRIED_BATCHES = (1, 3)
# Of the components of unit vectors, whitened: measured 5e-7 at most, in every family of networks.
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Written:
    """A file that holds a network: the length of its descriptors and how far they are from PyTorch's."""

    path: Path
    dim: int
    largest_difference: float


class Finished(nn.Module):
    """RGB levels to descriptors as they are searched: all that `describe` does with a photo at one scale."""

    mean: Tensor
    projection: Tensor

    def __init__(self, network: RetrievalNetwork, whitening: Whitening | None) -> None:
        super().__init__()
        self.network = network.with_pooling(for_any_size(network.pool))
        self.whitens = whitening is not None
        if whitening is not None:
            self.register_buffer("mean", torch.from_numpy(whitening.mean).float())
            self.register_buffer("projection", torch.from_numpy(whitening.projection).float())

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Unit descriptors of upright pictures, whitened where there is a whitening."""
        trunk = self.network.trunk
        descriptors: Tensor = self.network(normalise(images, trunk.mean, trunk.std))
        if not self.whitens:
            return descriptors
        return l2_normalise((descriptors - self.mean) @ self.projection.T)


def export_onnx(network: RetrievalNetwork, path: Path, *, whiten: bool = True) -> Written:
    """Write `network`, with its whitening of one scale, to `path`.

    The file takes `images`, uint8 (batch, 3, height, width), RGB levels of upright photos at the size at
    which they are to be described, and gives `descriptors`, float32 (batch, d), unit rows. ValueError when a
    package is missing, when the network cannot be written for any size, or when onnxruntime disagrees.
    """
    require_packages()
    network = network.cpu().eval()
    finished = Finished(network, network.whitening if whiten else None).eval()
    with atomic_path(path) as unfinished:
        program = _traced(finished)
        program.model.metadata_props.update(_facts(network, finished))
        program.save(unfinished, external_data=False)
        difference = require_agreement(finished, unfinished)
    dim = len(finished.projection) if finished.whitens else network.dim
    return Written(path=path, dim=dim, largest_difference=difference)


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


def require_agreement(finished: Finished, path: Path) -> float:
    """How far apart onnxruntime and PyTorch are in any component; ValueError when that is no rounding."""
    difference = largest_difference(finished, path)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"export {path}: expected onnxruntime to give PyTorch's descriptors to {TOLERANCE:g}, got a "
            f"difference of {difference:.2g}; keep the network in our own format"
        )
    return difference


def largest_difference(finished: Finished, path: Path) -> float:
    """The same without a limit, over `TRIED_SIZES` and `TRIED_BATCHES`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    only_size = finished.network.trunk.only_size
    generator, found = np.random.default_rng(0), 0.0
    for height, width in TRIED_SIZES if only_size is None else (only_size,):
        for batch in TRIED_BATCHES:
            images = generator.integers(0, 256, (batch, 3, height, width), dtype=np.uint8)
            with torch.inference_mode():
                ours = finished(torch.from_numpy(images)).numpy()
            theirs = session.run([OUTPUT], {INPUT: images})[0]
            if theirs.shape != ours.shape or not np.isfinite(theirs).all():
                return float("inf")
            found = max(found, float(np.abs(ours - theirs).max()))
    return found


def _traced(finished: Finished) -> Any:
    trunk = finished.network.trunk
    height, width = trunk.only_size or TRIED_SIZES[0]
    sides = {} if trunk.only_size else {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    try:
        with _quiet():
            return torch.onnx.export(
                finished,
                (torch.zeros(2, 3, height, width, dtype=torch.uint8),),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC, **sides}},
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(
            f"export to ONNX: expected a network that is one graph for photos of any size, got {trunk.name}, "
            f"which is none ({reason}); choose another network"
        ) from error


def _facts(network: RetrievalNetwork, finished: Finished) -> dict[str, str]:
    facts = {
        "network": network.config.model_dump(mode="json"),
        "fingerprint": network.fingerprint(),
        "whitening": network.whitening.note if finished.whitens and network.whitening else None,
        "input": "uint8 RGB levels, (batch, 3, height, width), upright",
    }
    return {f"cnnimretrieval.{name}": json.dumps(value) for name, value in facts.items()}


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
