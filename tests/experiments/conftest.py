"""What these tests share: the command line in this process, weights, and a short run with its photos."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision

from experiments import cli
from experiments.demo.collection import DemoConfig, render_collection


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, list[str]]]:
    """Runs a command line in this process: (exit code, stdout, lines of stderr)."""

    def run(*words: object) -> tuple[int, str, list[str]]:
        code = cli.main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err.splitlines()

    return run


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a small backbone, in a file."""
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "squeezenet1_1.pth"
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the photos of four made-up places."""
    folder = tmp_path_factory.mktemp("demo")
    small = DemoConfig(
        places=4, min_views=6, max_views=7, unrelated=2, twins=False, width=400, height=300, px_per_m=32
    )
    render_collection(folder, small)
    return folder / "photos"


@pytest.fixture(scope="session")
def short_training() -> str:
    """Settings, as TOML, with which a whole run takes seconds."""
    return """
weights = "random"
[pairs.heldout]
crops_per_image = 1
[train.network]
backbone = "squeezenet1_1"
[train.loop]
image_size = 96
epochs = 2
tuples_per_epoch = 10
learning_rate = 1e-5
[train.whitening]
shrinkage = 0.1
"""
