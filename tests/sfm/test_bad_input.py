"""What ends, hangs or misleads the libraries below: here each costs itself only, and is told."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydantic import ValidationError

from groundwork.batches import Batch
from groundwork.executors import LocalExecutor, SerialExecutor
from groundwork.lock import FolderInUse, hold
from sfm.candidates import CandidateConfig
from sfm.detection import FeatureConfig
from sfm.reconstruct import ReconstructConfig, ReconstructResult, reconstruct

SOUND = {
    # What photos of one place are stored as here; all of it is read.
    "one/with space.jpg": ("one/0.png", "CMYK", "JPEG", {"quality": 95}),
    "one/16 bit.png": ("one/1.png", "I;16", "PNG", {}),
    "one/straße\n.png": ("one/2.png", "RGBA", "PNG", {}),
    "one/palette.PNG": ("one/3.png", "P", "PNG", {}),
    "one/.hidden.png": ("one/4.png", "LA", "PNG", {}),
    "one/progressive": ("one/5.png", "RGB", "JPEG", {"quality": 95, "progressive": True}),
    "two/0.bmp": ("two/0.png", "RGB", "BMP", {}),
    "two/1.tif": ("two/1.png", "L", "TIFF", {}),
    "two/2.gif": ("two/2.png", "L", "GIF", {}),
    "two/3.webp": ("two/3.png", "RGB", "WEBP", {"quality": 95}),
}
FATES = {
    "1x1.png": ("rejected", "too small"),
    "3x400.png": ("rejected", "too small"),
    "8x8.png": ("rejected", "too small"),
    "zz.bmp": ("duplicate", "same bytes as two/0.bmp"),
    "dangling.jpg": ("rejected", "cannot be read: No such file or directory"),
    "empty.jpg": ("rejected", "empty"),
    "flat.png": ("unregistered", "too few keypoints"),
    "flipped.jpg": ("rejected", "damaged"),
    "garbage.jpg": ("rejected", "not an image"),
    "header.jpg": ("rejected", "not an image"),
    "large and flat.png": ("unregistered", "too few keypoints"),
    "loop.jpg": ("rejected", "cannot be read: Too many levels of symbolic links"),
    "no UTF-8 \\xff.png": ("rejected", "name is not UTF-8"),
    "notes.txt": ("rejected", "not an image"),
    "one bit.png": ("unregistered", "matches no other photo"),
    "to here": ("rejected", "link to a folder that is searched already"),
    "too large.png": ("rejected", "too large"),
    "truncated.jpg": ("rejected", "truncated"),
}


def _as_mode(path: Path, mode: str) -> Image.Image:
    gray = np.asarray(Image.open(path).convert("L"))
    if mode == "I;16":
        return Image.fromarray(gray.astype(np.uint16) * 257)
    return Image.fromarray(gray).convert("RGB").convert(mode)


def _add_bad_files(photos: Path) -> None:
    jpeg = (photos / "one/progressive").read_bytes()
    (photos / "empty.jpg").touch()
    (photos / "garbage.jpg").write_bytes(np.random.default_rng(0).bytes(5000))
    (photos / "header.jpg").write_bytes(jpeg[:20])
    (photos / "notes.txt").write_text("no photo")
    (photos / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (photos / "flipped.jpg").write_bytes(_with_flipped_bytes((photos / "one/with space.jpg").read_bytes()))
    for height, width in ((1, 1), (8, 8), (400, 3)):
        Image.new("L", (width, height), 90).save(photos / f"{width}x{height}.png")
    Image.new("L", (480, 360), 99).save(photos / "flat.png")
    Image.new("1", (12_000, 9_000)).save(photos / "large and flat.png")
    Image.new("1", (12_000, 15_000)).save(photos / "too large.png")
    noise = np.random.default_rng(1).integers(0, 2, (45, 60), dtype=np.uint8) * 255
    Image.fromarray(noise.repeat(8, 0).repeat(8, 1)).convert("1").save(photos / "one bit.png")
    shutil.copy(photos / "two/0.bmp", photos / "zz.bmp")
    (photos / "dangling.jpg").symlink_to("nowhere.jpg")
    (photos / "loop.jpg").symlink_to("loop.jpg")
    (photos / "to here").symlink_to(".")
    Path(os.fsdecode(os.fsencode(photos) + b"/no UTF-8 \xff.png")).write_bytes(b"any")


def _with_flipped_bytes(jpeg: bytes) -> bytes:
    middle = len(jpeg) // 2
    return jpeg[:middle] + bytes(255 - byte for byte in jpeg[middle : middle + 400]) + jpeg[middle + 400 :]


@pytest.fixture(scope="module")
def photos(two_scenes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten sound photos of two places, none with EXIF, and every kind of bad file."""
    root, rendered = tmp_path_factory.mktemp("bad") / "photos", two_scenes["one"].folder.parent
    for name, (source, mode, kind, options) in SOUND.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        _as_mode(rendered / source, mode).save(root / name, kind, **options)
    _add_bad_files(root)
    return root


