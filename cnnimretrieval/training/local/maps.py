"""Maps that a local head learns from: those of photos of the training places, seen once, kept on disk."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from jaxtyping import Float, Float16, Int
from torch import Tensor

from cnnimretrieval.descriptors.extract import evaluating
from cnnimretrieval.descriptors.images import Frame, ImageRequest
from cnnimretrieval.descriptors.reading import read_each
from cnnimretrieval.descriptors.tensors import normalise
from cnnimretrieval.local.receptive_field import FieldFinder
from cnnimretrieval.networks.network import RetrievalNetwork
from groundwork.progress import progress


@dataclass(frozen=True, kw_only=True, eq=False)
class PhotoMap:
    """The map of one photo: activations row by row, and where its places lie in the photo.

    Attributes:
        activations: float16, a row a place.
        height: rows of the map; so is `width` its columns.
        centres: x, y in px of the full upright photo.
        half_px: half the distance of two places, in px of the photo.

    """

    activations: Float16[np.ndarray, "n c"]
    height: int
    width: int
    centres: Float[np.ndarray, "n 2"]
    half_px: float

    def places_of(self, xy: Float[np.ndarray, "k 2"]) -> Int[np.ndarray, " k"]:
        """The place nearest to each position in the photo; -1 for one beyond the map."""
        first = self.centres[0]
        columns, rows = np.rint((xy - first) / (2.0 * self.half_px)).astype(np.int64).T
        inside = (columns >= 0) & (columns < self.width) & (rows >= 0) & (rows < self.height)
        return np.where(inside, rows * self.width + columns, -1)


@contextmanager
def photo_maps(
    network: RetrievalNetwork,
    requests: Sequence[ImageRequest],
    sizes: Sequence[int],
    *,
    device: str,
    workers: int,
) -> Iterator[list[PhotoMap]]:
    """The maps of photos, each shown with its longest side of `sizes`; on disk, gone after the block.

    OSError naming the photo that cannot be read.
    """
    network.to(device)
    fields = FieldFinder(network)
    with TemporaryDirectory() as folder, evaluating(network):
        maps = []
        # By size, because what reads ahead does so at one; the order of the photos is that of the requests.
        found: dict[int, PhotoMap] = {}
        for size in sorted(set(sizes)):
            rows = [row for row, own in enumerate(sizes) if own == size]
            read = read_each([requests[row] for row in rows], size, workers=workers)
            both = zip(rows, read, strict=True)
            for row, loaded in progress(both, desc="maps", unit="photo", total=len(rows)):
                if loaded.levels is None:
                    raise OSError(loaded.message)
                levels = torch.from_numpy(loaded.levels).to(device)
                found[row] = _map_of(network, fields, levels, loaded.frame, Path(folder) / f"{row}.npy")
        maps = [found[row] for row in range(len(requests))]
        yield maps


def _map_of(
    network: RetrievalNetwork, fields: FieldFinder, levels: Tensor, frame: Frame, path: Path
) -> PhotoMap:
    images = normalise(levels[None], network.trunk.mean, network.trunk.std)
    with torch.inference_mode():
        found = network.stage_map(images)[0].float().cpu().numpy()
    height, width = found.shape[1:]
    np.save(path, found.reshape(len(found), -1).T.astype(np.float16))
    field = fields.of(*levels.shape[1:])
    return PhotoMap(
        activations=np.load(path, mmap_mode="r"),
        height=height,
        width=width,
        centres=frame.to_photo(field.centres(height, width)),
        half_px=0.5 * field.x.stride * frame.px_per_px,
    )
