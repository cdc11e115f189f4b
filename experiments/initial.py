"""Descriptors of the reconstructed photos by the network before training, by which m1 chooses positives."""

from pathlib import Path

from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import extract
from cnnimretrieval.training.sources import initial_network
from experiments.settings.run_config import RunConfig
from groundwork.files import read_table
from pairs.mine import MineConfig


def with_descriptors(
    config: RunConfig, photos: Path, sfm: Path, out: Path, *, device: str, workers: int
) -> MineConfig:
    """The settings of mining with the descriptors they need, extracted to `out` where none are given.

    At the size that the training sees. Only registered photos are described, the only ones that m1 compares.
    """
    settings = config.pairs
    if settings.strategy != "m1" or settings.descriptors is not None:
        return settings
    images = read_table(sfm / "images.parquet")
    names = images["name"][images["status"] == "registered"]
    extract(
        initial_network(config.train, config.weights),
        [ImageRequest(path=photos / name) for name in names],
        photos,
        out,
        ExtractConfig(image_size=config.train.loop.image_size),
        whiten=False,
        device=device,
        workers=workers,
    )
    return settings.model_copy(update={"descriptors": out})
