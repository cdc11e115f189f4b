"""Local features of queries and database for a spatial step, by the method that it names."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.local.detected import PhotoFeatures, detection
from cnnimretrieval.local.features import LocalFeatures
from cnnimretrieval.search.spatial import LOCAL, FeaturesOf, SpatialConfig, Verifier

# Beside the descriptors of a folder: what was found in its photos for re-ranking.
CACHE = "keypoints"


def verifiers(
    config: SpatialConfig,
    queries: Sequence[ImageRequest],
    request_of: Callable[[int], ImageRequest],
    *,
    cache: Path,
    workers: int = 1,
) -> list[Verifier]:
    """A verifier for each query, by features that are found in the photos of the rows when they are needed.

    `request_of` says what a row of the database shows. What was found lies in `cache`, so that no photo is
    searched twice. ValueError for `features=local`, which no photo alone has.
    """
    if config.features == LOCAL:
        raise ValueError(
            "spatial re-ranking: expected a network with a local head and features that `extract --local` "
            "wrote, got none; add features=sift, which needs neither"
        )
    found = detection(config.features, config.max_features)
    queries_of = PhotoFeatures(queries.__getitem__, found, cache=cache, workers=workers)
    queries_of.prepare(range(len(queries)))
    of_rows = PhotoFeatures(request_of, found, cache=cache, workers=workers)
    return [Verifier(partial(_only, queries_of, number), of_rows, config) for number in range(len(queries))]


def _only(features: FeaturesOf, row: int) -> LocalFeatures:
    return features([row])[0]
