import shutil
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from groundwork.child import WorkerDied
from groundwork.executors import LocalExecutor, SerialExecutor
from groundwork.files import read_table
from groundwork.records import finish, last_done
from sfm.collection import scan
from sfm.descriptors import drop_descriptors
from sfm.detection import FeatureConfig
from sfm.features import Features, extract_features
from sfm.inspection import ScanConfig
from sfm.matching import Matches, MatchingConfig, match, read_inliers
from sfm.pair_table import ENDS, MATCHED, image_ids, pair_table


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few pairs make several blocks."""
    monkeypatch.setattr("sfm.matchplan._MIN_BLOCK", 16)


@pytest.fixture(scope="module")
def features(two_scenes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Features:
    out = tmp_path_factory.mktemp("features")
    collection = scan(two_scenes["one"].folder.parent, out, ScanConfig(), SerialExecutor())
    return extract_features(collection, out, FeatureConfig(), SerialExecutor())


def _candidates(*pairs: tuple[int, int]) -> pd.DataFrame:
    return pair_table(np.array(pairs, dtype=np.int32).reshape(-1, 2), origin="list")


ALL = [(one, two) for one in range(1, 11) for two in range(one + 1, 11)]


def _match(features: Features, out: Path, **settings: int) -> Matches:
    return match(_candidates(*ALL), features, out, MatchingConfig(**settings), 0, SerialExecutor())


def test_neighbouring_photos_match_and_places_do_not(features: Features, tmp_path: Path) -> None:
    pairs = _match(features, tmp_path).pairs
    assert image_ids(pairs).tolist() == [list(pair) for pair in ALL]
    inliers = pairs.set_index([*ENDS])["inliers"]
    names = [Path(image.name) for image in features.store.read(range(1, 11))]
    # The photos of each place are named in order of the camera's path.
    for one, two in ALL:
        first, second = names[one - 1], names[two - 1]
        if first.parent != second.parent:
            assert inliers[one, two] == 0
        elif abs(int(first.stem) - int(second.stem)) == 1:
            assert inliers[one, two] >= 30
    assert (pairs["geometry_kind"] != 1).eq(pairs["inliers"] > 0).all()


def test_inliers_are_read_back_for_any_choice_of_pairs(features: Features, tmp_path: Path) -> None:
    matches = _match(features, tmp_path)
    chosen = matches.pairs[matches.pairs["inliers"] > 0].sample(frac=0.5, random_state=0)
    count = chosen.set_index([*ENDS])["inliers"]
    images = {image.image_id: image for image in features.store.read(range(1, 11))}
    read = list(read_inliers(matches.folder, chosen))
    assert {(one, two) for one, two, _, _ in read} == set(count.index)
    for one, two, config, inliers in read:
        assert config > 1
        assert len(inliers) == count[one, two]
        assert (inliers.max(axis=0) < (len(images[one].keypoints), len(images[two].keypoints))).all()


def test_workers_and_seed(features: Features, tmp_path: Path) -> None:
    alone = _match(features, tmp_path / "a")
    with LocalExecutor(2) as executor:
        together = match(_candidates(*ALL), features, tmp_path / "b", MatchingConfig(), 0, executor)
    pd.testing.assert_frame_equal(alone.pairs, together.pairs)
    for block in sorted(alone.folder.glob("block-*.npz")):
        with np.load(block) as one, np.load(together.folder / block.name) as two:
            np.testing.assert_array_equal(one["inliers"], two["inliers"])
    other = match(_candidates(*ALL), features, tmp_path / "c", MatchingConfig(), 1, SerialExecutor())
    assert other.key != alone.key


def test_the_preview_saves_work_and_loses_little(features: Features, tmp_path: Path) -> None:
    with_preview = _match(features, tmp_path / "a").pairs["inliers"]
    without = _match(features, tmp_path / "b", preview_features=0).pairs["inliers"]
    strict = _match(features, tmp_path / "c", preview_min_matches=1000).pairs["inliers"]
    assert ((with_preview > 0) == (without > 0)).mean() > 0.95
    assert (strict == 0).all()


def test_no_pair_at_all(features: Features, tmp_path: Path) -> None:
    matches = match(_candidates(), features, tmp_path, MatchingConfig(), 0, SerialExecutor())
    assert len(matches.pairs) == 0
    assert list(matches.pairs) == list(MATCHED)


class _Noting(SerialExecutor):
    """Notes the batches it is given, and lets one pair kill its worker."""

    def __init__(self, deadly: tuple[int, int] | None = None) -> None:
        self.batches: list[tuple[str, tuple[Any, ...]]] = []
        self._deadly = deadly

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        batch = args[-1]
        self.batches.append((batch.name, batch.items))
        if self._deadly in batch.items:
            future: Future[Any] = Future()
            future.set_exception(WorkerDied("worker was ended by SIGSEGV"))
            return future
        return super().submit(fn, *args, **kwargs)


def _inliers(matches: Matches) -> dict[tuple[int, int], bytes]:
    stored = matches.pairs[matches.pairs["row"] >= 0]
    return {(one, two): rows.tobytes() for one, two, _, rows in read_inliers(matches.folder, stored)}


def test_a_pair_does_not_depend_on_its_neighbours(features: Features, tmp_path: Path) -> None:
    together = _inliers(_match(features, tmp_path / "all"))
    for pair in ((1, 2), (4, 6), (9, 10)):
        alone = match(
            _candidates(pair), features, tmp_path / str(pair), MatchingConfig(), 0, SerialExecutor()
        )
        assert _inliers(alone) == {pair: together[pair]}


def test_a_pair_does_not_depend_on_its_numbers(
    two_scenes: dict[str, Any], features: Features, tmp_path: Path
) -> None:
    whole, photos, out = _match(features, tmp_path / "whole"), tmp_path / "photos", tmp_path / "out"
    # The photo that comes in last has the smallest digest, but the largest number.
    names = [image.name for image in features.store.read(range(1, 11))]
    shutil.copytree(two_scenes["one"].folder.parent, photos)
    (photos / names[0]).rename(tmp_path / "last.png")
    scan(photos, out, ScanConfig(), SerialExecutor())
    (tmp_path / "last.png").rename(photos / names[0])
    collection = scan(photos, out, ScanConfig(), SerialExecutor())
    assert collection.usable["name"].tolist() == [*names[1:], names[0]]
    grown = _match(extract_features(collection, out, FeatureConfig(), SerialExecutor()), out)
    before = [*range(2, 11), 1]
    for (one, two), inliers in _inliers(grown).items():
        pair = before[one - 1], before[two - 1]
        rows = np.frombuffer(inliers, dtype=np.uint32).reshape(-1, 2)
        if pair[0] > pair[1]:
            pair, rows = pair[::-1], rows[:, ::-1]
        assert rows.tobytes() == _inliers(whole)[pair]


def test_growth_matches_new_pairs_only(features: Features, tmp_path: Path) -> None:
    fewer = replace(
        features, key="fewer", num_keypoints=features.num_keypoints[:8], sha256=features.sha256[:8]
    )
    first = [pair for pair in ALL if pair[1] <= 8 and pair != (1, 2)]
    match(_candidates(*first), fewer, tmp_path, MatchingConfig(), 0, SerialExecutor())
    blocks = {path.name: path.read_bytes() for path in (tmp_path / "matches").glob("block-*")}
    executor = _Noting()
    listed = [pair for pair in ALL if pair != (3, 4)]
    grown = match(
        _candidates(*listed).assign(origin="new"), features, tmp_path, MatchingConfig(), 0, executor
    )
    new = [pair for _, items in executor.batches for pair in items]
    assert sorted(new) == sorted(set(listed) - set(first))
    assert {(tmp_path / "matches" / name).read_bytes() for name in blocks} == set(blocks.values())
    # What was a candidate before stays, from where it came then.
    pairs = grown.pairs.set_index([*ENDS])
    assert pairs.index.tolist() == ALL
    assert pairs.loc[(3, 4), "origin"] == "list"
    assert (pairs["origin"] == "new").sum() == len(ALL) - 1
    fresh = match(_candidates(*ALL), features, tmp_path / "fresh", MatchingConfig(), 0, SerialExecutor())
    assert _inliers(grown) == _inliers(fresh)
    assert grown.key == fresh.key


def test_other_photos_or_settings_match_everything_anew(features: Features, tmp_path: Path) -> None:
    _match(features, tmp_path)
    for other, config in (
        (replace(features, key="other", sha256=features.sha256[::-1].copy()), MatchingConfig()),
        (features, MatchingConfig(max_trials=1000)),
    ):
        executor = _Noting()
        matches = match(_candidates(*ALL[:20]), other, tmp_path, config, 0, executor)
        assert sorted(tuple(sorted(pair)) for _, items in executor.batches for pair in items) == ALL[:20]
        assert len(matches.pairs) == 20
        assert len(list((tmp_path / "matches").glob("block-*"))) == 2


def test_pairs_of_an_earlier_version_are_matched_anew(
    features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "matches" / "pairs.parquet"
    with monkeypatch.context() as earlier:
        earlier.setattr("sfm.matching._VERSION", 4)
        old = _match(features, tmp_path)
        record = last_done(tmp_path, "matching")
        # So the kind of geometry was called then.
        write = partial(old.pairs.rename(columns={"geometry_kind": "config"}).to_parquet, index=False)
        facts, basis = record.facts, record.basis
        finish(tmp_path, "matching", record.key, path, write, seconds=0.0, facts=facts, basis=basis)
    executor = _Noting()
    new = match(_candidates(*ALL[:20]), features, tmp_path, MatchingConfig(), 0, executor)
    assert sum(len(items) for _, items in executor.batches) == 20
    assert image_ids(new.pairs).tolist() == [list(pair) for pair in ALL[:20]]
    assert list(read_table(path)) == list(MATCHED)
    kept = old.pairs.iloc[:20]
    assert new.pairs["geometry_kind"].tolist() == kept["geometry_kind"].tolist()
    assert new.key != old.key


def test_a_damaged_block_is_matched_again(
    features: Features, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = _inliers(_match(features, tmp_path))
    block = tmp_path / "matches" / "block-00001.npz"
    content = block.read_bytes()
    block.write_bytes(content[:-9] + b"x" + content[-8:])
    executor = _Noting()
    again = match(_candidates(*ALL), features, tmp_path, MatchingConfig(), 0, executor)
    assert [name for name, _ in executor.batches] == ["block-00001"]
    assert block.read_bytes() == content
    assert _inliers(again) == whole
    assert f"{block}: damaged, or changed since; block-00001 is done again" in caplog.messages


def test_a_lost_table_of_pairs_is_written_again(features: Features, tmp_path: Path) -> None:
    before = _match(features, tmp_path)
    (tmp_path / "matches" / "pairs.parquet").unlink()
    executor = _Noting()
    after = match(_candidates(*ALL), features, tmp_path, MatchingConfig(), 0, executor)
    assert executor.batches == []
    pd.testing.assert_frame_equal(after.pairs, before.pairs)


def test_dropped_descriptors_are_made_again_where_needed(
    features: Features, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sfm.descriptors")
    whole = _inliers(_match(features, tmp_path / "whole"))
    try:
        drop_descriptors(features)
        drop_descriptors(features)
        assert not features.store.descriptors.exists()
        executor = _Noting()
        pairs = _candidates((1, 2), (2, 6))
        some = match(pairs, features, tmp_path, MatchingConfig(), 0, executor)
        assert _inliers(some) == {pair: whole[pair] for pair in ((1, 2), (2, 6))}
        assert [items for name, items in executor.batches if name.startswith("shard")] == [(1, 2), (6,)]
        assert caplog.messages == [
            "descriptors of 3 photos are not on disk any more; they are extracted again"
        ]
        assert _inliers(_match(features, tmp_path)) == whole
        assert [image_id for image_id, _ in features.store.read_descriptors(range(1, 11))] == [*range(1, 11)]
    finally:
        _match(features, tmp_path / "again")


def test_a_pair_that_kills_its_worker_costs_itself_only(features: Features, tmp_path: Path) -> None:
    whole = _inliers(_match(features, tmp_path / "whole"))
    matches = match(_candidates(*ALL), features, tmp_path, MatchingConfig(), 0, _Noting(deadly=(4, 5)))
    killer = matches.pairs.set_index([*ENDS]).loc[(4, 5)]
    assert killer[["geometry_kind", "inliers", "row"]].tolist() == [0, 0, -1]
    del whole[4, 5]
    assert _inliers(matches) == whole
    executor = _Noting()
    match(_candidates(*ALL), features, tmp_path, MatchingConfig(), 0, executor)
    assert executor.batches == []
