"""Stage: photos to a folder of descriptors, with what was described and how; reading such a folder."""

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from cnnimretrieval.descriptors import growth
from cnnimretrieval.descriptors.describer import Describer
from cnnimretrieval.descriptors.extract import Described, ExtractConfig
from cnnimretrieval.descriptors.images import PIXELS_VERSION, ImageRequest
from cnnimretrieval.descriptors.windows import RegionConfig, with_windows
from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork
from cnnimretrieval.whitening.apply import Whitening
from groundwork.descriptor_folder import (
    BOX,
    IMAGES,
    META,
    REJECTED,
    STAGE,
    VECTORS,
    VERSION,
    read_descriptor_folder,
)
from groundwork.files import read_table, size_and_time, write_json, write_table
from groundwork.keys import key_of
from groundwork.names import counted, name_below
from groundwork.records import load_done, mark_done
from groundwork.settings import Values

# Results of another one are made anew.
_VERSION = 4


class StoreMeta(Values):
    """How the descriptors of a folder were made; `network` is the fingerprint of network and whitening.

    With `regions`, windows of every photo are described beside it: `described` counts them, too.
    """

    version: int = VERSION
    photos: str
    network_config: NetworkConfig
    network: str
    whitening: str | None
    extraction: ExtractConfig
    regions: RegionConfig | None = None
    described: int
    rejected: int

    def require_network(self, network: RetrievalNetwork) -> None:
        """ValueError unless `network`, with its whitening as it is, made the descriptors."""
        learned = network.whitening_for(self.extraction.scales)
        whitening = learned if self.whitening is not None else None
        if fingerprint_of(network, whitening) != self.network:
            raise ValueError(
                f"descriptors: expected the network that made them ({self.network_config.backbone}:"
                f"{self.network_config.pooling}, fingerprint {self.network[:12]}), got another; "
                "extract the photos again with this network"
            )


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

    def request(self, row: int) -> ImageRequest:
        """What a row describes: a photo, where it was when it was described, or the box of one."""
        image = self.images.iloc[row]
        sides = tuple(float(image[side]) for side in BOX)
        box = None if np.isnan(sides[0]) else (sides[0], sides[1], sides[2], sides[3])
        return ImageRequest(path=Path(self.meta.photos) / str(image["name"]), box=box)

    def photo_request(self, row: int) -> ImageRequest:
        """What the result of a row shows: of a window all of its photo, else what the row describes."""
        request = self.request(row)
        return request if self.meta.regions is None else ImageRequest(path=request.path)

    def require_network(self, network: RetrievalNetwork) -> None:
        """ValueError unless `network`, with its whitening as it is, made these descriptors."""
        self.meta.require_network(network)


def extract(
    network: RetrievalNetwork,
    requests: Sequence[ImageRequest],
    photos: Path,
    out: Path,
    config: ExtractConfig,
    *,
    regions: RegionConfig | None = None,
    passed_over: Mapping[str, str] = MappingProxyType({}),
    whiten: bool = True,
    device: str = "cpu",
    workers: int = 0,
    executor: Executor | None = None,
) -> DescriptorStore:
    """Describe `requests`, photos below `photos` or boxes of them, into `out`, unless that is done already.

    Where `out` holds descriptors that the same network made with the same settings, photos are known by their
    content: only new ones are described, and those that are gone are marked so in contents.parquet. The
    result is that of a new folder, on a CPU to the last bit but for the rounding of a whitening.
    A call that was interrupted goes on in the middle; with `executor` photos are described by its tasks, and
    under `torchrun` by all ranks (`cnnimretrieval.descriptors.parts`).
    With `regions` the windows of a photo are rows behind its own; a window in which the network sees nothing
    has none, and whoever searches takes the best row of a photo (`cnnimretrieval.search.photo_rows`).
    The network's whitening is applied when it has one and `whiten` is left on. A photo that cannot be read
    is listed in rejected.parquet, as is what was passed over before: names and reasons. Names are paths below
    `photos`. ValueError when nothing could be described.
    """
    if any(request.edit is not None or request.rotation_deg != 0.0 for request in requests):
        raise ValueError(
            "extract: expected photos and boxes, got edited or rotated ones; call describe on them"
        )
    if not requests:
        raise _nothing_readable(passed_over.values())
    started = time.perf_counter()
    if regions is not None:
        requests = with_windows(requests, regions)
    whitening = network.whitening_for(config.scales) if whiten else None
    fingerprint = fingerprint_of(network, whitening)
    facts = [_facts(request, photos) for request in requests]
    windows = () if regions is None else (regions,)
    key = key_of(STAGE, _VERSION, PIXELS_VERSION, fingerprint, config, facts, dict(passed_over), *windows)
    if load_done(out, STAGE, key) is None:
        made = key_of(_VERSION, PIXELS_VERSION, fingerprint, config)
        earlier = growth.read_earlier(out, key, made)
        contents = growth.contents_of(requests, photos, earlier)
        describer = Describer(network, config, whitening, device, workers, executor)
        described = growth.describe_new(describer, requests, contents, earlier, out)
        if not len(described.positions):
            (out / VECTORS).unlink()
            raise _nothing_readable([failure.reason for failure in described.failures])
        write_table(out / IMAGES, _images(requests, photos, described))
        rejected = _rejected(photos, described, passed_over, requests if regions else ())
        write_table(out / REJECTED, rejected)
        write_table(out / growth.CONTENTS, growth.with_rows(contents, described.positions, earlier))
        meta = StoreMeta(
            photos=str(photos.resolve()),
            network_config=network.config,
            network=fingerprint,
            whitening=None if whitening is None else whitening.note,
            extraction=config,
            regions=regions,
            described=len(described.positions),
            rejected=len(rejected),
        )
        write_json(out / META, meta.model_dump(mode="json", exclude=None if regions else {"regions"}))
        outputs = [out / name for name in (VECTORS, IMAGES, REJECTED, growth.CONTENTS, META)]
        seconds = time.perf_counter() - started
        mark_done(out, STAGE, key, seconds=seconds, basis={"made": made}, outputs=outputs)
    return read_store(out)


