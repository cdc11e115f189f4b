"""The public Python interface: open a network, describe photos with it."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from cnnimretrieval.descriptors.extract import SEES_NOTHING, ExtractConfig, describe, describe_batch
from cnnimretrieval.descriptors.images import ImageRequest, resize_longest
from cnnimretrieval.descriptors.tensors import to_levels
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.open import load as open_network
from cnnimretrieval.search.confidence import Calibration, read_calibration
from cnnimretrieval.whitening.apply import apply
from groundwork.descriptor_folder import unit_rows
from groundwork.exif import read_orientation
from groundwork.levels import to_rgb
from groundwork.orientation import upright


def load(model: str | PathLike[str], *, weights: str | None = None, device: str = "cpu") -> "Describer":
    """The network MODEL, ready to describe photos on `device`.

    `model` is a folder that training wrote, a checkpoint of the reference toolbox, or an off-the-shelf
    BACKBONE[:POOLING], for which `weights` may be given. ValueError or FileNotFoundError when there is no
    sound one.
    """
    return Describer(open_network(str(model), weights), device, read_calibration(str(model)))


class Describer:
    """A network with its whitening, which turns photos into vectors; `network` is the torch module.

    `calibration` tells what scores are worth, where the network's folder has one.
    """

    def __init__(
        self, network: RetrievalNetwork, device: str = "cpu", calibration: Calibration | None = None
    ) -> None:
        self.network = network.to(device).eval()
        self.device = device
        self.calibration = calibration

    def describe(
        self,
        images: Sequence[str | PathLike[str] | Image.Image],
        *,
        image_size: int | None = None,
        scales: Sequence[float] | None = None,
        whiten: bool = True,
        workers: int = 0,
    ) -> Float[np.ndarray, "n d"]:
        """Unit rows, float32, of files or pictures in the order given.

        Photos are turned upright by their EXIF and shrunk to a longest side of `image_size` px. `scales` are
        factors on top of that. Both are what the network's folder names, else 1024 px at scale 1, unless
        given. The network's whitening is applied where it has one and `whiten` is left on.
        `workers` processes read files ahead. OSError that names a file that is no photo, ValueError for a
        picture in which the network sees nothing.
        """
        config = ExtractConfig.meant_for(self.network.config, image_size=image_size, scales=scales)
        rows = np.empty((len(images), self.network.dim), np.float32)
        files = [row for row, image in enumerate(images) if not isinstance(image, Image.Image)]
        requests = [ImageRequest(path=Path(images[row])) for row in files]  # type: ignore[arg-type]
        if files:
            found = describe(self.network, requests, config, device=self.device, workers=workers)
            rows[files] = found.require_all()
        for row, image in enumerate(images):
            if isinstance(image, Image.Image):
                rows[row] = self._describe_picture(image, config)
        whitening = self.network.whitening_for(config.scales) if whiten else None
        vectors = rows if whitening is None else apply(whitening, rows)
        sound = unit_rows(vectors)
        if not sound.all():
            raise ValueError(
                f"image {int(np.flatnonzero(~sound)[0])}: expected a descriptor of length 1, got none, for "
                f"{SEES_NOTHING}; leave it out or take another network"
            )
        return vectors

    def _describe_picture(self, image: Image.Image, config: ExtractConfig) -> Float[np.ndarray, " d"]:
        picture = resize_longest(upright(to_rgb(image), read_orientation(image)), config.image_size)
        levels = to_levels(picture)[None].to(self.device)
        with torch.no_grad():
            return describe_batch(self.network, levels, config)[0].cpu().numpy()
