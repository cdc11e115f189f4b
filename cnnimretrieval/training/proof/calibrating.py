"""A network's calibration from the places that choices are made on, of its own collection."""

from pathlib import Path

import numpy as np

from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.store import fingerprint_of
from cnnimretrieval.distributed import is_first
from cnnimretrieval.evaluation.calibrate import Results, first_results, fit
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.search.confidence import CALIBRATION, Calibration
from cnnimretrieval.training.photos.descriptions import Descriptions, descriptions_of
from cnnimretrieval.whitening.apply import apply
from groundwork.files import write_json
from pairs.heldout import Purpose


def calibrate(descriptions: Descriptions, network: RetrievalNetwork) -> Calibration | None:
    """What scores of `network`, as it is handed out, are worth among all photos of the collection.

    None where there are too few places to choose by, or the network is meant for several scales: queries are
    described at one.
    """
    meant = ExtractConfig.meant_for(network.config, image_size=descriptions.image_size)
    results = results_of(descriptions, network, "choose") if meant.scales == (1.0,) else None
    curves = None if results is None else fit(results)
    if results is None or curves is None:
        return None
    return Calibration(
        network=fingerprint_of(network, network.whitening_for(meant.scales)),
        image_size=meant.image_size,
        scales=meant.scales,
        curves=curves,
        queries=int((results.first & results.there).sum()),
    )


def described_run(
    pairs: Path, model: Path, network: RetrievalNetwork, device: str, workers: int
) -> Descriptions:
    """The photos and held-out queries of `pairs`, with what the folder of a trained `model` has of them."""
    return descriptions_of(
        pairs,
        model / "descriptors",
        ExtractConfig.meant_for(network.config).image_size,
        device=device,
        workers=workers,
        needed="choose",
    )


def write_calibration(descriptions: Descriptions, network: RetrievalNetwork, out: Path) -> Calibration | None:
    """Put a network's calibration into its folder `out`, or take an old one out where there can be none."""
    found = calibrate(descriptions, network)
    path = out / CALIBRATION
    if not is_first():
        return found
    if found is None:
        path.unlink(missing_ok=True)
    else:
        write_json(path, found.model_dump(mode="json"))
    return found


def results_of(descriptions: Descriptions, network: RetrievalNetwork, purpose: Purpose) -> Results | None:
    """First results of the held-out queries of a purpose in the whole collection; None without such."""
    queries = descriptions.queries
    whole = [one for one in queries.situations(purpose) if one.name == "own_collection"]
    if not whole:
        return None
    asked = np.asarray(descriptions.query_vectors(network)[whole[0].queries])
    searched = np.asarray(descriptions.database(network))
    whitening = network.whitening_for((1.0,))
    if whitening is not None:
        asked, searched = apply(whitening, asked), apply(whitening, searched)
    return first_results(queries, whole[0], asked, searched)