def read_store(folder: Path) -> DescriptorStore:
    """The descriptors in a folder of `extract`, checked: see `read_descriptor_folder`.

    FileNotFoundError or ValueError when it holds none, or is not whole.
    """
    _require_files(folder)
    found = read_descriptor_folder(folder)
    rejected = read_table(folder / REJECTED, remedy="extract again")
    for column in ("name", "reason"):
        if column not in rejected or not all(isinstance(text, str) for text in rejected[column]):
            raise ValueError(
                f"descriptors {folder / REJECTED}: expected a column of text '{column}', got none; "
                "extract again"
            )
    meta = read_meta(folder)
    counts = (meta.described, meta.rejected)
    if counts != (len(found.vectors), len(rejected)):
        raise ValueError(
            f"descriptors {folder}: expected {counts[0]} descriptors and {counts[1]} rejected photos as in "
            f"{META}, got {len(found.vectors)} and {len(rejected)}; extract again"
        )
    return DescriptorStore(vectors=found.vectors, images=found.images, rejected=rejected, meta=meta)


def read_meta(folder: Path) -> StoreMeta:
    """How the descriptors in a folder were made; they themselves are not read. Errors are `read_store`'s."""
    _require_files(folder)
    return StoreMeta.load(
        folder / META, thing="descriptors", expected="what extract wrote", remedy="extract again"
    )


def _require_files(folder: Path) -> None:
    for name in (META, VECTORS, IMAGES, REJECTED):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"descriptors: expected a folder that was extracted to its end, got {folder} without {name}; "
                "extract again"
            )


def _nothing_readable(reasons: Collection[str]) -> ValueError:
    got = f"{len(reasons)} files ({counted(reasons)})" if reasons else "no file"
    return ValueError(f"extract: expected at least one readable photo, got {got}; check the path")


def fingerprint_of(network: RetrievalNetwork, whitening: Whitening | None) -> str:
    """Of all that decides what a photo is described as, but for size and scales."""
    return key_of(network.fingerprint(), None if whitening is None else whitening.fingerprint())


def _facts(request: ImageRequest, photos: Path) -> list[Any]:
    """What decides about a descriptor, apart from the network; a missing file has no size or time."""
    box = None if request.box is None else list(request.box)
    return [name_below(request.path, photos), *size_and_time(request.path), box]


def _images(requests: Sequence[ImageRequest], photos: Path, described: Described) -> pd.DataFrame:
    used = [requests[position] for position in described.positions]
    boxes = np.array([request.box or (np.nan,) * 4 for request in used], np.float64)
    table = pd.DataFrame({"name": [name_below(request.path, photos) for request in used]})
    return table.assign(x1=boxes[:, 0], y1=boxes[:, 1], x2=boxes[:, 2], y2=boxes[:, 3])


def _rejected(
    photos: Path,
    described: Described,
    passed_over: Mapping[str, str],
    with_windows: Sequence[ImageRequest],
) -> pd.DataFrame:
    """Names and reasons; a window of `with_windows` that could not be described is no photo."""
    rows = [
        (name_below(failure.path, photos), failure.reason)
        for failure in described.failures
        if not with_windows or with_windows[failure.position].box is None
    ]
    table = pd.DataFrame([*rows, *passed_over.items()], columns=["name", "reason"], dtype=str)
    return table.sort_values("name", kind="stable", ignore_index=True)
