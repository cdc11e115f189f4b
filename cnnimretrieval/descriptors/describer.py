"""A network with all that decides how it describes photos, and the file of unit vectors that it makes."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnnimretrieval.descriptors.extract import Described, ExtractConfig
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.parts import describe_in_parts
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.whitening.apply import Whitening, apply
from groundwork.descriptor_folder import unit_rows
from groundwork.files import atomic_path, create_array, keep_rows
from groundwork.shards import blocks

_BLOCK = 16384
_PLAIN = "unwhitened.npy"


@dataclass(frozen=True)
class Describer:
    """How photos become rows of a folder of descriptors."""

    network: RetrievalNetwork
    config: ExtractConfig
    whitening: Whitening | None
    device: str
    workers: int
    executor: Executor | None = None

    def into(self, path: Path, requests: Sequence[ImageRequest]) -> Described:
        """Descriptors of `requests`, whitened where there is a whitening, as a file; it may be empty."""
        plain_path = path if self.whitening is None else path.with_name(_PLAIN)
        described = describe_in_parts(
            self.network,
            requests,
            self.config,
            plain_path,
            device=self.device,
            workers=self.workers,
            executor=self.executor,
        )
        if self.whitening is None:
            return described
        with atomic_path(path) as unfinished:
            shape = (len(described.vectors), self.whitening.dim)
            whitened = create_array(unfinished, shape, np.float32)
            apply(self.whitening, described.vectors, out=whitened)
            sound = [unit_rows(block) for _, block in blocks(whitened, _BLOCK)]
            described = described.only(np.concatenate([np.empty(0, np.bool_), *sound]), requests, whitened)
            whitened.flush()
            keep_rows(unfinished, len(described.positions))
        plain_path.unlink()
        return described
