"""What these tests share: a small seeded network, drawn photos, the folders of data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork, build

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def golden() -> Path:
    return REPOSITORY / "tests" / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder ../shared beside the repository")
    return folder


@pytest.fixture
def network() -> RetrievalNetwork:
    return build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Seven lossless photos of two sizes in mixed order, each of its own random blocks of colour."""
    generator = np.random.default_rng(5)
    paths = []
    for index, (width, height) in enumerate(
        [(80, 64), (80, 64), (64, 96), (80, 64), (64, 96), (70, 70), (80, 64)]
    ):
        blocks = generator.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        path = tmp_path / f"photo {index}.png"
        Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths
