from dataclasses import replace

import numpy as np
import pytest
import torch

from cnnimretrieval.descriptors import inputs as module
from cnnimretrieval.descriptors.distort import Relit
from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.inputs import Inputs, KeepConfig, keep_inputs
from cnnimretrieval.networks.network import NetworkConfig, build

CONFIG = ExtractConfig(image_size=72, batch_size=3)
# Weights of the stem and of the two first fire modules of squeezenet.
FROZEN = 14


def _requests(photos):
    crop = ImageRequest(path=photos[1], box=(5, 4, 61, 50), rotation_deg=4.0, edit=Relit(3), as_photo=True)
    return [*(ImageRequest(path=path) for path in photos), crop, replace(crop, edit=Relit(4))]


def _keep(folder, network, config=None, frozen=FROZEN):
    return keep_inputs(folder, network, network.trunk.layers_of(frozen), config or KeepConfig())


def _other_above(network):
    """The same lowest layers, other ones above."""
    other = build(network.config, "random", seed=9)
    other.trunk.load_state_dict(
        dict(list(network.trunk.state_dict().items())[:FROZEN]), strict=False, assign=False
    )
    return other


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.7)])
@pytest.mark.parametrize("frozen", [0, FROZEN])
def test_descriptors_are_those_of_the_whole_network(network, photos, tmp_path, frozen, scales):
    config = CONFIG.model_copy(update={"scales": scales})
    inputs = _keep(tmp_path / "kept", network, frozen=frozen)
    for one in (network, _other_above(network)):
        plain = describe(one, _requests(photos), config).vectors
        for workers in (0, 2):
            found = describe(one, _requests(photos), config, inputs=inputs, workers=workers).vectors
            np.testing.assert_allclose(found, plain, rtol=0, atol=1e-6)
            if not frozen:
                np.testing.assert_array_equal(found, plain)
    assert len(inputs.kept) == len(_requests(photos)) * (len(scales) if frozen else 1)


@pytest.mark.parametrize("kept_as", ["float32", "float16"])
def test_how_much_is_kept_changes_no_byte(network, photos, tmp_path, kept_as):
    keeping = KeepConfig(kept_as=kept_as)
    expected = describe(network, _requests(photos), CONFIG, inputs=_keep(tmp_path / "a", network, keeping))
    for limit_gb in (0.0, 2e-5, 8.0):
        some = keeping.model_copy(update={"limit_gb": limit_gb})
        inputs = _keep(tmp_path / f"{limit_gb}", network, some)
        for _ in range(2):
            again = describe(network, _requests(photos), CONFIG, inputs=inputs)
            np.testing.assert_array_equal(again.vectors, expected.vectors)
    plain = describe(network, _requests(photos), CONFIG).vectors
    difference = np.abs(expected.vectors - plain).max()
    assert difference < (1e-6 if kept_as == "float32" else 1e-3)
    assert (difference > 1e-6) == (kept_as == "float16")


def test_what_is_kept_is_neither_read_nor_computed_again(network, photos, tmp_path, monkeypatch):
    expected = describe(network, _requests(photos), CONFIG, inputs=_keep(tmp_path / "kept", network)).vectors
    monkeypatch.setattr(module, "below", None)
    monkeypatch.setattr(module, "read_one", None)
    again = describe(network, _requests(photos), CONFIG, inputs=_keep(tmp_path / "kept", network))
    np.testing.assert_array_equal(again.vectors, expected)


def test_a_photo_that_changed_is_read_again(network, photos, tmp_path):
    inputs = _keep(tmp_path / "kept", network)
    requests = [ImageRequest(path=path) for path in photos[:2]]
    before = describe(network, requests, CONFIG, inputs=inputs).vectors
    photos[1].write_bytes(photos[2].read_bytes())
    after = describe(network, requests, CONFIG, inputs=inputs).vectors
    np.testing.assert_allclose(after[0], before[0], rtol=0, atol=1e-6)
    assert np.abs(after[1] - before[1]).max() > 1e-3
    assert len(inputs.kept) == 3


