"""The whitenings of a training, learned from its pairs or by PCA; none of them sees a held-out place."""

from collections.abc import Sequence

import numpy as np
from pydantic import Field, field_validator

from cnnimretrieval.descriptors.scales import require_factors
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.collection import QueryConfig
from cnnimretrieval.training.descriptions import Descriptions
from cnnimretrieval.training.sampling import draw_pairs
from cnnimretrieval.whitening.apply import Whitening
from cnnimretrieval.whitening.estimates import learn_whitening, pca_whitening
from groundwork.random_streams import random_stream
from groundwork.settings import Settings


class WhiteningConfig(Settings):
    """How both whitenings, by PCA and learned, are estimated."""

    dim: int | None = Field(
        default=None, gt=0, description="axes kept; all that carry something when not set"
    )
    shrinkage: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="towards a multiple of the identity; chosen where data are few when not set; both",
    )
    collection_share: float = Field(
        default=0.0, ge=0, le=1, description="of the collection's covariance in that of the pairs; learned"
    )
    pairs_per_query: int = Field(default=4, gt=0, description="drawn with replacement; learned")
    distorted_share: float = Field(
        default=0.0, ge=0, le=1, description="of the queries, each with a distortion of its own; learned"
    )
    scales: tuple[float, ...] = Field(
        default=(1.0,),
        min_length=1,
        description="with more than one, another whitening is estimated from descriptors of these scales; "
        "published are 1, 0.7071, 0.5; both",
    )

    @field_validator("scales")
    @classmethod
    def _one_or_several(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if len(scales) == 1 and scales != (1.0,):
            raise ValueError(
                f"scales: expected 1 alone, or several factors, got {scales}; 1,0.7071,0.5 is common"
            )
        return require_factors(scales)


def learned_from_pairs(
    descriptions: Descriptions,
    network: RetrievalNetwork,
    config: WhiteningConfig,
    query: QueryConfig,
    seed: int,
    *,
    scales: Sequence[float] = (1.0,),
) -> Whitening:
    """Learned whitening of the descriptors of `network`, from the training pairs and all training images.

    Queries are drawn from the pairs and shown as `query` says, but for the share of them that is distorted.
    """
    collection = descriptions.collection
    rng = random_stream(seed, "whitening pairs")
    num_queries = len(np.unique(collection.table.positives_of("train").query))
    queries, positives = draw_pairs(collection.table, config.pairs_per_query * num_queries, rng)
    shown = query.model_copy(update={"distorted_share": config.distorted_share})
    requests = [collection.query(int(row), shown, rng) for row in queries]
    database = descriptions.database(network, scales)
    query_vectors, numbers = database, queries.copy()
    # Those that are shown as they are have been described, as rows of the database.
    distorted = np.flatnonzero([request.edit is not None for request in requests])
    if len(distorted):
        found = descriptions.of(network, "whitening", [requests[number] for number in distorted], scales)
        query_vectors = np.concatenate([database, found])
        numbers[distorted] = len(database) + np.arange(len(distorted))
    rows = np.flatnonzero(~collection.table.is_val)
    return learn_whitening(
        database[rows],
        numbers,
        np.searchsorted(rows, positives),
        query_vectors=query_vectors,
        dim=config.dim,
        shrinkage=config.shrinkage,
        collection_share=config.collection_share,
    )


def pca_of_collection(
    descriptions: Descriptions,
    network: RetrievalNetwork,
    config: WhiteningConfig,
    *,
    scales: Sequence[float] = (1.0,),
) -> Whitening:
    """PCA whitening of the descriptors of `network`, from all training images."""
    vectors = descriptions.database(network, scales)[~descriptions.collection.table.is_val]
    return pca_whitening(vectors, dim=config.dim, shrinkage=config.shrinkage)