@pytest.fixture(scope="module")
def found(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReconstructResult]:
    out = tmp_path_factory.mktemp("out") / "sfm"
    config = ReconstructConfig(features=FeatureConfig(keep_descriptors=True))
    with LocalExecutor(2) as executor:
        return out, reconstruct(photos, out, config, executor)


class _Noting(SerialExecutor):
    def __init__(self) -> None:
        self.names: list[str] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if isinstance(args[-1], Batch):
            self.names.append(args[-1].name)
        return super().submit(fn, *args, **kwargs)


def _again(photos: Path, out: Path, executor: Executor, **settings: Any) -> ReconstructResult:
    config = ReconstructConfig(features=FeatureConfig(keep_descriptors=True), **settings)
    return reconstruct(photos, out, config, executor)


def test_each_bad_file_is_listed_and_the_others_are_used(found: tuple[Path, ReconstructResult]) -> None:
    images = pd.read_parquet(found[0] / "images.parquet")
    fates = {row.name: (row.status, row.reason) for row in images.itertuples(index=False)}
    assert {name: fate for name, fate in fates.items() if name not in SOUND} == FATES
    assert {fates[name] for name in SOUND} == {("registered", "")}
    assert found[1].stats.models == 2
    assert images["name"].is_unique


DAMAGE = [
    ("features/shard-00001/keypoints.npy", "shard-00001", ["shard-00001"]),
    ("features/shard-00001/images.npz", "shard-00001", ["shard-00001"]),
    ("matches/block-00000.npz", "block-00000", ["block-00000"]),
    ("models/1/points3D.bin", "mapping", []),
    ("models/0/images.bin", "mapping", []),
    ("collection.parquet", "scan", ["files-00000", "files-00001"]),
    ("matches/pairs.parquet", "matching", []),
    ("candidates.parquet", "candidates", []),
    ("graph.parquet", "graph", []),
    ("images.parquet", "images", []),
]


@pytest.mark.parametrize(("name", "stage", "redone"), DAMAGE)
@pytest.mark.parametrize("kind", ["truncated", "flipped"])
def test_a_damaged_result_is_named_and_made_again(
    photos: Path,
    found: tuple[Path, ReconstructResult],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    stage: str,
    redone: list[str],
    kind: str,
) -> None:
    out = tmp_path / "sfm"
    shutil.copytree(found[0], out)
    path = out / name
    whole, middle = path.read_bytes(), path.stat().st_size // 2
    damaged = whole[:middle] if kind == "truncated" else _with_flipped_bytes(whole)
    path.write_bytes(damaged)
    executor = _Noting()
    _again(photos, out, executor)
    assert path.read_bytes() == whole
    assert executor.names == redone
    assert f"{path}: damaged, or changed since; {stage} is done again" in caplog.messages


@pytest.mark.parametrize(
    ("name", "redone"),
    [
        ("features/done/shard-00001.json", ["shard-00001"]),
        ("matches/done/block-00000.json", ["block-00000"]),
        ("done/mapping.json", []),
        ("done/images.json", []),
    ],
)
def test_a_damaged_record_is_named_and_its_work_done_again(
    photos: Path,
    found: tuple[Path, ReconstructResult],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    redone: list[str],
) -> None:
    out = tmp_path / "sfm"
    shutil.copytree(found[0], out)
    path = out / name
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    executor = _Noting()
    _again(photos, out, executor)
    assert executor.names == redone
    assert f"{path}: the record of {path.stem} is damaged; it is done again" in caplog.messages
    assert (out / "images.parquet").read_bytes() == (found[0] / "images.parquet").read_bytes()


def test_missing_descriptors_are_made_again(
    photos: Path, found: tuple[Path, ReconstructResult], tmp_path: Path
) -> None:
    out = tmp_path / "sfm"
    shutil.copytree(found[0], out)
    rows = out / "features/descriptors/shard-00000/descriptors.npy"
    rows.write_bytes(rows.read_bytes()[:200])
    (out / "matches/block-00000.npz").unlink()
    executor = _Noting()
    _again(photos, out, executor)
    assert executor.names == ["shard-00000", "block-00000"]
    for file in (rows, out / "matches/block-00000.npz"):
        assert file.read_bytes() == (found[0] / file.relative_to(out)).read_bytes()


