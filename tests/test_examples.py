"""The examples, run as a person runs them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.network import NetworkConfig, build

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLES = REPOSITORY / "examples"
SHARED = REPOSITORY.parent / "shared"
SCENES = ("herz_jesu", "fox_head", "lund_door")


@pytest.fixture
def model(tmp_path):
    save(build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def photos(tmp_path):
    """Six drawn photos, the last a copy of the first, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        blocks = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((80, 64), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    shutil.copy(folder / "0.png", folder / "again.png")
    (folder / "notes.txt").write_text("no photo")
    return folder


def _run(name, *words):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_search_photos(model, photos):
    done = _run("search_photos.py", photos, photos / "0.png", model)
    lines = done.stdout.splitlines()
    assert lines[0] == "6 photos described, 1 files left out"
    assert sorted(lines[1:3]) == ["1.000  0.png", "1.000  again.png"]
    # Nothing is told unless asked for.
    assert done.stderr == ""


@pytest.mark.slow
def test_look_at_descriptors(model, photos, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PHOTOS", str(photos))
    monkeypatch.setenv("MODEL", str(model))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    notebook = nbformat.read(EXAMPLES / "look_at_descriptors.ipynb", as_version=4)
    NotebookClient(notebook, kernel_name="python3").execute()
    shown = [
        output["data"] for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output
    ]
    assert shown[0]["text/plain"] == "(6, 512)"
    assert sum("image/png" in data for data in shown) == 2


@pytest.mark.real
@pytest.mark.skipif(
    not (SHARED / "photos").is_dir(), reason=f"needs real photos, {SHARED / 'photos'} is missing"
)
def test_train_on_photos(tmp_path):
    photos = tmp_path / "photos"
    for scene in SCENES:
        shutil.copytree(SHARED / "photos" / "dev" / scene, photos / scene)
    done = _run("train_on_photos.py", photos, tmp_path / "work", SHARED / "weights" / "resnet18.safetensors")
    assert " photos in " in done.stdout.splitlines()[0]
    assert done.stdout.splitlines()[-1].startswith("fine-tuning with learned whitening is ")
