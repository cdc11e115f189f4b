"""A small collection, and a server of it that really runs: photos of places, told apart by their pattern."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import extract
from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork, build
from experiments.web import app, assembly, server
from experiments.web.guard import Patience
from experiments.web.searching import Limits
from experiments.web.site import Site

NUM_PLACES, VIEWS = 7, 4
# The last one is a near-copy of another.
NUM_PHOTOS = NUM_PLACES * VIEWS + 1
SIZE = (96, 72)
HOSTILE = "<img src=x onerror=alert(1)> & \"quotes\" 'n' such.png"
LIMITS = Limits(megabytes=2.0, megapixels=64.0)


@dataclass(frozen=True)
class Running:
    """A server at work."""

    address: str
    port: int
    site: Site
    photos: Path
    folder: Path


def write_photos(folder: Path) -> None:
    """Views of places: blocks of colour, with noise of their own; one has a name that means harm."""
    generator = np.random.default_rng(1)
    folder.mkdir()
    for place in range(NUM_PLACES):
        blocks = generator.integers(0, 256, (6, 8, 3))
        for view in range(VIEWS):
            noisy = np.clip(blocks + generator.integers(-25, 26, blocks.shape), 0, 255).astype(np.uint8)
            name = HOSTILE if (place, view) == (3, 2) else f"place {place} view {view}.png"
            Image.fromarray(noisy).resize(SIZE, Image.Resampling.BICUBIC).save(folder / name)
    copied = Image.open(folder / "place 6 view 0.png").resize((192, 144), Image.Resampling.BICUBIC)
    copied.save(folder / "place 6 view 0 larger.png")


@pytest.fixture(scope="session")
def network() -> RetrievalNetwork:
    return build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)


@pytest.fixture(scope="session")
def extracted(network: RetrievalNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos`, `dir` (their descriptors) and `work` (which knows their places)."""
    top = tmp_path_factory.mktemp("served")
    write_photos(top / "photos")
    names = sorted(path.name for path in (top / "photos").iterdir())
    requests = [ImageRequest(path=top / "photos" / name) for name in names]
    extract(network, requests, top / "photos", top / "dir", ExtractConfig(image_size=96))
    place = [3 if name == HOSTILE else int(name.split()[1]) for name in names]
    (top / "work" / "sfm").mkdir(parents=True)
    table = pd.DataFrame({"name": [*names, "elsewhere.png"], "place": [*place, 3]})
    table.to_parquet(top / "work" / "sfm" / "images.parquet", index=False)
    return top


@contextmanager
def running(network: RetrievalNetwork, top: Path, patience: Patience | None = None) -> Iterator[Running]:
    """A server of what `extracted` made, on a port of its own."""
    serving = assembly.Serving(folder=top / "dir", work=top / "work", limits=LIMITS)
    listening = server.listen("127.0.0.1", 0)
    with listening, assembly.assembled(network, "model", serving) as site:
        at_work = server.server(app.application(site, "1.2.3", patience=patience))
        thread = threading.Thread(target=at_work.run, kwargs={"sockets": [listening]})
        thread.start()
        port = listening.getsockname()[1]
        try:
            yield Running(f"http://127.0.0.1:{port}", port, site, top / "photos", top / "dir")
        finally:
            at_work.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def served(network: RetrievalNetwork, extracted: Path) -> Iterator[Running]:
    with running(network, extracted) as found:
        yield found
