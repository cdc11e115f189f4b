"""What follows the loop: whitenings of a network, the rows of the proof, the network that is handed out."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from cnnimretrieval.evaluation.heldout import Proof
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.photos.descriptions import Descriptions
from cnnimretrieval.training.proof.collection_whitening import Shares, sample_pairs
from cnnimretrieval.training.proof.rows import (
    Candidate,
    Fitted,
    Row,
    candidate,
    choosing_proof,
    fit_learned,
    fit_pca,
)
from cnnimretrieval.training.proof.whitening_choice import choose_shares
from cnnimretrieval.training.settings.train_config import TrainConfig
from cnnimretrieval.whitening.apply import Whitening


def prover(descriptions: Descriptions, initial: RetrievalNetwork, config: TrainConfig) -> "Prover":
    """With the shares of the learned whitening chosen by the initial network, where they are to be chosen."""
    if not config.whitening.is_chosen:
        return Prover(descriptions, config, config.whitening.given)
    sample = sample_pairs(descriptions, initial, config.whitening, config.loop.query, config.seed)
    vectors = descriptions.query_vectors(initial)
    shares = choose_shares(sample, descriptions.queries, vectors, config.whitening, config.seed)
    return Prover(descriptions, config, shares)


@dataclass(frozen=True, eq=False)
class Prover:
    """Whitens and proves networks on one collection, by one config and with the same `shares` for all."""

    descriptions: Descriptions
    config: TrainConfig
    shares: Shares

    def learned(self, network: RetrievalNetwork, scales: Sequence[float] = (1.0,)) -> Fitted:
        """The learned whitening of the descriptors of `network` at these scales."""
        settings, query = self.config.whitening, self.config.loop.query
        sample = sample_pairs(self.descriptions, network, settings, query, self.config.seed, scales=scales)
        return fit_learned(self.descriptions, network, sample, self.shares, settings.dim)

    def pca(self, network: RetrievalNetwork, scales: Sequence[float] = (1.0,)) -> Fitted:
        """PCA whitening, in the same way."""
        settings = self.config.whitening
        return fit_pca(self.descriptions, network, self.shares.pca_shrinkage, settings.dim, scales=scales)

    def seen(self, learned: Fitted) -> Whitening | None:
        """How the loss sees descriptors: as `learned` whitens them, or None for as they are."""
        return learned.handed_out if self.config.loop.through_whitening else None

    def validation(self, network: RetrievalNetwork, learned: Fitted) -> Proof:
        """What the descriptors that the loss sees reach on the queries to choose by: see `choosing_proof`."""
        return choosing_proof(self.descriptions, network, self.seen(learned))

    def candidates(
        self, initial: RetrievalNetwork, tuned: RetrievalNetwork, learned: Fitted
    ) -> dict[Row, Candidate]:
        """The rows, from what is simplest to get; `learned` is the whitening of the initial network."""
        row = partial(candidate, self.descriptions)
        found: dict[Row, Candidate] = {
            "off_the_shelf": row(initial, None),
            "off_the_shelf_pca": row(initial, self.pca(initial)),
            "off_the_shelf_whitened": row(initial, learned),
            "fine_tuned": row(tuned, None),
        }
        if self.config.loop.through_whitening:
            found["fine_tuned_loss_whitening"] = row(tuned, learned)
        return {**found, "fine_tuned_whitened": row(tuned, self.learned(tuned))}

    def finished(self, chosen: Candidate) -> RetrievalNetwork:
        """The chosen network with its whitening, and with that of several scales where it is asked for."""
        network, fitted, scales = chosen.network, chosen.whitened, self.config.whitening.scales
        network.whitening = None if fitted is None else fitted.handed_out
        if fitted is not None and len(scales) > 1:
            again = self.pca if fitted.handed_out.kind == "pca" else self.learned
            network.multi_scale_whitening = again(fitted.network, scales).handed_out
        return network
