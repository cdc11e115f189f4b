import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pandas as pd
import pycolmap
import pytest

from groundwork.executors import LocalExecutor, SerialExecutor
from sfm.mapper import MappingConfig
from sfm.mapping import Mapping, map_places
from sfm.matchgraph import GraphConfig
from sfm.model import load_model


class Counting(SerialExecutor):
    """Notes the sizes of the components that are mapped."""

    def __init__(self) -> None:
        self.mapped: list[int] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.mapped.append(len(args[-1].items[0].image_ids))
        return super().submit(fn, *args, **kwargs)


def _map(world: Any, out: Path, config: MappingConfig | None = None) -> tuple[Mapping, list[int]]:
    executor = Counting()
    mapping = map_places(
        world.collection, world.features.store, world.graph, out, config or MappingConfig(), 0, executor
    )
    return mapping, executor.mapped


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def worlds(build_world: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two scenes; the same after photos came in before them, of a third place that is larger than either."""
    old = {"middle": (1, 5), "small": (2, 4)}
    new = {"large": (3, 6)} | old
    return {
        name: build_world(tmp_path_factory.mktemp(name), scenes)
        for name, scenes in (("old", old), ("new", new))
    }


def test_models_are_numbered_by_size_and_described(worlds: dict[str, Any], tmp_path: Path) -> None:
    mapping, mapped = _map(worlds["old"], tmp_path)
    assert mapped == [5, 4]
    assert [folder.name for folder in mapping.folders] == ["0", "1"]
    names = [load_model(folder / "arrays.npz").names for folder in mapping.folders]
    assert names == [
        tuple(f"middle/{number}.png" for number in range(5)),
        tuple(f"small/{number}.png" for number in range(4)),
    ]
    table = pd.read_parquet(tmp_path / "models.parquet")
    assert table[["model", "place", "way", "images", "registered_share"]].to_numpy().tolist() == [
        [0, 0, "incremental", 5, 1.0],
        [1, 1, "incremental", 4, 1.0],
    ]
    for row, folder in zip(table.itertuples(), mapping.folders, strict=True):
        model = load_model(folder / "arrays.npz")
        assert row.points == model.num_points
        assert row.track_length == pytest.approx(model.num_observations / model.num_points)
        assert row.observations == pytest.approx(model.num_observations / model.num_images)
        assert 0 < row.reprojection_error_px < 1
        assert row.seconds > 0


def test_only_new_components_are_mapped(worlds: dict[str, Any], tmp_path: Path) -> None:
    before, _ = _map(worlds["old"], tmp_path / "grown")
    kept = [_bytes(folder) for folder in before.folders]
    grown, mapped = _map(worlds["new"], tmp_path / "grown")
    assert mapped == [6]
    assert grown.key != before.key
    fresh, _ = _map(worlds["new"], tmp_path / "fresh")
    assert [_bytes(folder) for folder in grown.folders] == [_bytes(folder) for folder in fresh.folders]
    assert [_bytes(folder) for folder in grown.folders[1:]] == kept
    assert pd.read_parquet(tmp_path / "grown" / "models.parquet")["place"].tolist() == [0, 1, 2]


def test_what_is_no_more_leaves_nothing(worlds: dict[str, Any], tmp_path: Path) -> None:
    _map(worlds["new"], tmp_path)
    mapping, mapped = _map(worlds["old"], tmp_path)
    assert mapped == []
    assert sorted(folder.name for folder in (tmp_path / "models").iterdir()) == ["0", "1"]
    results = sorted(folder.name for folder in (tmp_path / "mapping").glob("component-*"))
    records = sorted(record.stem for record in (tmp_path / "mapping" / "done").iterdir())
    assert results == records
    assert len(results) == 2
    assert load_model(mapping.folders[0] / "arrays.npz").names[0] == "middle/0.png"


def test_models_take_no_second_place_on_disk(worlds: dict[str, Any], tmp_path: Path) -> None:
    mapping, _ = _map(worlds["old"], tmp_path)
    assert all(file.stat().st_nlink == 2 for folder in mapping.folders for file in folder.iterdir())


def test_models_are_copied_where_there_are_no_links(
    worlds: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked, _ = _map(worlds["old"], tmp_path / "linked")

    def refuse(source: str, target: str) -> None:
        raise PermissionError(1, os.strerror(1))

    monkeypatch.setattr(os, "link", refuse)
    copied, _ = _map(worlds["old"], tmp_path / "copied")
    assert [_bytes(folder) for folder in copied.folders] == [_bytes(folder) for folder in linked.folders]


def test_settings_change_every_component_and_size_is_ours(worlds: dict[str, Any], tmp_path: Path) -> None:
    _map(worlds["old"], tmp_path)
    mapping, mapped = _map(worlds["old"], tmp_path, MappingConfig(min_model_size=5))
    assert mapped == [5]
    assert len(mapping.folders) == 1


# No pair has as many inliers: the incremental mapper never starts.
NEVER = 10_000


@pytest.mark.parametrize(
    ("changed", "way"),
    [
        ({"init_min_inliers": NEVER}, "relaxed"),
        ({"init_min_inliers": NEVER, "relaxed_min_inliers": NEVER}, "global"),
    ],
)
def test_a_component_without_a_model_is_tried_otherwise(
    worlds: dict[str, Any], tmp_path: Path, changed: dict[str, Any], way: str
) -> None:
    mapping, _ = _map(worlds["old"], tmp_path, MappingConfig(**changed))
    table = pd.read_parquet(tmp_path / "models.parquet")
    assert table["way"].tolist() == [way, way]
    assert table["images"].tolist() == [5, 4]
    assert (table["reprojection_error_px"] < 1).all()
    again, _ = _map(worlds["old"], tmp_path / "again", MappingConfig(**changed))
    for one, two in zip(mapping.folders, again.folders, strict=True):
        assert _bytes(one) == _bytes(two)


@pytest.mark.parametrize(
    "limit", [{"global_fallback": False}, {"global_max_error_px": 1e-6}, {"global_min_points": 200}]
)
def test_a_poor_model_of_the_global_mapper_is_none(
    worlds: dict[str, Any], tmp_path: Path, limit: dict[str, Any]
) -> None:
    never = {"init_min_inliers": NEVER, "relaxed_min_inliers": NEVER}
    mapping, mapped = _map(worlds["old"], tmp_path, MappingConfig(**never, **limit))
    assert mapped == [5, 4]
    assert mapping.folders == ()
    assert list((tmp_path / "models").iterdir()) == []
    assert len(pd.read_parquet(tmp_path / "models.parquet")) == 0


def test_a_model_of_few_points_is_none(worlds: dict[str, Any], tmp_path: Path) -> None:
    # Every image sees 150 points.
    assert len(_map(worlds["old"], tmp_path, MappingConfig(min_points=100))[0].folders) == 2
    assert _map(worlds["old"], tmp_path, MappingConfig(min_points=151))[0].folders == ()


def test_a_component_over_its_limit_is_given_up_until_the_limit_changes(
    worlds: dict[str, Any], tmp_path: Path
) -> None:
    world = worlds["old"]

    def run(config: MappingConfig) -> Mapping:
        with LocalExecutor(2) as executor:
            return map_places(
                world.collection, world.features.store, world.graph, tmp_path, config, 0, executor
            )

    short = run(MappingConfig(max_minutes=1e-4))
    assert short.failed == dict.fromkeys(
        range(1, 10), "reconstruction: took longer than its limit of 0.006 s"
    )
    assert short.folders == ()
    assert _map(world, tmp_path, MappingConfig(max_minutes=1e-4))[1] == []
    long = run(MappingConfig())
    assert long.failed == {}
    assert len(long.folders) == 2
    assert _map(world, tmp_path, MappingConfig(max_minutes=90))[1] == []


def test_a_large_place_is_mapped_in_parts_that_share_images(
    build_world: Callable[..., Any], tmp_path: Path
) -> None:
    config = GraphConfig(filters=(), max_component=20, overlap=5)
    world = build_world(tmp_path, {"large": (1, 22), "small": (2, 4)}, config)
    parts = world.graph.parts.groupby("part")["image_id"].agg(list).tolist()
    mapping, mapped = _map(world, tmp_path)
    assert sorted(mapped, reverse=True) == [*sorted(map(len, parts), reverse=True), 4]
    table = pd.read_parquet(tmp_path / "models.parquet")
    assert table["place"].tolist() == [0, 0, 1]
    assert sorted(table["part"][:2]) == [0, 1]
    names = [set(load_model(folder / "arrays.npz").names) for folder in mapping.folders[:2]]
    assert names[0] | names[1] == {f"large/{number}.png" for number in range(22)}
    assert len(names[0] & names[1]) == 2 * 5
    assert (table["registered_share"] == 1).all()


# Of a try: its seed, the inliers that its first pair needs, and whether distortion is estimated.
Try = tuple[int, int, bool]
TRIES: list[Try] = [
    *((0, 100, True), (0, 30, True), (0, 30, False)),
    *((1, 100, True), (1, 30, True), (1, 30, False)),
    *((2, 100, True), (2, 30, True), (2, 30, False)),
]


@pytest.fixture
def poor_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[dict[Try, int]], list[Try]]:
    """The function that lets tries lose all but some images.

    It returns a list of the tries, which grows as they are made.
    """
    from sfm.colmap import calls as colmap

    whole, tries = colmap.map_incrementally, []

    def prepare(left: dict[Try, int]) -> list[Try]:
        def poor(database: Path, out: Path, options: colmap.IncrementalOptions) -> None:
            whole(database, out, options)
            tries.append((options.seed, options.init_min_inliers, options.refine_distortion))
            for folder in out.iterdir():
                model = pycolmap.Reconstruction(folder)
                for frame_id in sorted(model.reg_frame_ids())[left.get(tries[-1], model.num_images()) :]:
                    model.deregister_frame(frame_id)
                model.write(folder)

        monkeypatch.setattr(colmap, "map_incrementally", poor)
        return tries

    return prepare


def _single(build_world: Callable[..., Any], out: Path, config: MappingConfig) -> list[int]:
    """Sizes of the models of one place of eight images."""
    mapping, _ = _map(build_world(out, {"only": (1, 8)}), out, config)
    return [load_model(folder / "arrays.npz").num_images for folder in mapping.folders]


def test_a_hardly_registered_component_is_tried_from_other_starts(
    build_world: Callable[..., Any], poor_starts: Any, tmp_path: Path
) -> None:
    tries = poor_starts(dict(zip(TRIES[:6], (3, 0, 3, 2, 1, 8), strict=True)))
    assert _single(build_world, tmp_path, MappingConfig()) == [8]
    assert tries == TRIES[:6]
    assert pd.read_parquet(tmp_path / "models.parquet")["way"].tolist() == ["fixed distortion"]


def test_the_start_that_registers_most_counts(
    build_world: Callable[..., Any], poor_starts: Any, tmp_path: Path
) -> None:
    tries = poor_starts(dict(zip(TRIES, (5, 3, 4, 6, 6, 6, 6, 4, 4), strict=True)))
    strict = MappingConfig(enough_share=1.0)
    assert _single(build_world, tmp_path / "a", strict) == [6]
    assert tries == TRIES
    # Of equals the first: that of the fourth try is no more than it was.
    assert pd.read_parquet(tmp_path / "a" / "models.parquet")["way"].tolist() == ["incremental"]
    tries.clear()
    assert _single(build_world, tmp_path / "b", strict.model_copy(update={"starts": 1})) == [5]
    assert tries == TRIES[:3]


def test_no_other_start_is_tried_where_enough_is_registered(
    build_world: Callable[..., Any], poor_starts: Any, tmp_path: Path
) -> None:
    tries = poor_starts({TRIES[0]: 4})
    assert _single(build_world, tmp_path, MappingConfig()) == [4]
    assert tries == TRIES[:1]
