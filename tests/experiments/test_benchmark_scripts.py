"""Each benchmark runs on a tiny collection, so that none rots; what it measures there proves nothing."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from experiments.benchmarks import (
    growth,
    million,
    negatives,
    overhead,
    pairs_by_feature,
    preset,
    projection,
    registration,
    second_feature,
    training_speed,
    whitening,
    workers,
)
from experiments.benchmarks.material.sample import photo_files, rephotographed, shrunk
from experiments.benchmarks.measuring.fingerprint import fingerprint
from experiments.benchmarks.measuring.measure import Claim, Took, conclude, median, take_turns, timed
from groundwork.files import read_table, write_json

WIDTH, HEIGHT = 320, 240
FOCAL_PX = 1.2 * WIDTH


def views(folder, seed, offsets):
    """Photos of three textured boards, one before the other, from cameras moved sideways."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    boards = [(6.0, 0, 900), (3.5, 250, 400), (2.4, 480, 700)]
    textures = [texture(rng, 480, right - left) for _, left, right in boards]
    for number, offset in enumerate(offsets):
        photo = np.zeros((HEIGHT, WIDTH))
        for (depth, left, _), pattern in zip(boards, textures, strict=True):
            x = np.arange(WIDTH) - left + 260 + round(FOCAL_PX * offset / depth)
            y = np.arange(HEIGHT) + 100 + round(0.4 * FOCAL_PX * offset / depth)
            seen = (x >= 0) & (x < pattern.shape[1])
            photo[:, seen] = pattern[np.ix_(y, x[seen])]
        Image.fromarray(photo.round().astype(np.uint8)).save(folder / f"{number}.jpg", quality=92)


