import re

import numpy as np
import pytest
import torch
from PIL import Image

from cnnimretrieval.descriptors.images import ImageRequest, open_framed
from cnnimretrieval.local.features import LocalFeatures
from cnnimretrieval.local.pyramid import LocalDescriber, PyramidConfig, describe_locally
from cnnimretrieval.networks.local_head import LocalConfig
from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork, build

# Lengths of activations as scores: a network that knows nothing attends to what is there, too.
HOW = LocalConfig(reduction="whitening", attention="norm", dim=16)


def features_of(network, path, **config):
    """The features of one photo."""
    ((found, reason),) = describe_locally(network, [ImageRequest(path=path)], PyramidConfig(**config))
    assert not reason
    return found


@pytest.fixture(scope="module")
def network() -> RetrievalNetwork:
    return build(NetworkConfig(backbone="squeezenet1_1", local=HOW), "random", seed=3)


def spotted(size, spot, side=24) -> Image.Image:
    """A gray picture with one patch of noise around `spot`."""
    levels = np.full((size[1], size[0], 3), 128, np.uint8)
    x, y = (int(value) - side // 2 for value in spot)
    levels[y : y + side, x : x + side] = np.random.default_rng(1).integers(0, 256, (side, side, 3))
    return Image.fromarray(levels)


def same(a: LocalFeatures, b: LocalFeatures) -> bool:
    names = ("keypoints", "scales", "scores", "descriptors")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def to_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture).transpose(2, 0, 1).copy())


@pytest.mark.parametrize("scale", [0.5, 0.7071, 1.0, 2.0])
def test_keypoints_are_where_things_are_at_every_scale(network, scale):
    flat = spotted((300, 200), (150, 100), side=0)
    describer = LocalDescriber(network, PyramidConfig(scales=(scale,)))
    plain, seen = describer.of(to_tensor(flat)), describer.of(to_tensor(spotted((300, 200), (210, 90))))
    score = dict(zip(map(tuple, plain.keypoints.tolist()), plain.scores.tolist(), strict=True))
    changed = np.array(
        [abs(s - score[tuple(k)]) for k, s in zip(seen.keypoints.tolist(), seen.scores.tolist(), strict=True)]
    )
    centre = (changed[:, None] * seen.keypoints).sum(axis=0) / changed.sum()
    assert np.abs(centre - (210, 90)).max() < 12 / scale
    far = np.abs(seen.keypoints - (210, 90)).max(axis=1) > 12 + seen.scales / 2
    assert not changed[far].any()


def test_features_of_all_scales_are_cut_at_the_number(network):
    picture = to_tensor(spotted((200, 160), (60, 60)))
    every = LocalDescriber(network, PyramidConfig(number=100_000)).of(picture)
    assert len(np.unique(every.scales)) == 7
    some = LocalDescriber(network, PyramidConfig(number=20)).of(picture)
    assert same(some, every.best(20))


def test_plain_loop_finds_the_same_features(network):
    picture = to_tensor(spotted((120, 90), (60, 40)))
    found = LocalDescriber(network, PyramidConfig(scales=(1.0,), number=10**6)).of(picture)
    mean, std = (torch.tensor(values)[:, None, None] for values in (network.trunk.mean, network.trunk.std))
    maps = network.local_maps(((picture / 255 - mean) / std)[None])
    _, height, width = maps.scores.shape
    slow = []
    for row in range(height):
        for column in range(width):
            # -104 and 239: the field of squeezenet's last map, seen through a mean of 3 x 3.
            x, y = (-104 + 239 / 2 + 16 * place for place in (column, row))
            slow.append((-float(maps.scores[0, row, column]), x, y, maps.descriptors[0, :, row, column]))
    slow = [one for one in sorted(slow, key=lambda one: one[0]) if 0 < one[1] < 120 and 0 < one[2] < 90]
    assert len(slow) == len(found)
    assert np.allclose(found.scores, [-one[0] for one in slow], rtol=1e-5)
    assert np.allclose(found.keypoints, [one[1:3] for one in slow])
    assert np.allclose(found.descriptors, [one[3].detach().numpy() for one in slow], atol=1e-5)


