import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from cnnimretrieval.descriptors.distort import Relit
from cnnimretrieval.descriptors.images import ImageRequest, read_levels
from cnnimretrieval.descriptors.reading import EDITS, read_each
from cnnimretrieval.evaluation.queries import edit_of
from cnnimretrieval.networks.model_folder import save


@dataclass(frozen=True)
class _Deadly:
    """An edit as a decoder that ends its process."""

    how: int = signal.SIGSEGV

    def __call__(self, picture: Image.Image) -> Image.Image:
        os.kill(os.getpid(), self.how)
        return picture


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_come_in_the_order_of_the_requests_and_a_bad_photo_is_a_reason(photos, tmp_path, workers):
    (tmp_path / "bad.jpg").write_text("no image")
    requests = [ImageRequest(path=path) for path in [*photos, tmp_path / "bad.jpg", *photos]]
    found = list(read_each(requests, 60, workers=workers))
    assert [loaded.levels is None for loaded in found] == [position == 7 for position in range(15)]
    assert found[7].reason == "not an image"
    assert found[7].message == (
        f"photo {tmp_path / 'bad.jpg'}: expected an image, got 'not an image'; replace or remove it"
    )
    for request, loaded in zip(requests, found, strict=True):
        if loaded.levels is not None:
            np.testing.assert_array_equal(loaded.levels, read_levels(request, 60))


@pytest.mark.slow
def test_a_photo_that_kills_its_process_costs_itself_only(photos):
    deadly = ImageRequest(path=photos[3], edit=_Deadly())
    requests = [ImageRequest(path=path) for path in photos] + [deadly, ImageRequest(path=photos[0])]
    found = list(read_each(requests, 60, workers=2))
    assert [loaded.levels is None for loaded in found] == [position == 7 for position in range(9)]
    assert found[7].reason == "processes die of reading it"
    assert found[7].message == (
        f"photo {photos[3]}: expected a process that reads it and lives, got 'worker was ended by SIGSEGV', "
        "twice; replace or remove it, or give more memory or fewer --workers"
    )


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["size=64k", "ro"])
def test_extract_needs_no_shared_memory(network, tmp_path, memory):
    """As in a container: /dev/shm with next to no room, and one that cannot be written."""
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode
    ):
        pytest.skip("needs leave to mount")
    (tmp_path / "in").mkdir()
    for number in range(18):
        Image.effect_noise((320, 200 + number), 90).save(tmp_path / "in" / f"{number}.jpg")
    save(network, tmp_path / "net")
    command = [sys.executable, "-m", "experiments.cli", "extract", "net", "in", "--out", "out"]
    mounted = f'mount -t tmpfs -o {memory} tmpfs /dev/shm && exec "$@"'
    found = subprocess.run(
        ["unshare", "-m", "sh", "-c", mounted, "sh", *command, "--workers", "2", "--image-size", "320"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("18 descriptors of length 512\n")


@pytest.mark.parametrize("module", ["cnnimretrieval.descriptors.reading", "experiments.web.decoding"])
def test_a_process_that_reads_photos_loads_neither_torch_nor_tables(module):
    heavy = {"torch", "pandas", "pyarrow", "pydantic", "scipy"}
    script = f"import sys, {module}; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("kind", ["crop", "retaken"])
def test_what_an_edit_needs_is_said_for_the_start_of_processes(kind):
    # Loading it for every few photos took longer than reading them.
    edit = edit_of(kind, 0)
    assert edit is not None
    assert type(edit).__module__ in EDITS
    assert Relit.__module__ in EDITS
