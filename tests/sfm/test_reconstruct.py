import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pycolmap
import pytest
from PIL import Image

from groundwork.batches import Batch
from groundwork.child import WorkerDied
from groundwork.executors import LocalExecutor, SerialExecutor
from groundwork.files import UNFINISHED, read_json
from groundwork.lock import FolderInUse, hold
from sfm.detection import FeatureConfig
from sfm.geometry import centres_in_world
from sfm.mapper import MappingConfig
from sfm.matchgraph import as_networkx
from sfm.outcome import ReconstructResult
from sfm.reconstruct import ReconstructConfig, reconstruct


@pytest.fixture(scope="module")
def photos(two_scenes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two places, a copy, a loner, a flat photo, and a file that is no photo."""
    root = tmp_path_factory.mktemp("collection") / "photos"
    for name, scene in two_scenes.items():
        shutil.copytree(scene.folder, root / f"{name} \n{name}")
    shutil.copy(root / "one \none" / "2.png", root / "zz.png")
    noise = np.random.default_rng(1).integers(0, 256, (45, 60), dtype=np.uint8)
    Image.fromarray(noise.repeat(8, axis=0).repeat(8, axis=1)).save(root / "loner.png")
    Image.new("L", (480, 360), 99).save(root / "flat.png")
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return root


@pytest.fixture(scope="module")
def out(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unbroken run on two workers."""
    folder = tmp_path_factory.mktemp("out") / "sfm"
    with LocalExecutor(2) as executor:
        reconstruct(photos, folder, ReconstructConfig(), executor)
    return folder


def test_the_match_graph_can_be_looked_into(out: Path) -> None:
    graph = as_networkx(out)
    images = pd.read_parquet(out / "images.parquet")
    usable = images[images["status"].isin(["registered", "unregistered"])].set_index("name")
    assert {name: (node["place"], node["model"]) for name, node in graph.nodes(data=True)} == {
        name: (row["place"], row["model"]) for name, row in usable.iterrows()
    }
    assert {len(part) for part in nx.connected_components(graph)} == {1, 4, 6}
    assert all(graph.nodes[one]["place"] == graph.nodes[two]["place"] for one, two in graph.edges)
    assert sum(weight for *_, weight in graph.edges(data="weight")) == int(
        pd.read_parquet(out / "graph.parquet")["inliers"].sum()
    )
    kinds = {kind for *_, kind in graph.edges(data="geometry_kind")}
    assert kinds <= {"calibrated", "planar", "planar or panoramic", "uncalibrated"}
    assert all(type(value) in (int, str) for *_, edge in graph.edges(data=True) for value in edge.values())


class _Forbidden(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        raise AssertionError(f"{fn} was submitted")


class _Ending(SerialExecutor):
    """Ends the run, as Ctrl-C would, after some tasks."""

    def __init__(self, tasks: int) -> None:
        self.left = tasks

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().submit(fn, *args, **kwargs)


def _load(photos: Path, out: Path) -> ReconstructResult:
    return reconstruct(photos, out, ReconstructConfig(), _Forbidden())


def _contents(out: Path) -> dict[str, bytes]:
    files = [out / "images.parquet", *(out / "models").rglob("*.*")]
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in files}


def test_every_file_has_its_fate(photos: Path, out: Path) -> None:
    images = _load(photos, out).images
    rows = images[["name", "status", "reason", "model", "place"]].to_numpy().tolist()
    assert rows == [
        ["broken.jpg", "rejected", "not an image", -1, -1],
        ["flat.png", "unregistered", "too few keypoints", -1, -1],
        ["loner.png", "unregistered", "matches no other photo", -1, -1],
        *([f"one \none/{number}.png", "registered", "", 0, 0] for number in range(6)),
        *([f"two \ntwo/{number}.png", "registered", "", 1, 1] for number in range(4)),
        ["zz.png", "duplicate", "same bytes as one \none/2.png", -1, -1],
    ]
    assert images.loc[3, ["width", "height", "orientation"]].tolist() == [480, 360, 1]


def test_counts(photos: Path, out: Path) -> None:
    stats = read_json(out / "stats.json")
    assert stats == _load(photos, out).stats.model_dump(mode="json")
    counts = {name: stats[name] for name in ("images", "rejected", "duplicates", "registered", "models")}
    assert counts == {"images": 14, "rejected": 1, "duplicates": 1, "registered": 10, "models": 2}
    assert stats["places"] == 2
    assert stats["reasons"] == {"matches no other photo": 1, "not an image": 1, "too few keypoints": 1}
    assert list(stats["stages"]) == [
        "candidates",
        "features",
        "graph",
        "mapping",
        "matching",
        "pair lists",
        "scan",
    ]
    assert stats["seconds"] == pytest.approx(sum(stage["seconds"] for stage in stats["stages"].values()))
    assert stats["engine"].startswith("2 processes in ")
    for stage, tasks in (("scan", 1), ("features", 3)):
        taken = stats["stages"][stage]
        counts = {name: taken[name] for name in ("tasks", "retries", "quarantined")}
        assert counts == {"tasks": tasks, "retries": 0, "quarantined": 0}
        assert taken["cpu_seconds"] > 0
        assert taken["peak_bytes"] > 50e6
    assert read_json(out / "photos.json") == {"version": 1, "photos": str(photos)}


def test_cameras_are_where_they_were(two_scenes: dict[str, Any], photos: Path, out: Path) -> None:
    for model, scene in zip(_load(photos, out).models, two_scenes.values(), strict=True):
        truth = np.array([scene.centres[Path(name).name] for name in model.names])
        found = centres_in_world(model.rotations, model.translations)
        errors = np.linalg.norm(pycolmap.estimate_sim3d(found, truth) * found - truth, axis=1)
        # The cameras are 4.2 units from the corner they look at.
        assert errors.max() < 0.042
        # EXIF says 40 mm for all of them: they share one camera.
        assert np.ptp(model.focal_px) == 0
        assert model.focal_px[0] == pytest.approx(40 / np.hypot(36, 24) * 600, rel=0.01)


def test_models_open_in_colmap_and_agree_with_the_arrays(photos: Path, out: Path) -> None:
    for number, model in enumerate(_load(photos, out).models):
        theirs = pycolmap.Reconstruction(out / "models" / str(number))
        assert tuple(theirs.images[number + 1].name for number in range(len(model.names))) == model.names
        assert all((photos / name).is_file() for name in model.names)
        assert model.place == number
        assert theirs.num_points3D() == model.num_points
        assert theirs.compute_num_observations() == model.num_observations
        for row, name in enumerate(model.names):
            image = theirs.find_image_with_name(name)
            pose = image.cam_from_world()
            np.testing.assert_allclose(pose.matrix()[:, :3], model.rotations[row])
            np.testing.assert_allclose(pose.translation, model.translations[row])
            mine = model.track_image == row
            seen = model.points[model.track_point[mine]] @ model.rotations[row].T + model.translations[row]
            projected = seen[:, :2] / seen[:, 2:] * model.focal_px[row] + np.array([240, 180])
            # Distortion is left out of the arrays: pixels agree but for it.
            assert np.median(np.linalg.norm(projected - model.track_xy[mine], axis=1)) < 2


def test_one_worker_gives_the_same_bytes(photos: Path, out: Path, tmp_path: Path) -> None:
    reconstruct(photos, tmp_path, ReconstructConfig(), SerialExecutor())
    assert _contents(tmp_path) == _contents(out)


def test_a_changed_option_redoes_its_stage_only(photos: Path, out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "sfm")
    submitted = []

    class Noting(SerialExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            submitted.append(args[-1].name)
            return super().submit(fn, *args, **kwargs)

    config = ReconstructConfig(mapping=MappingConfig(min_model_size=5))
    result = reconstruct(photos, tmp_path / "sfm", config, Noting())
    assert len(submitted) == 1
    assert submitted[0].startswith("component-")
    assert result.stats.models == 1
    second = result.images[result.images["place"] == 1]
    assert second["reason"].tolist() == ["place has too few photos"] * 4


def test_added_photos_cost_what_is_new_only(photos: Path, out: Path, tmp_path: Path) -> None:
    grown, sfm = tmp_path / "photos", tmp_path / "sfm"
    shutil.copytree(photos, grown, ignore=shutil.ignore_patterns("4.png"))
    submitted: list[tuple[str, int]] = []

    class Noting(SerialExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            if isinstance(args[-1], Batch):
                submitted.append((args[-1].name[:5], len(args[-1].items)))
            return super().submit(fn, *args, **kwargs)

    config = ReconstructConfig(features=FeatureConfig(keep_descriptors=True))
    reconstruct(grown, sfm, config, Noting())
    shutil.copy(photos / "one \none" / "4.png", grown / "one \none" / "4.png")
    known = {path: path.read_bytes() for path in (sfm / "features").glob("shard-0000[01]/*")}
    submitted.clear()
    images = reconstruct(grown, sfm, config, Noting()).images
    # Of 12 photos the first 8 lie in full shards; the new one is a candidate with each that has keypoints.
    assert {path: path.read_bytes() for path in known} == known
    # Its place is mapped again, the other one is not.
    assert submitted == [("files", 1), ("shard", 4), ("block", 10), ("compo", 1)]
    fresh = _load(photos, out).images
    columns = ["name", "status", "reason", "place"]
    pd.testing.assert_frame_equal(images[columns], fresh[columns])


def test_descriptors_go_when_pairs_are_matched(photos: Path, out: Path, tmp_path: Path) -> None:
    assert not (out / "features" / "descriptors").exists()
    config = ReconstructConfig(features=FeatureConfig(keep_descriptors=True))
    reconstruct(photos, tmp_path, config, SerialExecutor())
    assert len(list((tmp_path / "features" / "descriptors").glob("shard-*/descriptors.npy"))) == 3
    assert _contents(tmp_path) == _contents(out)


def test_a_run_ended_after_any_task_goes_on(photos: Path, out: Path, tmp_path: Path) -> None:
    for _ in range(30):
        try:
            reconstruct(photos, tmp_path, ReconstructConfig(), _Ending(1))
            break
        except KeyboardInterrupt:
            continue
    assert _contents(tmp_path) == _contents(out)


def test_a_killed_run_goes_on(photos: Path, out: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from sfm.reconstruct import *; from groundwork.executors import *\n"
        "reconstruct(Path(sys.argv[1]), Path(sys.argv[2]), ReconstructConfig(), LocalExecutor(1))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = subprocess.Popen(
        [sys.executable, "-c", script, str(photos), str(tmp_path)], env=environment, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 600
    while not list(tmp_path.glob("features/done/shard-*.json")) and time.monotonic() < end:
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "done" / "mapping.json").exists()
    # Children of the killed run end by themselves, and may leave something unfinished.
    time.sleep(0.5)
    reconstruct(photos, tmp_path, ReconstructConfig(), SerialExecutor())
    assert _contents(tmp_path) == _contents(out)
    assert list(tmp_path.rglob(f"{UNFINISHED}*")) == []


def test_a_place_that_kills_its_worker_costs_itself_only(photos: Path, out: Path, tmp_path: Path) -> None:
    class Deadly(SerialExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            batch = args[-1]
            if batch.name.startswith("component-") and batch.items and len(batch.items[0].image_ids) == 6:
                future: Future[Any] = Future()
                future.set_exception(WorkerDied("worker was ended by SIGSEGV"))
                return future
            return super().submit(fn, *args, **kwargs)

    shutil.copytree(out, tmp_path / "sfm")
    result = reconstruct(photos, tmp_path / "sfm", ReconstructConfig(seed=1), Deadly())
    assert result.stats.models == 1
    assert result.stats.reasons["reconstruction: worker was ended by SIGSEGV"] == 6
    assert result.images.set_index("name").loc["two \ntwo/0.png", "model"] == 0
    assert result.images.set_index("name").loc["one \none/0.png", ["model", "place"]].tolist() == [-1, 0]


def test_half_a_model_is_made_again(photos: Path, out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "sfm")
    points = tmp_path / "sfm" / "models" / "1" / "points3D.bin"
    points.write_bytes(points.read_bytes()[:100])
    reconstruct(photos, tmp_path / "sfm", ReconstructConfig(), SerialExecutor())
    assert _contents(tmp_path / "sfm") == _contents(out)


def test_photos_that_do_not_match_are_told(tmp_path: Path) -> None:
    for seed in range(2):
        noise = np.random.default_rng(seed).integers(0, 256, (45, 60), dtype=np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(noise.repeat(4, axis=0).repeat(4, axis=1)).save(tmp_path / "photos" / f"{seed}.png")
    with pytest.raises(ValueError, match="pair with 20 inliers, got at most 0 in 1 pairs"):
        reconstruct(tmp_path / "photos", tmp_path / "out", ReconstructConfig(), SerialExecutor())


def test_a_missing_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        reconstruct(tmp_path / "gone", tmp_path / "out", ReconstructConfig(), _Forbidden())
    assert not (tmp_path / "out").exists()


def test_two_runs_do_not_share_a_folder(photos: Path, tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(FolderInUse, match="got one in use by this very process; wait"):
        reconstruct(photos, tmp_path, ReconstructConfig(), _Forbidden())


def test_a_full_disk_is_told(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sfm.features.write_shard", full)
    with pytest.raises(OSError, match="No space left") as error:
        reconstruct(photos, tmp_path, ReconstructConfig(), SerialExecutor())
    assert error.value.errno == errno.ENOSPC
    assert error.value.strerror == (
        f"output {tmp_path}: expected a folder with room to write, got 'No space left on device'; make room "
        "or choose another folder, and run again to go on"
    )


def test_an_image_in_two_models_counts_where_it_sees_more(tmp_path: Path) -> None:
    from sfm.model import Model, save_model
    from sfm.outcome import model_of_image

    def model(names: tuple[str, ...], observations: list[int]) -> Model:
        track_image = np.repeat(np.arange(len(names)), observations)
        track_point = np.concatenate([np.arange(count) for count in observations])
        return Model(
            names=names,
            rotations=np.tile(np.eye(3), (len(names), 1, 1)),
            translations=np.zeros((len(names), 3)),
            focal_px=np.full(len(names), 500.0),
            sizes=np.tile([640, 480], (len(names), 1)),
            points=np.random.default_rng(0).uniform(size=(max(observations), 3)),
            track_image=track_image,
            track_point=track_point,
            track_xy=np.ones((len(track_image), 2)),
            place=0,
        )

    folders = []
    for number, stored in enumerate([model(("a", "b", "c"), [9, 4, 5]), model(("b", "c", "d"), [4, 8, 2])]):
        folders.append(tmp_path / str(number))
        save_model(stored, folders[-1] / "arrays.npz")
    names = pd.Series(["c", "e", "a", "d", "b"])
    assert model_of_image(names, folders).tolist() == [1, -1, 0, 1, 0]
    assert model_of_image(names.iloc[2:], folders).tolist() == [0, 1, 0]
    assert model_of_image(names, []).tolist() == [-1] * 5


def test_images_table_is_plain(photos: Path, out: Path) -> None:
    images = pd.read_parquet(out / "images.parquet")
    facts = ["width", "height", "orientation", "sha256"]
    assert list(images) == ["name", "status", "reason", "model", "place", *facts]
    assert images["name"].is_monotonic_increasing
