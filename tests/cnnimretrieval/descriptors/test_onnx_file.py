"""Networks as ONNX files, opened in onnxruntime as others would."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from cnnimretrieval.api import Describer
from cnnimretrieval.descriptors import onnx_file
from cnnimretrieval.descriptors.finished import Finished
from cnnimretrieval.networks.network import NetworkConfig, build
from tests.cnnimretrieval.descriptors.exported import levels, whitened_network, whitening


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    network = whitened_network()
    path = tmp_path_factory.mktemp("onnx") / "network.onnx"
    return network, onnx_file.export_onnx(network, path)


def test_the_file_gives_what_describe_gives(exported, photos):
    network, written = exported
    session = onnxruntime.InferenceSession(written.path)
    expected = Describer(network).describe(photos)
    assert written.dim == 20
    for row, path in enumerate(photos):
        (found,) = session.run(None, {"images": levels(path)[None]})
        np.testing.assert_allclose(found[0], expected[row], atol=2e-6)
    # Three of the photos are of one size.
    batch = np.stack([levels(photos[row]) for row in (0, 1, 3)])
    (found,) = session.run(None, {"images": batch})
    np.testing.assert_allclose(found, expected[[0, 1, 3]], atol=2e-6)


def test_the_file_takes_photos_smaller_than_the_network_does(exported):
    network, written = exported
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 27, 3), dtype=np.uint8))
    levels = np.asarray(image).transpose(2, 0, 1)[None]
    (found,) = onnxruntime.InferenceSession(written.path).run(None, {"images": levels})
    np.testing.assert_allclose(found, Describer(network).describe([image]), atol=2e-6)


def test_the_file_says_what_it_is(exported):
    network, written = exported
    model = onnx.load(written.path)
    onnx.checker.check_model(model)
    facts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert facts["cnnimretrieval.fingerprint"] == network.fingerprint()
    assert facts["cnnimretrieval.network"]["backbone"] == "alexnet"
    assert facts["cnnimretrieval.whitening"] == "drawn"
    assert [one.name for one in model.graph.input] == ["images"]
    assert [one.name for one in model.graph.output] == ["descriptors"]


def test_a_file_that_gives_something_else_is_refused(exported):
    network, written = exported
    other = build(NetworkConfig(backbone="alexnet"), "random", seed=4)
    other.whitening = network.whitening
    ours, others = (Finished.of(one, whiten=True) for one in (network, other))
    run = onnx_file.in_onnxruntime(written.path)
    # What is left is rounding, which may differ from one pass to the next.
    found = ours.require_agreement(written.path, run, "onnxruntime")
    assert max(found, written.largest_difference) < 2e-6
    with pytest.raises(
        ValueError, match=r"network\.onnx: expected onnxruntime to give .* got a difference of 0\."
    ):
        others.require_agreement(written.path, run, "onnxruntime")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_one_line(network, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match="pip install 'cnnimretrieval\\[onnx\\]'") as told:
        onnx_file.export_onnx(network, tmp_path / "network.onnx")
    assert "\n" not in str(told.value)


# One of each family of backbones and of poolings.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "pooling", "regional"),
    [
        ("squeezenet1_1", "mac", False),
        ("vgg11", "gem", False),
        ("resnet18", "rmac", False),
        ("resnext50_32x4d", "gemmp", False),
        ("wide_resnet50_2", "spoc", False),
        ("densenet121", "gem", False),
        ("mobilenet_v3_small", "gem", True),
        ("efficientnet_b0", "gem", False),
        ("convnext_tiny", "gem", False),
        ("timm:vit_tiny_patch16_224", "gem", False),
        ("timm:efficientnet_lite0", "gem", False),
    ],
)
def test_every_family_and_pooling(tmp_path, backbone, pooling, regional):
    network = build(NetworkConfig(backbone=backbone, pooling=pooling, regional=regional), "random")
    network.whitening = whitening(network.dim, 32)
    written = onnx_file.export_onnx(network, tmp_path / "network.onnx")
    assert written.largest_difference < 1e-5
