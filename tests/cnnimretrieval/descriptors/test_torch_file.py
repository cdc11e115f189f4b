"""Networks as graphs of PyTorch's, run by PyTorch alone as others would."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from cnnimretrieval.api import Describer
from cnnimretrieval.descriptors import torch_file
from cnnimretrieval.descriptors.finished import Finished
from cnnimretrieval.networks.network import NetworkConfig, build
from tests.cnnimretrieval.descriptors.exported import levels, whitened_network

# What somebody runs who has PyTorch and not this package.
_ALONE = """
import sys, numpy, torch
sys.modules["cnnimretrieval"] = None
graph = torch.export.load(sys.argv[1]).module()
images = torch.from_numpy(numpy.load(sys.argv[2]))
numpy.save(sys.argv[3], graph(images).detach().numpy())
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    network = whitened_network()
    path = tmp_path_factory.mktemp("torch") / "network.pt2"
    return network, torch_file.export_torch(network, path)


def test_the_file_gives_what_describe_gives(exported, photos):
    network, written = exported
    run = torch_file.in_torch(written.path)
    expected = Describer(network).describe(photos)
    assert (written.dim, written.largest_difference) == (20, pytest.approx(0.0, abs=2e-6))
    for row, path in enumerate(photos):
        np.testing.assert_allclose(run(levels(path)[None])[0], expected[row], atol=2e-6)
    # Three of the photos are of one size.
    batch = np.stack([levels(photos[row]) for row in (0, 1, 3)])
    np.testing.assert_allclose(run(batch), expected[[0, 1, 3]], atol=2e-6)


def test_the_file_runs_without_this_package(exported, photos, tmp_path):
    network, written = exported
    np.save(tmp_path / "images.npy", levels(photos[2])[None])
    words = [written.path, tmp_path / "images.npy", tmp_path / "found.npy"]
    subprocess.run([sys.executable, "-c", _ALONE, *map(str, words)], check=True, cwd=tmp_path)
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, Describer(network).describe(photos[2:3]), atol=2e-6)


def test_the_file_says_what_it_is(exported):
    network, written = exported
    beside = {torch_file.FACTS: ""}
    torch.export.load(str(written.path), extra_files=beside)
    facts = json.loads(beside[torch_file.FACTS])
    assert facts["fingerprint"] == network.fingerprint()
    assert (facts["network"]["backbone"], facts["whitening"]) == ("alexnet", "drawn")


def test_a_file_that_gives_something_else_is_refused(exported):
    _, written = exported
    others = Finished.of(build(NetworkConfig(backbone="alexnet"), "random", seed=4), whiten=False)
    with pytest.raises(
        ValueError, match=r"network\.pt2: expected the file to give .* got a difference of inf"
    ):
        others.require_agreement(written.path, torch_file.in_torch(written.path), "the file")


def test_a_network_that_is_no_graph_is_one_line(network, tmp_path, monkeypatch):
    def forward(self, images):
        return self.network(images.float()) * (1.0 if images.sum() > 0 else 2.0)

    monkeypatch.setattr(Finished, "forward", forward)
    with pytest.raises(
        ValueError, match=r"export to torch: expected a network that is one graph .* got"
    ) as told:
        torch_file.export_torch(network, tmp_path / "network.pt2")
    assert "\n" not in str(told.value)
    assert list(tmp_path.glob("*network*")) == []


# It takes a single size. What is traced is the module of ONNX files, whose tests have the other networks.
@pytest.mark.slow
def test_a_network_of_one_size(tmp_path):
    network = build(NetworkConfig(backbone="timm:vit_tiny_patch16_224"), "random")
    assert torch_file.export_torch(network, tmp_path / "network.pt2").largest_difference < 1e-5
