"""From unsorted photos to a network trained on them: python train_on_photos.py PHOTOS WORK [WEIGHTS]."""

import sys
from pathlib import Path

import cnnimretrieval as cr


def main(photos: str, work: str, weights: str = "pretrained") -> None:
    """Reconstruct, mine, train; say after each stage what it found."""
    cr.show_progress()
    folder = Path(work)
    found = cr.reconstruct(photos, folder / "sfm")
    print(f"{found.stats.registered} of {found.stats.images} photos in {found.stats.models} models")
    mined = cr.mine(folder / "sfm", folder / "pairs")
    print(f"{mined.stats['positives']} matching pairs of {mined.stats['queries']} queries")
    # A short training; what longer ones are set to stands in `cnnimretrieval run --protocol list`.
    loop = {"epochs": 1, "tuples_per_epoch": 20, "image_size": 192, "learning_rate": 1e-5}
    config = cr.TrainConfig.model_validate({"network": {"backbone": "resnet18"}, "loop": loop})
    result = cr.fine_tune(folder / "pairs", folder / "model", config, weights=weights)
    print(result.train.verdict)


if __name__ == "__main__":
    main(*sys.argv[1:])
