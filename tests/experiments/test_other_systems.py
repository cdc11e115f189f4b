"""Commands where the system lacks what Linux has: macOS and Windows, or a container without /proc."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.network import NetworkConfig, build

# Run before anything of ours is imported. A child of the fork server does not see it; one that is spawned
# imports the modules that it needs as they are here.
TAKEN_AWAY = """
import ctypes, errno, importlib.abc, mmap, multiprocessing, os, pathlib, sys

gone = sys.argv.pop(1).split(",")
for name in gone:
    module, _, attribute = name.rpartition(".")
    if not module:
        sys.modules[name] = None
    elif hasattr(sys.modules[module], attribute):
        delattr(sys.modules[module], attribute)

if "psutil" in gone:
    read_text = pathlib.Path.read_text

    def without_proc(path, *args, **kwargs):
        if path.parts[:2] == ("/", "proc"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return read_text(path, *args, **kwargs)

    pathlib.Path.read_text = without_proc

if "spawn" in gone:
    multiprocessing.get_all_start_methods = lambda: ["spawn"]

from experiments.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""

# What macOS lacks; what Windows lacks as well; and a system that tells nothing of its memory.
MACOS = "os.sched_getaffinity,os.posix_fallocate,os.posix_fadvise,os.sched_setaffinity"
WINDOWS = f"{MACOS},os.pread,os.pwrite,mmap.MADV_DONTNEED,fcntl,resource,spawn,os.sysconf,psutil"


def _run(folder: Path, gone: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "without.py").write_text(TAKEN_AWAY)
    command = [sys.executable, "without.py", gone, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1200, check=False)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a folder of two photos of one wall, the second taken a step aside."""
    (tmp_path / "in").mkdir()
    blocks = np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8)
    wall = Image.fromarray(blocks).resize((640, 480), Image.Resampling.BICUBIC)
    for x, y in ((0, 0), (90, 30)):
        wall.crop((x, y, x + 400, y + 400)).save(tmp_path / "in" / f"{x}.jpg")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("gone", [MACOS, WINDOWS], ids=["macos", "windows"])
def test_extract_runs_without_what_only_linux_has(photos: Path, gone: str) -> None:
    save(build(NetworkConfig(backbone="squeezenet1_1"), "random"), photos / "net")
    found = _run(photos, gone, "extract", "net", "in", "--out", "out")
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("2 descriptors of length 512\n")
    assert (photos / "out" / "vectors.npy").stat().st_size == 128 + 2 * 512 * 4


@pytest.mark.slow
@pytest.mark.parametrize("gone", [MACOS, WINDOWS], ids=["macos", "windows"])
def test_reconstruct_runs_without_what_only_linux_has(photos: Path, gone: str) -> None:
    found = _run(photos, gone, "reconstruct", "in", "--out", "out", "--workers", "2")
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(
        "0 of 2 photos registered (0 rejected, 0 duplicates), 0 models of 1 places"
    )
    assert "no file locks" in found.stderr or gone == MACOS
