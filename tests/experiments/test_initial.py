import numpy as np
import pandas as pd
from PIL import Image

from cnnimretrieval.networks.network import NetworkConfig
from cnnimretrieval.training.settings.loop_config import LoopConfig
from cnnimretrieval.training.settings.train_config import TrainConfig
from experiments.initial import with_descriptors
from experiments.settings.run_config import RunConfig
from groundwork.files import write_table
from pairs.descriptors import descriptors_key, load_descriptors
from pairs.mine import MineConfig

TRAIN = TrainConfig(network=NetworkConfig(backbone="squeezenet1_1"), loop=LoopConfig(image_size=48))


def test_m1_gets_descriptors_of_the_registered_photos(tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "descriptors"
    photos.mkdir()
    for number in range(3):
        blocks = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(blocks).save(photos / f"{number}.png")
    images = pd.DataFrame(
        {
            "name": ["0.png", "1.png", "2.png", "gone.png"],
            "status": ["registered", "unregistered", "registered", "rejected"],
        }
    )
    write_table(tmp_path / "sfm" / "images.parquet", images)
    config = RunConfig(weights="random", pairs=MineConfig(strategy="m1"), train=TRAIN)
    settings = with_descriptors(config, photos, tmp_path / "sfm", out, device="cpu", workers=0)
    assert settings == config.pairs.model_copy(update={"descriptors": out})
    assert load_descriptors(out, ["0.png", "1.png", "2.png"]).row.tolist() == [0, -1, 1]
    assert descriptors_key(out) is not None


def test_other_strategies_and_given_descriptors_need_none(tmp_path):
    for pairs in (MineConfig(), MineConfig(strategy="m1", descriptors=tmp_path / "given")):
        config = RunConfig(weights="random", pairs=pairs, train=TRAIN)
        assert with_descriptors(config, tmp_path, tmp_path, tmp_path, device="cpu", workers=0) == pairs
