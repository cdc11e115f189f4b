"""Stage: the photos of an extracted folder to their local features, beside the descriptors, in shards."""

import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.local.pyramid import PyramidConfig, describe_locally
from cnnimretrieval.local.store import (
    FOLDER,
    STAGE,
    LocalMeta,
    LocalStore,
    finish,
    read_local,
    shard_name,
    write_shard,
)
from cnnimretrieval.networks.network import RetrievalNetwork
from groundwork.descriptor_folder import BOX, folder_key, read_descriptor_folder
from groundwork.keys import key_of
from groundwork.names import name_below
from groundwork.records import load_done, mark_done, prune

_VERSION = 1
# Photos whose features are written together, and lost together when the process is killed.
_SHARD = 256


def extract_local(
    network: RetrievalNetwork,
    requests: Sequence[ImageRequest],
    photos: Path,
    folder: Path,
    config: PyramidConfig,
    *,
    device: str = "cpu",
    workers: int = 0,
) -> LocalStore:
    """Write the local features of the photos that `folder` has descriptors of, unless that is done already.

    `requests` are those that the descriptors were made of. A call that was interrupted goes on at the shard
    it was at. A photo that cannot be read any more has no features, and the reason in the index. ValueError
    when the network has no local head.
    """
    _, head = network.require_local()
    started = time.perf_counter()
    images = read_descriptor_folder(folder).images[["name", *BOX]]
    used = _requests_of(images, requests, photos)
    maker = network.fingerprint()
    key = key_of(STAGE, _VERSION, maker, config, folder_key(folder))
    inside = folder / FOLDER
    if load_done(inside, STAGE, key) is not None:
        return read_local(folder)
    shards = range(-(-len(used) // _SHARD))
    for shard in shards:
        rows = slice(shard * _SHARD, (shard + 1) * _SHARD)
        name, its_key = shard_name(shard), key_of(key, shard)
        if load_done(inside, name, its_key) is None:
            found = list(describe_locally(network, used[rows], config, device=device, workers=workers))
            table = images[rows].assign(reason=pd.Series([reason for _, reason in found], images[rows].index))
            path = write_shard(folder, shard, [features for features, _ in found], table, head.dim)
            mark_done(inside, name, its_key, outputs=[path])
    prune(inside, "shard-*", [shard_name(shard) for shard in shards])
    meta = LocalMeta(
        maker=maker,
        method=f"{network.config.backbone}, {head.config.reduction}, {head.config.attention} attention",
        dim=head.dim,
        settings=config.model_dump(mode="json"),
    )
    return finish(folder, len(shards), meta, key, seconds=time.perf_counter() - started)


def _requests_of(images: pd.DataFrame, requests: Sequence[ImageRequest], photos: Path) -> list[ImageRequest]:
    """The request of each row; those that gave no descriptor are left out, the others are in their order."""
    names = images["name"].tolist()
    boxes = images[list(BOX)].to_numpy()
    used: list[ImageRequest] = []
    for request in requests:
        if len(used) == len(names):
            break
        box = boxes[len(used)]
        same_box = (request.box is None) if box[0] != box[0] else request.box == tuple(box.tolist())
        if same_box and name_below(request.path, photos) == names[len(used)]:
            used.append(request)
    if len(used) < len(names):
        raise ValueError(
            f"local features: expected descriptors of the photos in {photos}, got one of "
            f"'{names[len(used)]}'; extract the photos again"
        )
    return used
