"""What these tests share: a small seeded network, drawn photos, the folders of data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork, build
from cnnimretrieval.training.fine_tune import fine_tune
from cnnimretrieval.training.learning.batches import Batch
from cnnimretrieval.training.learning.step import Learner
from cnnimretrieval.training.photos.collection import Collection
from cnnimretrieval.training.result import TrainResult
from cnnimretrieval.training.settings.train_config import TrainConfig
from groundwork.files import write_json
from groundwork.records import mark_done
from pairs.heldout import HeldoutQuery, write_heldout
from pairs.image_pairs import Positives
from pairs.pair_table import PairTable, write_pair_table
from sfm.model import Model, save_model

REPOSITORY = Path(__file__).resolve().parents[2]

# The made-up collection: places told apart by their pattern, views by noise.
NUM_PLACES, VIEWS = 5, 3
SIZE = (64, 48)
# Places 1 and 3 are held out; the last image matched nothing.
HELD_OUT = (1, 3)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def golden() -> Path:
    return REPOSITORY / "tests" / "golden"


@pytest.fixture(scope="session", params=["tests/golden", "../shared/golden"])
def any_golden(request: pytest.FixtureRequest) -> Path:
    """Golden values: those of the repository, and where they are those beside it, which may be others."""
    folder = REPOSITORY / str(request.param)
    if not folder.is_dir():
        pytest.skip(f"needs the folder {request.param} beside the repository")
    return folder


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


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """Photos of five places with three views each and one loose photo, and their pair table."""
    folder = tmp_path / "photos"
    folder.mkdir()
    return _write_collection(folder)


@pytest.fixture
def heldout(collection: Collection) -> list[HeldoutQuery]:
    """A whole and a crop query of every held-out image; the rest of its place is positive."""
    return _heldout(collection.table)


@pytest.fixture
def pairs_dir(collection, heldout, tmp_path):
    folder = tmp_path / "pairs"
    write_pair_table(collection.table, folder)
    write_heldout(heldout, folder / "heldout.parquet")
    write_json(folder / "photos.json", {"version": 1, "photos": str(collection.photos), "content": "of it"})
    mark_done(folder, "mine", "key of mining")
    return folder


@pytest.fixture
def trained_with_a_kill(pairs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Trains unbroken in "whole"; then in "broken", killed at the fourth step and gone on with.

    Both results, and the batches of the steps begun from the kill on.
    """

    def trained(config: TrainConfig) -> tuple[TrainResult, TrainResult, list[Batch]]:
        whole = fine_tune(pairs_dir, tmp_path / "whole", config, weights="random")
        real, begun = Learner.step, []

        def killed(self: Learner, batch: Batch) -> float:
            begun.append(batch)
            if len(begun) == 4:
                raise KeyboardInterrupt
            return real(self, batch)

        monkeypatch.setattr(Learner, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(pairs_dir, tmp_path / "broken", config, weights="random")
        return whole, fine_tune(pairs_dir, tmp_path / "broken", config, weights="random"), begun

    return trained


@pytest.fixture
def sfm_dir(collection: Collection, pairs_dir: Path) -> Path:
    """The reconstruction beside `pairs_dir`: a model of each place."""
    folder = pairs_dir.parent / "sfm"
    for place in range(NUM_PLACES):
        save_model(_model_of(collection.table, place), folder / "models" / str(place) / "arrays.npz")
    return folder


def _model_of(table: PairTable, place: int, points: int = 12) -> Model:
    """All photos of a place see all points, in the left half, each a pixel further down than the last."""
    rows = np.flatnonzero(table.place == place)
    rng = np.random.default_rng(place)
    xy = rng.uniform((2, 2), (30, 40), (points, 2))
    image = np.repeat(np.arange(len(rows)), points)
    return Model(
        names=tuple(table.names[row] for row in rows),
        rotations=np.tile(np.eye(3), (len(rows), 1, 1)),
        translations=np.zeros((len(rows), 3)),
        focal_px=np.ones(len(rows)),
        sizes=table.sizes[rows],
        points=np.zeros((points, 3)),
        track_image=image,
        track_point=np.tile(np.arange(points), len(rows)),
        track_xy=np.tile(xy, (len(rows), 1)) + (0, 1) * image[:, None],
        place=-1,
    )


def _write_collection(folder: Path, seed: int = 0) -> Collection:
    """Photos of `NUM_PLACES` places with `VIEWS` views each and one loose photo, and their pair table."""
    rng = np.random.default_rng(seed)
    names, place = [], []
    for number in range(NUM_PLACES):
        pattern = rng.integers(0, 256, (4, 5, 3))
        for view in range(VIEWS):
            noisy = np.clip(pattern + rng.integers(-40, 40, pattern.shape), 0, 255).astype(np.uint8)
            names.append(f"{number}-{view}.png")
            place.append(number)
            Image.fromarray(noisy).resize(SIZE, Image.Resampling.BICUBIC).save(folder / names[-1])
    names.append("loose.png")
    place.append(-1)
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / names[-1])
    return Collection(photos=folder, table=_table(names, np.array(place)))


def _table(names: list[str], place: np.ndarray) -> PairTable:
    """All ordered pairs of a place are positives, the next view (cyclically) with three times the weight."""
    same_place = (place[:, None] == place) & (place >= 0) & ~np.eye(len(names), dtype=bool)
    query, positive = np.nonzero(same_place)
    follows = (positive - query) % VIEWS == 1
    ones = np.ones(len(query))
    return PairTable(
        names=tuple(names),
        cluster=place,
        place=place,
        is_val=np.isin(place, HELD_OUT),
        is_choosing=np.zeros(len(names), np.bool_),
        sizes=np.full((len(names), 2), SIZE),
        orientation=np.ones(len(names), np.int64),
        positives=Positives(
            query=query,
            positive=positive,
            shared_points=np.full(len(query), 30),
            overlap=ones / 2,
            scale_change=ones,
            angle_deg=ones * 10,
            strategy=np.full(len(query), "m3"),
            weight=np.where(follows, 3.0, 1.0),
        ),
    )


def _heldout(table: PairTable) -> list[HeldoutQuery]:
    """A whole and a crop query of every held-out image; the rest of its place is positive."""
    queries = []
    for row in np.flatnonzero(table.is_val):
        others = np.flatnonzero((table.place == table.place[row]) & (np.arange(table.num_images) != row))
        for kind, box in (("whole", (0, 0, *SIZE)), ("crop", (10, 5, 50, 40))):
            queries.append(
                HeldoutQuery(
                    query=table.names[row],
                    kind=kind,
                    purpose="report",
                    box=box,
                    rotation_deg=0.0 if kind == "whole" else 3.0,
                    seed=int(row),
                    positives=tuple(table.names[other] for other in others),
                    far=(),
                    place=int(table.place[row]),
                )
            )
    return queries
