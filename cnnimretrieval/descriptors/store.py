"""Stage: photos to a folder of descriptors, with what was described and how; reading such a folder."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import ValidationError

from cnnimretrieval.descriptors.extract import Described, ExtractConfig, describe
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork
from cnnimretrieval.whitening.apply import Whitening
from cnnimretrieval.whitening.apply import apply as apply_whitening
from groundwork.files import atomic_path, create_array, read_table, write_json, write_table
from groundwork.keys import key_of
from groundwork.records import load_done, mark_done
from groundwork.settings import Values

_STAGE = "extract"
_VECTORS = "vectors.npy"
_IMAGES = "images.parquet"
_REJECTED = "rejected.parquet"
_META = "meta.json"


class StoreMeta(Values):
    """How the descriptors of a folder were made; `network` is the fingerprint of network and whitening."""

    version: int = 1
    photos: str
    network_config: NetworkConfig
    network: str
    whitening: str | None
    extraction: ExtractConfig
    described: int
    rejected: int


@dataclass(frozen=True, kw_only=True, eq=False)
class DescriptorStore:
    """A folder of descriptors, its vectors memory-mapped.

    Row r of `vectors` (unit length) belongs to row r of `images`: `name, x1, y1, x2, y2` (the box, NaN for
    the whole photo). `rejected` has `name, reason` of what could not be described.
    """

    vectors: Float[np.ndarray, "n d"]
    images: pd.DataFrame
    rejected: pd.DataFrame
    meta: StoreMeta

    def require_network(self, network: RetrievalNetwork) -> None:
        """ValueError unless `network`, with its whitening as it is, made these descriptors."""
        learned = network.whitening_for(self.meta.extraction.scales)
        whitening = learned if self.meta.whitening is not None else None
        if _fingerprint(network, whitening) != self.meta.network:
            raise ValueError(
                f"descriptors: expected the network that made them ({self.meta.network_config.backbone}:"
                f"{self.meta.network_config.pooling}, fingerprint {self.meta.network[:12]}), got another; "
                "extract the photos again with this network"
            )


def extract(
    network: RetrievalNetwork,
    requests: Sequence[ImageRequest],
    photos: Path,
    out: Path,
    config: ExtractConfig,
    *,
    whiten: bool = True,
    device: str = "cpu",
    workers: int = 0,
) -> DescriptorStore:
    """Describe `requests`, photos below `photos` or boxes of them, into `out`, unless that is done already.

    The network's whitening is applied when it has one and `whiten` is left on. A photo that cannot be read
    is listed in rejected.parquet. Names are paths below `photos`. ValueError when nothing could be
    described.
    """
    if any(request.edit is not None or request.rotation_deg != 0.0 for request in requests):
        raise ValueError(
            "extract: expected photos and boxes, got edited or rotated ones; call describe on them"
        )
    started = time.perf_counter()
    whitening = network.whitening_for(config.scales) if whiten else None
    fingerprint = _fingerprint(network, whitening)
    key = key_of(_STAGE, fingerprint, config, [_facts(request, photos) for request in requests])
    if load_done(out, _STAGE, key) is None:
        (out / _META).unlink(missing_ok=True)
        described = _describe_into(out, network, requests, config, whitening, device, workers)
        write_table(out / _IMAGES, _images(requests, photos, described))
        write_table(out / _REJECTED, _rejected(photos, described))
        meta = StoreMeta(
            photos=str(photos.resolve()),
            network_config=network.config,
            network=fingerprint,
            whitening=None if whitening is None else whitening.note,
            extraction=config,
            described=len(described.positions),
            rejected=len(described.failures),
        )
        write_json(out / _META, meta.model_dump(mode="json"))
        outputs = [out / name for name in (_VECTORS, _IMAGES, _REJECTED, _META)]
        mark_done(out, _STAGE, key, seconds=time.perf_counter() - started, outputs=outputs)
    return read_store(out)


def read_store(folder: Path) -> DescriptorStore:
    """The descriptors in a folder of `extract`; FileNotFoundError or ValueError when it holds none."""
    for name in (_META, _VECTORS, _IMAGES, _REJECTED):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"descriptors: expected a folder that was extracted to its end, got {folder} without {name}; "
                "extract again"
            )
    try:
        meta = StoreMeta.model_validate_json((folder / _META).read_bytes())
        vectors = np.load(folder / _VECTORS, mmap_mode="r")
        images, rejected = read_table(folder / _IMAGES), read_table(folder / _REJECTED)
    except (ValidationError, ValueError, EOFError) as error:
        raise ValueError(
            f"descriptors {folder}: expected files of this version, got {type(error).__name__}; extract again"
        ) from error
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise ValueError(
            f"descriptors {folder}: expected real vectors (n, d), got {vectors.dtype} of shape "
            f"{vectors.shape}; extract again"
        )
    if len(images) != len(vectors):
        raise ValueError(
            f"descriptors {folder}: expected as many names as vectors, got {len(images)} and {len(vectors)}; "
            "extract again"
        )
    return DescriptorStore(vectors=vectors, images=images, rejected=rejected, meta=meta)


def _describe_into(
    out: Path,
    network: RetrievalNetwork,
    requests: Sequence[ImageRequest],
    config: ExtractConfig,
    whitening: Whitening | None,
    device: str,
    workers: int,
) -> Described:
    plain_path = out / (_VECTORS if whitening is None else "unwhitened.npy")
    described = describe(network, requests, config, device=device, workers=workers, out=plain_path)
    if not len(described.positions):
        first = described.failures[0].reason if described.failures else "an empty list"
        plain_path.unlink()
        raise ValueError(f"extract: expected at least one readable photo, got {first}")
    if whitening is not None:
        with atomic_path(out / _VECTORS) as unfinished:
            shape = (len(described.vectors), whitening.dim)
            whitened = create_array(unfinished, shape, np.float32)
            apply_whitening(whitening, described.vectors, out=whitened)
            whitened.flush()
        plain_path.unlink()
    return described


def _fingerprint(network: RetrievalNetwork, whitening: Whitening | None) -> str:
    return key_of(network.fingerprint(), None if whitening is None else whitening.fingerprint())


def _facts(request: ImageRequest, photos: Path) -> list[Any]:
    """What decides about a descriptor, apart from the network; a missing file has no size or time."""
    try:
        found = request.path.stat()
        size, modified_ns = found.st_size, found.st_mtime_ns
    except OSError:
        size, modified_ns = -1, -1
    box = None if request.box is None else list(request.box)
    return [_name(request.path, photos), size, modified_ns, box]


def _name(path: Path, photos: Path) -> str:
    # As everywhere: bytes of a name that are no UTF-8 are shown as \xNN.
    return os.fsencode(path.relative_to(photos).as_posix()).decode("utf-8", "backslashreplace")


def _images(requests: Sequence[ImageRequest], photos: Path, described: Described) -> pd.DataFrame:
    used = [requests[position] for position in described.positions]
    boxes = np.array([request.box or (np.nan,) * 4 for request in used], np.float64)
    table = pd.DataFrame({"name": [_name(request.path, photos) for request in used]})
    return table.assign(x1=boxes[:, 0], y1=boxes[:, 1], x2=boxes[:, 2], y2=boxes[:, 3])


def _rejected(photos: Path, described: Described) -> pd.DataFrame:
    names = [_name(failure.path, photos) for failure in described.failures]
    return pd.DataFrame(
        {"name": names, "reason": [failure.reason for failure in described.failures]}, dtype=str
    )
