"""Local features of queries and database for a spatial step, by the method that it names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.local.detected import PhotoFeatures, detection
from cnnimretrieval.local.features import LocalFeatures
from cnnimretrieval.local.pyramid import PyramidConfig, describe_locally
from cnnimretrieval.local.store import LocalStore, read_local
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.search.spatial import LOCAL, FeaturesOf, SpatialConfig, Verifier
from sfm.kept_features import kept_features

# Beside the descriptors of a folder: what was found in its photos for re-ranking.
CACHE = "keypoints"


@dataclass(frozen=True, kw_only=True, eq=False)
class Searched:
    """A database whose rows can be looked at.

    Attributes:
        request_of: what a row shows.
        stores: opens the local features that the network left of the rows; only where they are asked for.
        store_of: the number of the store, and the row in it, of a row of the database.
        cache: a folder for what is found in photos, so that none is searched twice.

    """

    request_of: Callable[[int], ImageRequest]
    stores: Callable[[], Sequence[LocalStore]]
    store_of: Callable[[int], tuple[int, int]]
    cache: Path


def local_features(folder: Path, images: pd.DataFrame) -> LocalStore:
    """Those that `extract --local` left in a folder of descriptors, of which `images` is the table.

    FileNotFoundError when there are none. ValueError when they are damaged, or of other photos, as before
    some were added or removed.
    """
    store = read_local(folder)
    if store.images["name"].tolist() != images["name"].tolist():
        raise ValueError(
            f"local features {store.folder}: expected those of the {len(images):,} photos in {folder}, got "
            f"those of {len(store.images):,} others; extract the photos again with --local"
        )
    return store


def verifiers(
    config: SpatialConfig,
    network: RetrievalNetwork,
    queries: Sequence[ImageRequest],
    searched: Searched,
    *,
    device: str = "cpu",
    workers: int = 1,
) -> list[Verifier]:
    """A verifier for each query, by the network's local features or those that `config.features` names.

    Where a reconstruction kept the latter, what is missing there, the queries' for instance, is found as it
    found its own, in photos of the same size.

    ValueError when the network has no local head, or another network left the features of the database;
    FileNotFoundError when it left none.
    """
    if config.features == LOCAL:
        return _by_network(config, network, queries, searched, device, workers)
    kept = None if config.sfm is None else kept_features(config.sfm, config.features)
    found = detection(config.features, config.max_features) if kept is None else kept.config
    photo_features = partial(PhotoFeatures, config=found, cache=searched.cache, workers=workers, kept=kept)
    queries_of, of_rows = photo_features(queries.__getitem__), photo_features(searched.request_of)
    queries_of.prepare(range(len(queries)))
    return [Verifier(partial(_only, queries_of, number), of_rows, config) for number in range(len(queries))]


def _by_network(
    config: SpatialConfig,
    network: RetrievalNetwork,
    queries: Sequence[ImageRequest],
    searched: Searched,
    device: str,
    workers: int,
) -> list[Verifier]:
    if network.local is None:
        raise ValueError(
            f"spatial re-ranking: expected a network with a local head, got {network.config.backbone}:"
            f"{network.config.pooling} without; add features=sift, which needs none"
        )
    stores = searched.stores()
    for store in stores:
        store.require_maker(network.fingerprint())
        if store.meta.settings != stores[0].meta.settings:
            raise ValueError(
                f"local features {store.folder}: expected the settings of {stores[0].folder}, got others; "
                "extract all photos with the same --local-set"
            )
    pyramid = PyramidConfig.model_validate(stores[0].meta.settings)
    found = describe_locally(network, queries, pyramid, device=device, workers=min(workers, len(queries)))

    def of_rows(rows: Sequence[int]) -> list[LocalFeatures]:
        places = [searched.store_of(row) for row in rows]
        return [stores[number].at(row) for number, row in places]

    return [Verifier(partial(_same, features), of_rows, config) for features, _ in found]


def _only(features: FeaturesOf, row: int) -> LocalFeatures:
    return features([row])[0]


def _same(features: LocalFeatures) -> LocalFeatures:
    return features
