"""A benchmark's descriptors: from folders of `extract` that are there, or made for the occasion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from cnnimretrieval.descriptors.images import Box, ImageRequest
from cnnimretrieval.descriptors.store import DescriptorStore, StoreMeta, read_meta, read_store
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.search.photo_rows import PhotoRows
from groundwork.descriptor_folder import BOX
from groundwork.shards import Rows, Selection


@dataclass(frozen=True, kw_only=True, eq=False)
class Located:
    """The descriptors of some photos: that of photo i is row `row_of[i]`, -1 where it could not be read.

    `unreadable` has the names of the latter and the reasons. `photo_rows` where photos have several rows: the
    one in `row_of` is the first of them.
    """

    vectors: Rows
    row_of: Int[np.ndarray, " n"]
    unreadable: Mapping[str, str]
    photo_rows: PhotoRows | None = None


def read_ready(folder: Path, network: RetrievalNetwork, *, whiten: bool) -> DescriptorStore:
    """The descriptors in a folder of `extract`, checked: of this network, whitened or not.

    ValueError naming the folder otherwise, FileNotFoundError when it holds none.
    """
    meta = ready_meta(folder, network, whiten=whiten)
    store, whitening = read_store(folder), network.whitening_for(meta.extraction.scales)
    dim = network.dim if whitening is None or meta.whitening is None else whitening.dim
    if store.vectors.shape[1] != dim:
        raise ValueError(
            f"descriptors {folder}: expected length {dim}, got {store.vectors.shape[1]}; extract again"
        )
    return store


def ready_meta(folder: Path, network: RetrievalNetwork, *, whiten: bool) -> StoreMeta:
    """As `read_ready`, of how the descriptors were made; they themselves are not read."""
    meta = read_meta(folder)
    try:
        meta.require_network(network)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    whitening, whitened = network.whitening_for(meta.extraction.scales), meta.whitening is not None
    if whitened != (whiten and whitening is not None):
        kinds = ("unwhitened", "whitened")
        raise ValueError(
            f"descriptors {folder}: expected {kinds[not whitened]} ones, got {kinds[whitened]} ones; "
            "extract and evaluate with the same --whitening"
        )
    return meta


def locate(store: DescriptorStore, requests: Sequence[ImageRequest], photos: Path, where: str) -> Located:
    """The rows of `store` that describe `requests`, photos below `photos` or boxes of them.

    ValueError, which calls the store `where`, for one that is neither described nor was rejected.
    """
    sides = store.images[list(BOX)].to_numpy(np.float64)
    described = {
        (name, None if np.isnan(box[0]) else tuple(box)): row
        for row, (name, box) in enumerate(zip(store.images["name"], sides.tolist(), strict=True))
    }
    rejected = dict(zip(store.rejected["name"], store.rejected["reason"], strict=True))
    rows, unreadable = [], {}
    for request in requests:
        name = request.path.relative_to(photos).as_posix()
        row = described.get((name, request.box), -1)
        if row < 0 and name not in rejected:
            raise ValueError(
                f"descriptors {where}: expected {_shown(name, request.box)}, got none of it; "
                "extract all photos of the benchmark, with their boxes"
            )
        if row < 0:
            unreadable[name] = rejected[name]
        rows.append(row)
    return _selected(store, np.array(rows, np.int64), unreadable)


def _selected(store: DescriptorStore, rows: Int[np.ndarray, " n"], unreadable: Mapping[str, str]) -> Located:
    found = rows >= 0
    used = rows[found]
    if store.meta.regions is not None:
        return _with_their_windows(store, rows, unreadable)
    row_of = np.where(found, np.cumsum(found) - 1, -1)
    # Photos that no request asks for are not searched, nor read.
    everything = np.array_equal(used, np.arange(len(store.vectors)))
    vectors = store.vectors if everything else Selection(store.vectors, used)
    return Located(vectors=vectors, row_of=row_of, unreadable=unreadable)


def _with_their_windows(
    store: DescriptorStore, rows: Int[np.ndarray, " n"], unreadable: Mapping[str, str]
) -> Located:
    """As `_selected`, with all rows of each photo."""
    first_row = PhotoRows.of_names(store.images["name"]).first_row
    used = np.flatnonzero(np.isin(first_row, rows))
    row_of = np.where(rows >= 0, np.searchsorted(used, rows), -1)
    everything = len(used) == len(store.vectors)
    return Located(
        vectors=store.vectors if everything else Selection(store.vectors, used),
        row_of=row_of,
        unreadable=unreadable,
        photo_rows=PhotoRows(first_row=np.searchsorted(used, first_row[used])),
    )


def _shown(name: str, box: Box | None) -> str:
    return f"'{name}'" if box is None else f"'{name}' in {','.join(f'{side:g}' for side in box)}"
