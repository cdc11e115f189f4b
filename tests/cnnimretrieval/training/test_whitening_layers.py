import numpy as np
import pytest
import torch
from torch import nn

from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.images import open_request
from cnnimretrieval.descriptors.tensors import normalise, to_levels
from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork
from cnnimretrieval.networks.pooling import l2_normalise
from cnnimretrieval.networks.regions import region_grid
from cnnimretrieval.networks.trunk import Trunk
from cnnimretrieval.training.photos.collection import QueryConfig
from cnnimretrieval.training.proof import whitening_layers as module
from cnnimretrieval.training.proof.collection_whitening import WhiteningConfig, sample_pairs
from cnnimretrieval.training.proof.rows import fit_learned
from cnnimretrieval.training.proof.whitening_layers import LayersConfig, mutual_nearest, start_layers
from cnnimretrieval.whitening.estimates import pca_whitening

CHANNELS, SIDE = 6, 64
WHITENING = WhiteningConfig(shrinkage=0.0, dim=2)


def _network(**parts):
    """A trunk of one convolution, stride 8."""
    torch.manual_seed(4)
    features = nn.Sequential(nn.Conv2d(3, CHANNELS, 8, stride=8), nn.ReLU())
    trunk = Trunk(features, name="tiny", out_channels=CHANNELS, stride=8)
    return RetrievalNetwork(NetworkConfig(pooling="spoc", **parts), trunk).eval()


def _start(network, descriptions, start, **options):
    config = LayersConfig(start=start, **options)
    start_layers(network, descriptions, config, WHITENING, QueryConfig(), 3)


def _maps(network, collection, rows):
    trunk = network.trunk
    pictures = [open_request(collection.whole(row), SIDE) for row in rows]
    with torch.no_grad():
        return [trunk(normalise(to_levels(picture)[None], trunk.mean, trunk.std)) for picture in pictures]


def _training_rows(collection):
    return np.flatnonzero(~collection.table.is_val)


def test_local_whitening_makes_the_activations_of_all_training_photos_white(descriptions, collection):
    network = _network(local_whitening=True)
    _start(network, descriptions, "pca", vectors_per_photo=1000)
    maps = _maps(network, collection, _training_rows(collection))
    rows = torch.cat([one[0].permute(1, 2, 0).reshape(-1, CHANNELS) for one in maps])
    with torch.no_grad():
        white = network.local_whitening(rows).double()
    np.testing.assert_allclose(white.mean(dim=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(CHANNELS), atol=1e-3)


def test_regions_are_whitened_after_local_whitening(descriptions, collection):
    network = _network(local_whitening=True, regional=True, region_whitening=True)
    _start(network, descriptions, "pca", vectors_per_photo=1000)
    vectors = []
    for one in _maps(network, collection, _training_rows(collection)):
        with torch.no_grad():
            local = network.local_whitening(one[0].permute(1, 2, 0))
        for y, x, height, width in region_grid(*one.shape[2:]):
            vectors.append(local[y : y + height, x : x + width].mean(dim=(0, 1)))
    expected = pca_whitening(l2_normalise(torch.stack(vectors)).numpy(), shrinkage=0.0)
    # Up to the sign of an axis.
    found = network.pool.whitening.weight.detach().numpy()
    signs = np.sign((found * expected.projection).sum(axis=1))
    np.testing.assert_allclose(found, signs[:, None] * expected.projection, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("start", ["pca", "learned"])
def test_a_projection_starts_from_the_whitening_of_pooled_vectors(descriptions, collection, start):
    network, plain = _network(projection=4), _network()
    _start(network, descriptions, start)
    if start == "pca":
        rows = _training_rows(collection)
        found = describe(plain, [collection.whole(row) for row in rows], ExtractConfig(image_size=SIDE))
        expected = pca_whitening(found.require_all(), shrinkage=0.0)
    else:
        sample = sample_pairs(descriptions, plain, WHITENING, QueryConfig(), 3)
        expected = fit_learned(descriptions, plain, sample, WHITENING.given, None).handed_out
    first = expected.projection[:4]
    np.testing.assert_allclose(network.projection.weight.detach(), first, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(network.projection.bias.detach(), -first @ expected.mean, rtol=1e-4, atol=1e-4)


def test_differences_of_matching_locations_are_white_after_a_learned_start(descriptions, collection):
    network = _network(local_whitening=True)
    _start(network, descriptions, "learned", photos=40, vectors_per_photo=1000)
    table = collection.table
    maps = _maps(network, collection, range(table.num_images))
    ours, theirs = [], []
    positives = table.positives_of("train")
    for q, p in zip(positives.query, positives.positive, strict=True):
        a, b = (maps[row][0].flatten(1).T.numpy() for row in (q, p))
        rows, others = mutual_nearest(a, b)
        ours.append(a[rows])
        theirs.append(b[others])
    weight = network.local_whitening.weight.detach().numpy().astype(np.float64)
    differences = (np.concatenate(ours) - np.concatenate(theirs)) @ weight.T
    covariance = differences.T @ differences / len(differences)
    # Of the 18 pairs 40 are drawn, some more often than others: not exactly.
    np.testing.assert_allclose(covariance, np.eye(CHANNELS), atol=0.5)
    before = _network(local_whitening=True).local_whitening.weight.detach().numpy()
    assert np.abs(weight - before).max() > 0.1


def test_held_out_photos_are_never_read(descriptions, collection):
    network = _network(local_whitening=True, regional=True, region_whitening=True)
    for row in np.flatnonzero(collection.table.is_val):
        collection.whole(row).path.unlink()
    for start in ("pca", "learned"):
        _start(network, descriptions, start)


def test_the_number_of_vectors_is_bounded(descriptions, monkeypatch):
    seen = []
    real = module.pca_whitening

    def watch(vectors, **options):
        seen.append(len(vectors))
        return real(vectors, **options)

    monkeypatch.setattr(module, "pca_whitening", watch)
    _start(_network(local_whitening=True), descriptions, "pca", photos=5, vectors_per_photo=7)
    assert seen == [35]


def test_identity_leaves_layers_alone(descriptions):
    network = _network(local_whitening=True, projection=4)
    before = network.fingerprint()
    _start(network, descriptions, "identity")
    assert network.fingerprint() == before


def test_mutual_nearest_are_those_of_a_naive_loop():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(9, 4)), rng.normal(size=(7, 4))
    a[3] = 0.0

    def angle(one, other):
        return one @ other / np.linalg.norm(one) / np.linalg.norm(other)

    expected = []
    for i in range(9):
        if i == 3:
            continue
        j = max(range(7), key=lambda j: angle(a[i], b[j]))
        if i == max((k for k in range(9) if k != 3), key=lambda k: angle(a[k], b[j])):
            expected.append((i, j))
    assert list(zip(*mutual_nearest(a, b), strict=True)) == expected
    assert len(expected) > 2


def test_too_few_photos_for_the_axes_are_told(descriptions):
    with pytest.raises(ValueError, match=r"^whitening for a layer: expected at least 6 axes of 6-D vectors"):
        _start(_network(local_whitening=True), descriptions, "pca", photos=1, vectors_per_photo=4)
