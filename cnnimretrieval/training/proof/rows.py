"""The rows of the proof: networks with whitenings as they could be handed out, and what each reaches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from cnnimretrieval.evaluation.heldout import Proof, prove, ranking_table
from cnnimretrieval.evaluation.queries import Situation, SituationName
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.photos.descriptions import Descriptions
from cnnimretrieval.training.proof.collection_whitening import PairSample, Shares
from cnnimretrieval.whitening.apply import Whitening, apply
from cnnimretrieval.whitening.estimates import pca_whitening
from pairs.heldout import Purpose

Row = Literal[
    "off_the_shelf",
    "off_the_shelf_pca",
    "off_the_shelf_whitened",
    "fine_tuned",
    "fine_tuned_loss_whitening",
    "fine_tuned_whitened",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A whitening estimated twice, from the descriptors of `network`.

    `handed_out` has seen nothing that is held out. `whole_collection` has all photos in its covariance, those
    of held-out places too, though never their pairs: so is the whitening of somebody who searches the photos
    that it was fitted to.
    """

    network: RetrievalNetwork
    handed_out: Whitening
    whole_collection: Whitening

    def of(self, situation: SituationName) -> Whitening:
        """The one that a situation is about."""
        return self.whole_collection if situation == "own_collection" else self.handed_out


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A network as it could be handed out, `whitened` or not, and what it reaches.

    `reported` and `choosing` are its proofs on the queries of either purpose, the situation that decides
    first; `rankings` are of the first reported one.
    """

    network: RetrievalNetwork
    whitened: Fitted | None
    reported: tuple[Proof, ...]
    choosing: tuple[Proof, ...]
    rankings: pd.DataFrame

    @property
    def score(self) -> float:
        """What candidates are compared by; where no place could be set aside, what is reported."""
        return choosing_score(self.choosing or self.reported)


def choosing_score(proofs: Sequence[Proof]) -> float:
    """Mean mAP of details over the situations of places that are not trained on, where there are some.

    Queries of training places choose the shares of whitening; here they would favour whatever fits most.
    """
    unseen = [proof for proof in proofs if proof.situation != "own_places"] or proofs
    return float(np.mean([proof.map_of_details for proof in unseen]))


def fit_pca(
    descriptions: Descriptions,
    network: RetrievalNetwork,
    shrinkage: float | None,
    dim: int | None,
    *,
    scales: Sequence[float] = (1.0,),
) -> Fitted:
    """PCA whitening of the descriptors of `network`."""
    database = descriptions.database(network, scales)
    seen = ~descriptions.collection.table.is_val
    return Fitted(
        network=network,
        handed_out=pca_whitening(database[seen], dim=dim, shrinkage=shrinkage),
        whole_collection=pca_whitening(database, dim=dim, shrinkage=shrinkage),
    )


def fit_learned(
    descriptions: Descriptions,
    network: RetrievalNetwork,
    sample: PairSample,
    shares: Shares,
    dim: int | None,
) -> Fitted:
    """Learned whitening of the descriptors of `network`, of which `sample` is."""
    seen = ~descriptions.collection.table.is_val
    handed_out, whole_collection = (
        sample.statistics(fitted).whitening(
            dim=dim, shrinkage=shares.shrinkage, collection_share=shares.collection
        )
        for fitted in (seen, np.ones_like(seen))
    )
    return Fitted(network=network, handed_out=handed_out, whole_collection=whole_collection)


def candidate(descriptions: Descriptions, network: RetrievalNetwork, whitened: Fitted | None) -> Candidate:
    """`network`, whitened or not, in every situation that there are queries for."""
    shown = _Shown(descriptions, network, whitened)
    first = descriptions.queries.situations("report")[0]
    reported = shown.proofs("report")
    return Candidate(
        network=network,
        whitened=whitened,
        reported=reported,
        choosing=shown.proofs("choose"),
        rankings=ranking_table(descriptions.queries, first, *shown.vectors(first), reported[0]),
    )


def choosing_proof(
    descriptions: Descriptions, network: RetrievalNetwork, whitening: Whitening | None
) -> Proof:
    """What `network` reaches on the queries to choose by, in the situation that decides.

    Where no place could be set aside, they are those to report of. Nothing but these queries and what they
    are searched among is described.
    """
    queries = descriptions.queries
    situation = (queries.situations("choose") or queries.situations("report"))[0]
    vectors = descriptions.of_situation(network, situation)
    if whitening is not None:
        vectors = apply(whitening, vectors[0]), apply(whitening, vectors[1])
    return prove(queries, situation, *vectors)


class _Shown:
    """The descriptors of one network, asked for once, as each situation shows them."""

    def __init__(
        self, descriptions: Descriptions, network: RetrievalNetwork, whitened: Fitted | None
    ) -> None:
        self._queries, self._whitened = descriptions.queries, whitened
        self._asked, self._database = descriptions.query_vectors(network), descriptions.database(network)

    def proofs(self, purpose: Purpose) -> tuple[Proof, ...]:
        """What is reached in each situation that there are queries of this purpose for."""
        return tuple(
            prove(self._queries, situation, *self.vectors(situation))
            for situation in self._queries.situations(purpose)
        )

    def vectors(self, situation: Situation) -> tuple[Float[np.ndarray, "q k"], Float[np.ndarray, "n k"]]:
        """The descriptors of what is asked and of what is searched in this situation."""
        asked, searched = self._asked[situation.queries], situation.searched(self._database)
        if self._whitened is None:
            return asked, searched
        whitening = self._whitened.of(situation.name)
        return apply(whitening, asked), apply(whitening, searched)
