"""How long things take, before they are done: rough, from what others and we have measured.

A network's time is counted in megapixels that go forward through it. A training step (forward, backward)
counts as three of them. One megapixel of ResNet101 takes 0.127 s of a P100: others report 175 ms for a photo
of 1024 px at three scales. For ResNet50 they report 100 ms, for which the rule below gives 92. Others are
taken to go with their multiplications. Newer cards are several times quicker.

Reconstruction goes by what 1,110 photos took on two cores: see `_CPU_S`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cnnimretrieval.training.settings.loop_config import LoopConfig
from experiments.settings.recipe import Recipe
from experiments.settings.run_config import RunConfig

_RESNET101_S_PER_MP = 0.127
# Multiply-adds of one image of 224 x 224, in 1e9, as torchvision's table of models gives them; those of
# transformers by their tokens, without what attention adds on larger images.
_GMAC = {
    "alexnet": 0.71,
    "vgg16": 15.47,
    "resnet18": 1.81,
    "resnet34": 3.66,
    "resnet50": 4.09,
    "resnet101": 7.80,
    "resnet152": 11.51,
    "timm:vit_base_patch14_dinov2.lvd142m": 23.2,
    "timm:vit_base_patch16_dinov3.lvd1689m": 17.9,
}
_STEP_IN_FORWARDS = 3
# A photo of 4:3.
_ASPECT = 0.75

# The held-out queries search the whole collection, which is described for it.
_VALIDATION_PHOTOS = 91_642 + 6_403 + 1_691
_WHITENING_PHOTOS = {"retrieval-SfM-120k": 120_000, "retrieval-SfM-30k": 30_000}
_BENCHMARK_PHOTOS: Mapping[str, int] = {
    "oxford5k": 5_063 + 55,
    "paris6k": 6_392 + 55,
    "roxford5k": 4_993 + 70,
    "rparis6k": 6_322 + 70,
}

# Held-out queries come on top of the collection itself.
_PROOF_PHOTOS = 1.5
# Of them, those of the places set aside for choosing, and held-out photos without a place.
_VALIDATED_SHARE = 0.3
# One core against a P100: 5.2 photos of 362 px a second through ResNet50, against 140.
_CORE_S_PER_P100_S = 27.0
# CPU seconds of a photo in each stage of a reconstruction, 8 candidate pairs a photo.
_CPU_S = {"features": 0.137, "matching": 0.102, "mapping": 0.078, "the rest": 0.02}


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Hours of each part of the work."""

    hours: Mapping[str, float]

    @property
    def total(self) -> float:
        """Hours of all parts together."""
        return sum(self.hours.values())


def published_effort(config: RunConfig, recipe: Recipe) -> Effort:
    """Hours of one P100 for a published row; ValueError for a backbone whose cost is not known here."""
    per_megapixel = _seconds_per_megapixel(_backbone(config, recipe))
    tested = _megapixels(recipe.image_size) * sum(scale**2 for scale in recipe.scales)
    photos = sum(_BENCHMARK_PHOTOS[name] for name in recipe.benchmarks)
    parts = {"testing": photos * tested}
    if recipe.whitening:
        # Learned at one scale, too, where several are tested.
        once_more = _megapixels(recipe.image_size) if len(recipe.scales) > 1 else 0.0
        parts["whitening"] = _WHITENING_PHOTOS[recipe.whitening] * (tested + once_more)
    if recipe.pairs:
        parts["training"] = _training_megapixels(config.train.loop)
    return Effort(hours={name: mp * per_megapixel / 3600 for name, mp in reversed(parts.items())})


def reconstruction_effort(num_photos: int, workers: int) -> Effort:
    """Hours on `workers` cores to reconstruct that many photos."""
    return Effort(hours={stage: seconds * num_photos / workers / 3600 for stage, seconds in _CPU_S.items()})


def training_effort(config: RunConfig, num_photos: int, *, device: str, workers: int) -> Effort | None:
    """Hours to train on photos of one's own and to prove it; None for a backbone whose cost is not known."""
    backbone, loop = config.train.network.backbone, config.train.loop
    if backbone not in _GMAC:
        return None
    small = loop.model_copy(update={"pool_size": min(loop.pool_size, num_photos)})
    # The collection and its queries are described before and at the end; a part of them at each validation.
    times = 2 + _VALIDATED_SHARE * -(-loop.epochs // loop.validation_epochs)
    size = config.train.network.image_size or loop.image_size
    described = _PROOF_PHOTOS * num_photos * times * _megapixels(size)
    seconds = (_training_megapixels(small, validation=0) + described) * _seconds_per_megapixel(backbone)
    slower = _CORE_S_PER_P100_S / workers if device == "cpu" else 1.0
    return Effort(hours={"training": seconds * slower / 3600})


def _training_megapixels(loop: LoopConfig, validation: int = _VALIDATION_PHOTOS) -> float:
    mined = (loop.tuples_per_epoch + loop.pool_size * loop.minings_per_epoch) if _mines(loop) else 0
    learned = loop.tuples_per_epoch * _images_per_query(loop) * _STEP_IN_FORWARDS
    validations = 1 + -(-loop.epochs // loop.validation_epochs)
    return (loop.epochs * (mined + learned) + validations * validation) * _megapixels(loop.image_size)


def _mines(loop: LoopConfig) -> bool:
    return loop.sampling == "tuples"


def _images_per_query(loop: LoopConfig) -> int:
    return 2 + loop.negatives.num_negatives if _mines(loop) else loop.images_per_cluster


def _backbone(config: RunConfig, recipe: Recipe) -> str:
    if not recipe.network:
        return config.train.network.backbone
    return next((name for name in _GMAC if name in recipe.network), recipe.network)


def _seconds_per_megapixel(backbone: str) -> float:
    if backbone not in _GMAC:
        raise ValueError(
            f"backbone: expected one of {', '.join(_GMAC)} to estimate hours, got '{backbone}'; "
            "its time is not known"
        )
    return _RESNET101_S_PER_MP * _GMAC[backbone] / _GMAC["resnet101"]


def _megapixels(longest_side: int) -> float:
    return longest_side**2 * _ASPECT / 1e6
