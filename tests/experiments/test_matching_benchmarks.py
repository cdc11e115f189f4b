"""The benchmarks of local matching run on something tiny; their yardsticks are right."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnnimretrieval.local.pairing import pair
from cnnimretrieval.networks.local_head import LocalConfig
from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.search.spatial import SpatialConfig
from experiments.benchmarks import affine_scenes, verification


def test_the_plain_loop_judges_as_ours_does():
    query, candidates = verification.scene(11, 120, 32)
    config = SpatialConfig(features="sift", max_trials=150)
    slow = verification.plain(query, candidates, config)
    ours = [pair(query, candidate, config).num_inliers for candidate in candidates]
    assert [count >= 12 for count in ours] == [count >= 12 for count in slow]
    assert np.flatnonzero(slow >= 12).tolist() == [0, 10]


def test_verification_ends(capsys):
    words = ["--candidates", "2", "--features", "60", "--dim", "16", "--repeats", "1"]
    assert verification.main(words) in (0, 1)
    assert "times quicker" in capsys.readouterr().out


def test_corner_errors_by_hand():
    truth = np.eye(3)
    moved = np.array([[1.0, 0.0, 3.0], [0.0, 1.0, -4.0], [0.0, 0.0, 1.0]])
    assert affine_scenes.corner_error(moved, truth, (80, 60)) == pytest.approx(5.0)
    assert affine_scenes.corner_error(np.eye(3), truth, (80, 60)) == 0.0
    assert affine_scenes.corner_error(np.zeros((3, 3)), truth, (80, 60)) == float("inf")
    # Twice as large about the first pixel's corner, which is half a pixel off its centre.
    twice = np.diag([2.0, 2.0, 1.0])
    about_centres = twice + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    assert affine_scenes.corner_error(twice, about_centres, (80, 60)) == pytest.approx(0.0)


def test_published_homographies_are_whole():
    truth = affine_scenes.homographies()
    assert len(truth) == 8
    for matrices in truth.values():
        assert matrices.shape == (5, 3, 3)
        assert (np.linalg.det(matrices / matrices[:, 2:, 2:]) > 0).all()
    assert np.array_equal(truth["ubc"], np.tile(np.eye(3), (5, 1, 1)))


@pytest.fixture
def compressed(tmp_path):
    """A folder with one scene: the same photo, saved worse and worse."""
    generator = np.random.default_rng(9)
    blocks = generator.integers(0, 256, (20, 26, 3), dtype=np.uint8)
    photo = Image.fromarray(blocks).resize((312, 240), Image.Resampling.BICUBIC)
    (tmp_path / "ubc").mkdir()
    for number in range(1, 7):
        photo.save(tmp_path / "ubc" / f"img{number}.jpg", quality=95 - 12 * number)
    return tmp_path


def test_a_scene_of_compression_is_measured(compressed, capsys):
    assert affine_scenes.main([str(compressed)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == ["ubc", "compression", "1.00"]
    assert lines[2].startswith("all 5 pairs: 1.00 verified, ")


def test_the_head_of_a_network_is_measured_too(compressed, capsys):
    head = LocalConfig(reduction="whitening", attention="norm", dim=16)
    network = build(NetworkConfig(backbone="squeezenet1_1", local=head), "random", seed=3)
    save(network, compressed / "model")
    words = [str(compressed), "--features", str(compressed / "model"), "--max-features", "200"]
    assert affine_scenes.main(words) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["ubc", "compression", "1.00"]


def test_what_cannot_be_measured_is_told(compressed, capsys):
    def said(*words):
        with pytest.raises(SystemExit) as stopped:
            affine_scenes.main([str(word) for word in words])
        assert stopped.value.code == 2
        return capsys.readouterr().err.splitlines()[-1].partition("error: ")[2]

    assert said(compressed / "ubc") == (
        f"{compressed}/ubc: expected folders graf, bark, bikes, boat, leuven, trees, ubc, wall, "
        "got none of them; check the path"
    )
    save(build(NetworkConfig(backbone="squeezenet1_1"), "random"), compressed / "model")
    assert said(compressed, "--features", compressed / "model") == (
        "network: expected one with a local head, got squeezenet1_1:gem without; "
        "train one with train.network.local.reduction set"
    )
    assert "features.method: expected " in said(compressed, "--features", "sifft")
    assert said(compressed, "--max-ratio", "2").startswith("'max_ratio' = 2.0: ")


def test_scenes_are_summed_up():
    table = pd.DataFrame(
        {
            "scene": ["graf", "graf"],
            "image": [2, 3],
            "matches": [50, 30],
            "inliers": [40, 6],
            "error_px": [2.0, np.inf],
        }
    )
    (row,) = affine_scenes.by_scene(table).to_dict("records")
    assert (row["verified"], row["inliers"], row["error < 5 px"]) == (0.5, 23.0, 0.5)
