"""The whitenings of a training, learned from its pairs or by PCA, and what they are estimated from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import Field, field_validator

from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.scales import require_factors
from cnnimretrieval.training.photos.collection import QueryConfig
from cnnimretrieval.training.photos.descriptions import Descriptions
from cnnimretrieval.training.photos.sampling import draw_pairs
from cnnimretrieval.whitening.pair_statistics import PairStatistics, gather
from groundwork.random_streams import random_stream
from groundwork.settings import Settings

Chosen = Literal["chosen"]


class WhiteningConfig(Settings):
    """How both whitenings, by PCA and learned, are estimated."""

    dim: int | None = Field(
        default=None, gt=0, description="axes kept; all that carry something when not set"
    )
    shrinkage: float | Chosen | None = Field(
        default=None,
        description="towards a multiple of the identity, 0 to 1; by formula where data are few if not set; "
        "or chosen, by leaving training places out, for each of the two; both",
    )
    collection_share: float | Chosen = Field(
        default=0.0,
        description="of the collection's covariance in that of the pairs, 0 to 1, or chosen in the same way; "
        "learned",
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

    @field_validator("shrinkage", "collection_share")
    @classmethod
    def _share(cls, value: float | Chosen | None) -> float | Chosen | None:
        if not isinstance(value, str | None) and not 0.0 <= value <= 1.0:
            raise ValueError(f"expected a share from 0 to 1, or chosen, got {value:g}; choose one of them")
        return value

    @field_validator("scales")
    @classmethod
    def _one_or_several(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if len(scales) == 1 and scales != (1.0,):
            raise ValueError(
                f"scales: expected 1 alone, or several factors, got {scales}; 1,0.7071,0.5 is common"
            )
        return require_factors(scales)

    @property
    def is_chosen(self) -> bool:
        """Whether a number is left to be chosen."""
        return self.shrinkage == "chosen" or self.collection_share == "chosen"

    @property
    def given(self) -> "Shares":
        """The shares as they are given; what is left to be chosen as if it was not set."""
        shrinkage = None if self.shrinkage == "chosen" else self.shrinkage
        return Shares(
            shrinkage=shrinkage,
            collection=0.0 if self.collection_share == "chosen" else self.collection_share,
            pca_shrinkage=shrinkage,
        )


@dataclass(frozen=True, kw_only=True)
class Shares:
    """What makes few pairs usable, see `whitening.estimates.learn_whitening`; and the same for PCA."""

    shrinkage: float | None
    collection: float
    pca_shrinkage: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class PairSample:
    """The descriptors that a learned whitening is estimated from, not whitened.

    `query` are rows of `query_vectors`, which begin with those of `database`; `positive` are rows of
    `database`, the whole collection; `place` is that of each pair.
    """

    database: Float[np.ndarray, "n d"]
    query_vectors: Float[np.ndarray, "q d"]
    query: Int[np.ndarray, " m"]
    positive: Int[np.ndarray, " m"]
    place: Int[np.ndarray, " m"]

    def without(self, places: Int[np.ndarray, " p"]) -> "PairSample":
        """The same without the pairs of these places."""
        kept = ~np.isin(self.place, places)
        return replace(self, query=self.query[kept], positive=self.positive[kept], place=self.place[kept])

    def statistics(self, fitted: Bool[np.ndarray, " n"]) -> PairStatistics:
        """What a whitening is learned from: these pairs, and the covariance of the images that are `fitted`.

        The positives of all pairs have to be among them.
        """
        rows = np.flatnonzero(fitted)
        return gather(
            self.database[rows],
            self.query,
            np.searchsorted(rows, self.positive),
            query_vectors=self.query_vectors,
        )


def sample_pairs(
    descriptions: Descriptions,
    network: RetrievalNetwork,
    config: WhiteningConfig,
    query: QueryConfig,
    seed: int,
    *,
    scales: Sequence[float] = (1.0,),
) -> PairSample:
    """Pairs of the training places, described by `network`: the same pairs for any network.

    Queries are shown as `query` says, but for the share of them that is distorted.
    """
    collection = descriptions.collection
    rng = random_stream(seed, "whitening pairs")
    num_queries = len(np.unique(collection.table.positives_of("train").query))
    queries, positives = draw_pairs(collection.table, config.pairs_per_query * num_queries, rng)
    shown = query.model_copy(update={"distorted_share": config.distorted_share})
    requests = [
        collection.query(int(row), shown, rng, int(positive))
        for row, positive in zip(queries, positives, strict=True)
    ]
    database = descriptions.database(network, scales)
    query_vectors, numbers = database, queries.copy()
    # Those that are shown as they are have been described, as rows of the database.
    distorted = np.flatnonzero([request.edit is not None for request in requests])
    if len(distorted):
        found = descriptions.of(network, "whitening", [requests[number] for number in distorted], scales)
        query_vectors = np.concatenate([database, found])
        numbers[distorted] = len(database) + np.arange(len(distorted))
    return PairSample(
        database=database,
        query_vectors=query_vectors,
        query=numbers,
        positive=positives,
        place=collection.table.place[queries],
    )