def test_overlapping_features_give_way_to_the_best(network):
    picture = to_tensor(spotted((200, 160), (60, 60)))
    found = LocalDescriber(network, PyramidConfig(max_overlap=0.3, scales=(0.5, 1.0))).of(picture)
    assert 1 < len(found) < 20
    low, high = (found.keypoints + sign * found.scales[:, None] / 2 for sign in (-1, 1))
    area = found.scales**2
    for i in range(len(found)):
        for j in range(i):
            common = np.prod(np.clip(np.minimum(high[i], high[j]) - np.maximum(low[i], low[j]), 0, None))
            assert common / (area[i] + area[j] - common) <= 0.3 + 1e-5


def test_least_score_is_a_percentile_of_the_training_photos(network):
    picture = to_tensor(spotted((200, 160), (60, 60)))
    every = LocalDescriber(network, PyramidConfig()).of(picture)
    middle = float(np.median(every.scores))
    network.local.score_quantiles.copy_(torch.linspace(0.0, 2 * middle, 101))
    kept = LocalDescriber(network, PyramidConfig(min_percentile=50)).of(picture)
    assert same(kept, every.best(int((every.scores >= np.float32(middle)).sum())))
    network.local.score_quantiles.zero_()


@pytest.mark.parametrize(
    ("size", "has_features"), [((1, 1), False), ((7, 5), False), ((3000, 17), False), ((40, 33), True)]
)
def test_tiny_and_long_photos_have_valid_features(network, tmp_path, size, has_features):
    path = tmp_path / "small.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)
    found = features_of(network, path)
    assert (found.keypoints > 0).all()
    assert (found.keypoints < size).all()
    # The first place of this network lies 15.5 px from the edge.
    assert bool(len(found)) == has_features


def test_a_flat_photo_has_valid_features(network, tmp_path):
    path = tmp_path / "flat.png"
    Image.new("RGB", (90, 60), "gray").save(path)
    assert len(features_of(network, path)) > 0


def test_broken_photos_give_no_features_and_a_reason(network, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path in paths[::2]:
        spotted((90, 60), (40, 30)).save(path)
    paths[1].write_bytes(b"no photo")
    requests = [ImageRequest(path=path) for path in paths]
    found = list(describe_locally(network, requests[:2] + requests[2:3] + requests[1:2], PyramidConfig()))
    assert [bool(len(features)) for features, _ in found] == [True, False, True, False]
    assert [bool(reason) for _, reason in found] == [False, True, False, True]
    assert same(found[0][0], found[2][0])


def test_positions_are_in_pixels_of_the_full_photo(network, tmp_path):
    path = tmp_path / "large.png"
    spotted((1500, 1000), (700, 400), side=60).save(path)
    found = features_of(network, path, image_size=300)
    assert found.keypoints.max() > 1300
    box = ImageRequest(path=path, box=(600.0, 300.0, 800.0, 500.0))
    part = next(describe_locally(network, [box], PyramidConfig(image_size=600)))[0]
    assert (part.keypoints >= (600, 300)).all()
    assert (part.keypoints <= (800, 500)).all()


@pytest.mark.parametrize("rotation_deg", [0.0, 7.0, -30.0])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_frame_leads_back_to_the_photo(tmp_path, rotation_deg, suffix):
    path = tmp_path / f"photo.{suffix}"
    photo = Image.new("L", (1200, 900))
    photo.paste(255, (640, 420, 664, 444))
    photo.convert("RGB").save(path, quality=95)
    request = ImageRequest(path=path, box=(400, 300, 900, 620), rotation_deg=rotation_deg, as_photo=True)
    picture, frame = open_framed(request, 250)
    levels = np.asarray(picture.convert("L"), np.float64)
    levels = np.where(levels > 150, levels, 0)
    rows, columns = np.indices(levels.shape) + 0.5
    spot = np.array([[(levels * columns).sum(), (levels * rows).sum()]]) / levels.sum()
    assert np.abs(frame.to_photo(spot) - (652, 432)).max() < 1.5
    assert frame.px_per_px == pytest.approx(500 / picture.width, rel=0.02)


def test_a_network_without_local_head_is_told(tmp_path):
    plain = build(NetworkConfig(backbone="squeezenet1_1"), "random")
    expected = (
        "network: expected one with a local head, got squeezenet1_1:gem without; "
        "train one with train.network.local.reduction set"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        features_of(plain, tmp_path / "none.jpg")