def test_what_is_damaged_is_made_again(network, photos, tmp_path, caplog):
    inputs = _keep(tmp_path / "kept", network)
    expected = describe(network, _requests(photos), CONFIG, inputs=inputs).vectors
    (data,) = (tmp_path / "kept").glob("*.arrays")
    content = bytearray(data.read_bytes())
    content[11] ^= 255
    data.write_bytes(content)
    again = describe(network, _requests(photos), CONFIG, inputs=_keep(tmp_path / "kept", network)).vectors
    np.testing.assert_array_equal(again, expected)
    assert len(caplog.messages) == 1
    assert "is damaged; it is made again" in caplog.messages[0]


def test_what_other_lowest_layers_made_is_not_used_and_goes(network, photos, tmp_path):
    inputs = _keep(tmp_path / "kept", network)
    describe(network, _requests(photos), CONFIG, inputs=inputs)
    other = build(network.config, "random", seed=4)
    plain = describe(other, _requests(photos), CONFIG).vectors
    np.testing.assert_array_equal(describe(other, _requests(photos), CONFIG, inputs=inputs).vectors, plain)
    former = {path.name for path in (tmp_path / "kept").iterdir()}
    anew = _keep(tmp_path / "kept", other)
    assert len(anew.kept) == 0
    assert not former & {path.name for path in (tmp_path / "kept").iterdir()}
    found = describe(other, _requests(photos), CONFIG, inputs=anew).vectors
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-6)


def test_sizes_and_precisions_are_told_apart(network, photos, tmp_path):
    inputs = _keep(tmp_path / "kept", network)
    for changes in ({}, {"image_size": 48}, {"precision": "bfloat16"}, {"scales": (0.6,)}):
        config = CONFIG.model_copy(update=changes)
        plain = describe(network, _requests(photos), config).vectors
        for _ in range(2):
            found = describe(network, _requests(photos), config, inputs=inputs).vectors
            tolerance = 3e-3 if "precision" in changes else 1e-6
            np.testing.assert_allclose(found, plain, rtol=0, atol=tolerance)


def test_an_edit_that_nobody_can_name_is_made_each_time(network, photos, tmp_path):
    calls = []

    def edit(image):
        calls.append(image.size)
        return image

    inputs = _keep(tmp_path / "kept", network)
    for _ in range(2):
        describe(network, [ImageRequest(path=photos[0], edit=edit)], CONFIG, inputs=inputs)
    assert len(calls) == 2
    assert len(inputs.kept) == 0


def test_bad_photos_cost_themselves_only(network, photos, tmp_path):
    (tmp_path / "bad.jpg").write_text("no image")
    paths = [photos[0], tmp_path / "bad.jpg", tmp_path / "none.jpg", photos[1]]
    requests = [ImageRequest(path=path) for path in paths]
    found = describe(network, requests, CONFIG, inputs=_keep(tmp_path / "kept", network))
    plain = describe(network, requests, CONFIG)
    assert found.failures == plain.failures
    np.testing.assert_allclose(found.vectors, plain.vectors, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backbone", ["resnet18", "vgg11", "densenet121", "alexnet", "efficientnet_b0"])
def test_the_halves_of_a_trunk_are_its_whole(backbone):
    trunk = build(NetworkConfig(backbone=backbone), "random", seed=2).trunk
    weights = list(trunk.parameters())
    images = torch.randn(1, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    seen = set()
    with torch.no_grad():
        expected = trunk(images)
        for num_frozen in (0, 1, len(weights) // 2, len(weights) - 1):
            cut = trunk.layers_of(num_frozen)
            seen.add(cut)
            lower = {id(weight) for layer in trunk.layers[:cut] for weight in layer.parameters()}
            assert lower <= {id(weight) for weight in weights[:num_frozen]}
            middle = trunk.below(images, cut)
            kept = middle.clone()
            torch.testing.assert_close(trunk.above(middle, cut), expected)
            assert torch.equal(middle, kept) or cut == 0
    assert len(seen) >= 3


def test_half_of_resnet18_ends_after_its_second_stage():
    trunk = build(NetworkConfig(backbone="resnet18"), "random").trunk
    assert trunk.below(torch.zeros(1, 3, 64, 96), trunk.layers_of(30)).shape == (1, 128, 8, 12)
    assert trunk.layers_of(29) < trunk.layers_of(30) == trunk.layers_of(31)


def test_no_layers_stay_below_where_a_network_is_not_in_a_row():
    pytest.importorskip("timm")
    trunk = build(NetworkConfig(backbone="timm:resnet10t"), "random").trunk
    assert trunk.layers_of(5) == 0
    assert Inputs().num_layers == 0