def texture(rng, height, width):
    pattern = 128 + 500 * gaussian_filter(rng.standard_normal((height, width)), 4)
    for _ in range(height * width // 500):
        y, x = rng.integers(0, height), rng.integers(0, width)
        pattern[y : y + rng.integers(4, 30), x : x + rng.integers(4, 30)] += rng.uniform(-70, 70)
    return np.clip(gaussian_filter(pattern, 0.7), 0, 255)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    views(root / "one", 1, (0.0, 0.25, 0.5, 0.75))
    views(root / "two", 2, (0.1, 0.4, 0.8))
    return root


def ends(capsys, code, *said):
    """The benchmark ended with a verdict, which is what its exit code says."""
    printed = capsys.readouterr().out
    assert code == int("MISSED" in printed)
    for words in (*said, "cores; load"):
        assert words in printed
    return printed


def test_overhead(photos, tmp_path, capsys):
    code = overhead.main([str(photos / "one"), "--out", str(tmp_path), "--side", "320", "--repeats", "1"])
    printed = ends(capsys, code, "| ours, no preview |", "wall seconds over pycolmap's")
    assert "holds: photos in our largest model over pycolmap's: 1 " in printed
    assert "| pycolmap | 4 |" in printed


def test_preset(photos, tmp_path, capsys):
    code = preset.main([str(photos / "one"), "--out", str(tmp_path), "--repeats", "1", "--judge", "cpu"])
    ends(capsys, code, "times quicker", "| ours, our defaults | 4 | 4 |")


def test_workers(photos, tmp_path, capsys):
    code = workers.main([str(photos), "--out", str(tmp_path), "--repeats", "1", "--workers", "1", "2"])
    printed = ends(capsys, code, "two workers against one")
    assert "holds: different results: 1 " in printed


def test_growth(photos, tmp_path, capsys):
    sizes = ["--sizes", "4", "8", "--views", "4", "--side", "160"]
    code = growth.main([str(photos), "--out", str(tmp_path), *sizes])
    ends(capsys, code, "wall seconds a photo, 8 over 4 photos", "| matching |")


def test_registration_and_going_on_with_it(photos, tmp_path, capsys):
    given = [str(photos), "--out", str(tmp_path), "--exhaustive-up-to", "0"]
    assert registration.main([*given, "--estimate", "5"]) == 0
    assert "all 21 pairs" in capsys.readouterr().out
    printed = ends(capsys, registration.main(given), "trusted pairs: 9, of them between folders: 0")
    assert "| every pair | 21 | 7 | 2 |" in printed
    assert "holds: share of every pair's registered photos: 1 " in printed
    before = fingerprint(tmp_path / "proposed"), fingerprint(tmp_path / "exhaustive")
    assert ends(capsys, registration.main(given)).splitlines()[:-1] == printed.splitlines()[:-1]
    assert (fingerprint(tmp_path / "proposed"), fingerprint(tmp_path / "exhaustive")) == before


def test_a_second_feature_against_the_first(photos, tmp_path, capsys):
    again = tmp_path / "again.py"
    again.write_text("from sfm.local_features.sift import Sift\nclass Again(Sift): pass\n")
    given = [str(photos), "--out", str(tmp_path / "out"), "--method", f"{again}:Again", "--workers", "1"]
    printed = ends(capsys, second_feature.main(given), "| alone | 7 of 7 | 2 |", "| both | 7 of 7 | 2 |")
    assert "holds: share registered by both: 1 " in printed
    assert "holds: pairs of folders that both join and SIFT alone does not: 0 " in printed


def test_features_by_the_pairs_that_they_verify(photos, tmp_path, capsys):
    again = tmp_path / "again.py"
    again.write_text("from sfm.local_features.sift import Sift\nclass Again(Sift): min_inliers = 20\n")
    features = ["--features", "sift:300", f"{again}:Again"]
    given = [str(photos), *features, "--each", "2", "--across", "3"]
    printed = ends(
        capsys, pairs_by_feature.main(given), "2 pairs within a folder, 3 across", "| sift:300 | 2 / 0 |"
    )
    assert f"holds: pairs across folders by {again}:Again, 20 inliers: 0 " in printed


def test_a_million_in_small(tmp_path, capsys):
    given = ["--out", str(tmp_path), "--rows", "1500", "--part", "256"]
    ends(capsys, million.main(given), "| matching |", "among 1,500:", "parent's peak memory")
    graph = read_table(tmp_path / "sfm/graph.parquet")
    # Pairs of photos at most seven apart, of twelve in a row: 11 + 10 + ... + 5.
    assert len(graph) == 125 * 56
    assert graph["place"].nunique() == 125


def test_projection_scales_what_was_measured(tmp_path, capsys):
    stages = {
        "scan": {"seconds": 2.0, "usable": 500},
        "features": {"seconds": 30.0, "cpu_seconds": 50.0, "keypoints": 600_000},
        "vlad": {"seconds": 4.0, "cpu_seconds": 3.0, "dim": 16},
        "candidates": {"seconds": 1.0, "pairs": 3500},
        "matching": {"seconds": 20.0, "cpu_seconds": 40.0},
        "mapping": {"seconds": 9.0, "cpu_seconds": 17.28},
    }
    write_json(tmp_path / "stats.json", {"stages": stages})
    for name, size in (("features/shard-00000/keypoints.npy", 7000), ("matches/block-00000.npz", 500)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(bytes(size))
    for number in range(20):
        write_json(tmp_path / f"mapping/done/place-{number}.json", {})
    costs = projection.read_costs(tmp_path)
    effort = projection.project(costs, search=1e-9, photos=10**6)
    assert effort["features"] == projection.Effort(core_days=100_000 / 86_400, gigabytes=0.014, tasks=3907)
    assert effort["candidates"].core_days == pytest.approx(1000 / 86_400)
    assert effort["matching"].tasks == 7000
    assert effort["mapping"].core_days == pytest.approx(0.4)
    assert effort["mapping"].tasks == 40_000
    assert projection.main([str(tmp_path), "--photos", "1000000", "--part", "64"]) == 0
    printed = capsys.readouterr().out
    assert "7.0 candidate pairs and 1,200 keypoints a photo" in printed
    assert "1,000,000: 154 GB of descriptors until matching ends" in printed


def test_projection_needs_a_run_with_neighbours(tmp_path):
    write_json(tmp_path / "stats.json", {"stages": {"scan": {"usable": 9}}})
    with pytest.raises(ValueError, match="expected a run that chose candidates by nearest neighbours"):
        projection.read_costs(tmp_path)


def test_the_fingerprint_sees_one_changed_inlier(photos, tmp_path):
    from experiments.benchmarks.contenders.ours import ours
    from sfm.reconstruct import ReconstructConfig

    ours(photos / "two", tmp_path / "out", ReconstructConfig(), workers=1)
    before = fingerprint(tmp_path / "out")
    assert fingerprint(tmp_path / "out") == before
    block = next((tmp_path / "out/matches").glob("block-*.npz"))
    with np.load(block) as stored:
        arrays = dict(stored)
    arrays["inliers"][0, 1] += 1
    np.savez(block, **arrays)
    after = fingerprint(tmp_path / "out")
    assert after.matches != before.matches
    assert (after.images, after.models) == (before.images, before.models)


def test_contenders_take_turns_and_the_order_is_turned_round():
    done = []
    found = take_turns({name: lambda name=name: done.append(name) for name in "abc"}, repeats=3)
    assert "".join(done) == "abccbaabc"
    assert [len(rounds) for rounds in found.values()] == [3, 3, 3]


def test_processor_seconds_are_counted():
    _, took = timed(lambda: sum(range(3_000_000)))
    assert 0 < took.cpu <= took.wall + 0.05


def test_medians_are_of_the_seconds_asked_for():
    rounds = [(None, Took(wall=wall, cpu=cpu)) for wall, cpu in ((9.0, 1.5), (2.0, 7.0), (4.0, 1.0))]
    assert (median(rounds, "wall"), median(rounds, "cpu")) == (4.0, 1.5)


@pytest.mark.parametrize(
    ("measured", "at_least", "holds"),
    [
        (1.7, True, True),
        (1.5, True, False),
        (1.5, False, True),
        (1.7, False, False),
        (float("nan"), True, False),
    ],
)
def test_a_claim_keeps_its_limit_or_is_missed(measured, at_least, holds, capsys):
    claim = Claim(what="gain", measured=measured, limit=1.6, at_least=at_least)
    assert conclude([claim, Claim(what="sure", measured=1, limit=0, at_least=True)]) == int(not holds)
    assert ("MISSED: gain" in capsys.readouterr().out) is not holds


def test_photos_are_copied_the_same_way_every_time(photos, tmp_path):
    options = {"sources": 3, "views": 2, "longest_px": 150, "seed": 5}
    first = photo_files(rephotographed(photos, tmp_path / "a", **options))
    again = photo_files(rephotographed(photos, tmp_path / "b", **options))
    fewer = photo_files(rephotographed(photos, tmp_path / "c", **options | {"sources": 2}))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert [path.read_bytes() for path in first[:4]] == [path.read_bytes() for path in fewer]
    assert len({path.read_bytes() for path in first}) == 6
    with pytest.raises(ValueError, match=r"expected at least 8 photos, got 7; ask for less"):
        rephotographed(photos, tmp_path / "d", **options | {"sources": 8})


def test_shrunk_photos_keep_their_shape(photos, tmp_path):
    (path,) = photo_files(shrunk(photos / "one", tmp_path, 1, 160))
    with Image.open(path) as image:
        assert image.size == (160, 120)


def test_negatives(capsys):
    sizes = ["--queries", "30", "--pool", "200", "--dim", "16", "--clusters", "12", "--repeats", "1"]
    printed = ends(capsys, negatives.main(sizes), "| ours |", "times quicker")
    assert "holds: share of queries with the same negatives: 1 " in printed


def test_whitening(capsys):
    sizes = ["--dim", "40", "--learn", "600", "--pairs", "500", "--apply", "700"]
    printed = ends(capsys, whitening.main(sizes), "| straightforward |", "| ours |")
    for what in ("largest difference of inner products", "whitened float32 stays float32"):
        assert f"holds: {what}" in printed


def test_training_speed(photos, capsys):
    small = ["--count", "7", "--tuples", "2", "--side", "64", "--extracted", "2", "--sizes", "64", "96"]
    small = [*small, "--megapixels", "1", "--repeats", "1"]
    printed = ends(capsys, training_speed.main([str(photos), *small]))
    for network in ("whole trunk", "upper half"):
        for number in (1, 2):
            assert f"{network}, epoch {number} over its passes: " in printed
    for kind in ("photos", "1 megapixels"):
        for size in (64, 96):
            assert f"{kind}, {size} px, extraction over its passes: " in printed
            assert f"{kind}, {size} px, one by one over extraction: " in printed
    assert printed.count(" (goal ") == 12
