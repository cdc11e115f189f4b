"""Pictures of nearly one shape that are brought to one: which shapes there are, and what is described."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from cnnimretrieval.descriptors import passes
from cnnimretrieval.descriptors.extract import ExtractConfig, describe, describe_batch
from cnnimretrieval.descriptors.images import ImageRequest, open_request
from cnnimretrieval.descriptors.inputs import KeepConfig, keep_inputs
from cnnimretrieval.descriptors.tensors import in_bucket, to_levels
from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.networks.open import load

CONFIG = ExtractConfig(image_size=100, batch_size=4)
SHAPES = [(100, 75), (100, 70), (99, 66), (75, 100), (100, 100), (96, 64)]


@pytest.fixture
def photos(tmp_path):
    generator = np.random.default_rng(2)
    paths = []
    for number, size in enumerate(SHAPES):
        blocks = generator.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def _network(bucket_px):
    return build(NetworkConfig(backbone="squeezenet1_1", bucket_px=bucket_px), "random", seed=3)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((75, 100), (64, 96)), ((66, 99), (64, 96)), ((64, 96), (64, 96)), ((7, 500), (32, 512))],
)
def test_both_sides_become_the_nearest_multiple_and_never_nothing(shape, expected):
    levels = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    found = in_bucket(levels, 32)
    assert (found.shape, found.dtype) == ((2, 3, *expected), torch.uint8)
    assert in_bucket(levels, None) is levels
    assert in_bucket(found, 32) is found


def test_a_picture_in_its_bucket_looks_as_pillow_would_have_scaled_it():
    smooth = Image.effect_noise((20, 15), 90).convert("RGB").resize((100, 75), Image.Resampling.BICUBIC)
    found = in_bucket(to_levels(smooth)[None], 32)[0].numpy().astype(int)
    expected = to_levels(smooth.resize((96, 64), Image.Resampling.BILINEAR)).numpy().astype(int)
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.7)])
@pytest.mark.parametrize("frozen", [None, 0, 14])
def test_descriptors_are_those_of_each_picture_alone(photos, tmp_path, frozen, scales):
    network, config = _network(32), CONFIG.model_copy(update={"scales": scales})
    requests = [ImageRequest(path=path) for path in photos]
    levels = [to_levels(open_request(request, config.image_size))[None] for request in requests]
    alone = torch.cat([describe_batch(network, one, config) for one in levels]).numpy()
    inputs = None
    if frozen is not None:
        inputs = keep_inputs(tmp_path / "kept", network, network.trunk.layers_of(frozen), KeepConfig())
    for _ in range(2):
        found = describe(network, requests, config, inputs=inputs).vectors
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-6)


def test_shapes_that_differ_a_little_go_through_together(photos, tmp_path, monkeypatch):
    sizes = []
    stacked = passes.stacked
    monkeypatch.setattr(passes, "stacked", lambda several: sizes.append(len(several)) or stacked(several))
    requests = [ImageRequest(path=path) for path in photos]
    # What layers below give of the second and third has one shape anyway.
    for bucket_px, expected in ((None, [1, 1, 1, 1, 2]), (32, [1, 1, 4])):
        network = _network(bucket_px)
        inputs = keep_inputs(tmp_path / "kept", network, network.trunk.layers_of(14), KeepConfig())
        describe(network, requests, CONFIG, inputs=inputs)
        assert sorted(sizes) == expected
        sizes.clear()


def test_what_is_kept_for_one_bucket_is_none_of_another(photos, tmp_path):
    requests = [ImageRequest(path=path) for path in photos]
    for frozen in (0, 14):
        for bucket_px in (None, 16, 32, None):
            network = _network(bucket_px)
            inputs = keep_inputs(tmp_path / "kept", network, network.trunk.layers_of(frozen), KeepConfig())
            found = describe(network, requests, CONFIG, inputs=inputs).vectors
            np.testing.assert_allclose(found, describe(network, requests, CONFIG).vectors, rtol=0, atol=1e-6)


def test_a_network_folder_says_it_only_where_it_is_set(tmp_path):
    for bucket_px in (None, 32):
        network = _network(bucket_px)
        save(network, tmp_path / "model")
        written = json.loads((tmp_path / "model" / "network.json").read_text())
        assert written.get("bucket_px") == bucket_px
        assert ("bucket_px" in written) == (bucket_px is not None)
        assert load(tmp_path / "model").fingerprint() == network.fingerprint()
    assert _network(None).fingerprint() != _network(32).fingerprint()