def test_a_pair_list_with_any_name_twice(
    photos: Path, found: tuple[Path, ReconstructResult], tmp_path: Path
) -> None:
    out, pairs = tmp_path / "sfm", tmp_path / "pairs.csv"
    shutil.copytree(found[0], out)
    pairs.write_text(
        'one/with space.jpg,one/16 bit.png\none/16 bit.png,one/with space.jpg\n"one/straße\n.png",two/0.bmp\n'
        "two/0.bmp,two/0.bmp\none/with space.jpg,one/16 bit.png\n"
    )
    candidates = CandidateConfig(exhaustive_up_to=0, neighbours=1, pair_list=pairs)
    _again(photos, out, SerialExecutor(), candidates=candidates)
    table = pd.read_parquet(out / "candidates.parquet")
    listed = table[table["origin"].str.contains("list")][["image_id1", "image_id2"]]
    collection = pd.read_parquet(out / "collection.parquet").set_index("name")["image_id"]
    expected = [("one/16 bit.png", "one/with space.jpg"), ("one/straße\n.png", "two/0.bmp")]
    assert {frozenset(pair) for pair in listed.to_numpy().tolist()} == {
        frozenset(collection[list(pair)].tolist()) for pair in expected
    }
    assert len(listed) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected two names a row, got no table (No columns to parse from file); write NAME,NAME"),
        (b"a b\n", "expected two names a row, got 1 columns; quote names that hold commas"),
        (
            b"two/0.bmp,zz.bmp\n",
            "expected names of usable photos, got 'zz.bmp' and 0 more; write names as in collection.parquet",
        ),
    ],
)
def test_a_corrupt_pair_list_is_told(
    photos: Path, found: tuple[Path, ReconstructResult], tmp_path: Path, content: bytes, message: str
) -> None:
    out, pairs = tmp_path / "sfm", tmp_path / "pairs.csv"
    shutil.copytree(found[0], out)
    pairs.write_bytes(content)
    with pytest.raises(ValueError, match=r"^pair list") as error:
        _again(photos, out, SerialExecutor(), candidates=CandidateConfig(pair_list=pairs))
    assert str(error.value) == f"pair list {pairs}: {message}"
    pairs.unlink()
    with pytest.raises(FileNotFoundError) as missing:
        _again(photos, out, SerialExecutor(), candidates=CandidateConfig(pair_list=pairs))
    assert str(missing.value) == (
        f"pair list: expected a CSV file, got {pairs}, which is missing; check the path"
    )
    with pytest.raises(FileNotFoundError, match="pair list"):
        _again(photos, tmp_path / "new", SerialExecutor(), candidates=CandidateConfig(pair_list=pairs))
    assert not (tmp_path / "new" / "features").exists()


def test_a_photo_lost_before_its_descriptors_are_made_again(
    photos: Path, found: tuple[Path, ReconstructResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sfm.collection import scan

    out, mine = tmp_path / "sfm", tmp_path / "photos"
    shutil.copytree(photos, mine, symlinks=True)
    _again(mine, out, SerialExecutor())
    shutil.rmtree(out / "features/descriptors")
    (out / "matches/block-00000.npz").unlink()

    def scan_and_lose(*given: Any) -> Any:
        collection = scan(*given)
        (mine / "one/16 bit.png").unlink(missing_ok=True)
        return collection

    monkeypatch.setattr("sfm.reconstruct.scan", scan_and_lose)
    with pytest.raises(OSError, match="16 bit") as error:
        _again(mine, out, SerialExecutor())
    assert str(error.value) == (
        "photo one/16 bit.png: expected to read it again for its descriptors, got 'cannot be read: "
        "No such file or directory'; put it back, or run again to go on without it"
    )
    result = _again(mine, out, SerialExecutor())
    assert "one/16 bit.png" not in set(result.images["name"])


def test_a_locked_output_says_whom_to_wait_for(photos: Path, tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(FolderInUse) as error:
        _again(photos, tmp_path, SerialExecutor())
    assert str(error.value) == (
        f"{tmp_path}: expected a folder that nobody else writes, got one in use by this very process; "
        "wait for it or choose another"
    )


def test_bad_settings_are_told_before_any_work() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 16"):
        FeatureConfig(max_features=3)
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        FeatureConfig.model_validate({"max_feature": 100})
