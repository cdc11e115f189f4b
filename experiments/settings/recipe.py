"""What a protocol says beside the settings of stages: the published row it repeats, the score to reach."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from cnnimretrieval.downloads.catalogue import DATA_SETS
from cnnimretrieval.networks.scales import require_factors
from cnnimretrieval.networks.toolbox_files import LAYERS, NETWORKS, TRUNKS, WHITENING_LAYERS, LayerName
from groundwork.settings import Settings

# Benchmarks with published scores and what each of them is scored by.
BENCHMARKS: Mapping[str, tuple[str, ...]] = {
    "oxford5k": ("",),
    "paris6k": ("",),
    "roxford5k": ("easy", "medium", "hard"),
    "rparis6k": ("easy", "medium", "hard"),
}

PairsName = Literal["", "retrieval-SfM-120k"]
WhiteningName = Literal["", "retrieval-SfM-120k", "retrieval-SfM-30k"]


class Recipe(Settings):
    """The section [published]: which published files a row is made of, and how it is tested.

    Either a `network` is tested as it is, or one is built from `train.network`, trained on `pairs` if they
    are given, and whitened by the pairs of `whitening` if those are given.
    """

    network: str = Field(default="", description="a published network, by name; others train one")
    pairs: PairsName = Field(default="", description="published pairs to train on")
    drop_repeats: bool = Field(
        default=False,
        description="of pairs that the file holds several times, as the MatConvNet toolbox does",
    )
    whitening: WhiteningName = Field(default="", description="published pairs to learn the whitening from")
    trunk: str = Field(default="", description="published trunk to start from; `weights` when not set")
    local_whitening: str = Field(default="", description="published layer that it starts from")
    region_whitening: str = Field(default="", description="published layer that it starts from")
    projection: str = Field(default="", description="published layer that it starts from")
    image_size: int = Field(default=1024, gt=0, description="longest side of a tested photo in px")
    scales: tuple[float, ...] = Field(
        default=(1.0, 2**-0.5, 0.5), min_length=1, description="of a tested photo"
    )
    benchmarks: tuple[str, ...] = tuple(BENCHMARKS)

    @field_validator("scales")
    @classmethod
    def _factors(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        return require_factors(scales)

    @field_validator("network")
    @classmethod
    def _network_exists(cls, name: str) -> str:
        return _known("network", name, NETWORKS)

    @field_validator("trunk")
    @classmethod
    def _trunk_exists(cls, name: str) -> str:
        return _known("trunk", name, TRUNKS)

    @field_validator(*LAYERS)
    @classmethod
    def _layer_exists(cls, name: str, info: ValidationInfo) -> str:
        return _known(str(info.field_name), name, WHITENING_LAYERS)

    @field_validator("benchmarks")
    @classmethod
    def _benchmarks_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            _known("benchmarks", name, BENCHMARKS)
        return names

    @model_validator(mode="after")
    def _one_origin(self) -> "Recipe":
        if self.network and (self.pairs or self.whitening or self.trunk or self.layers):
            raise ValueError(
                f"network: expected no pairs, whitening, trunk or layer beside it, got '{self.network}' "
                "with one; choose between testing a network and making one"
            )
        return self

    @property
    def layers(self) -> Mapping[LayerName, str]:
        """The published layers that whitening layers start from, by the latter."""
        given = {name: getattr(self, name) for name in LAYERS}
        return {name: published for name, published in given.items() if published}

    @property
    def downloads(self) -> tuple[str, ...]:
        """Names of everything that has to be downloaded, in the order of their use."""
        training = {self.pairs: "retrieval-SfM-120k", self.whitening: self.whitening}
        names = [self.network, self.trunk, *self.layers.values(), *training.values(), *self.benchmarks]
        return tuple(dict.fromkeys(name for name in names if name in DATA_SETS))


class Target(Settings):
    """The section [target]: the published scores of a row and where they stand."""

    title: str
    source: str = Field(description="of the scores; of the settings where there is none")
    scores: dict[str, float] = Field(
        default_factory=dict, description="mAP in % by BENCHMARK or BENCHMARK.PROTOCOL"
    )
    tolerance: float = Field(gt=0, description="of each score, either way, in points of mAP")
    gpu_hours: float = Field(gt=0, description="estimated, of one P100: see experiments.effort")
    note: str = ""

    @field_validator("scores")
    @classmethod
    def _of_known_benchmarks(cls, scores: dict[str, float]) -> dict[str, float]:
        for key, value in scores.items():
            benchmark, _, protocol = key.partition(".")
            if protocol not in BENCHMARKS.get(benchmark, ()):
                known = ", ".join(f"{b}.{p}".rstrip(".") for b, ps in BENCHMARKS.items() for p in ps)
                raise ValueError(f"scores: expected keys among {known}, got '{key}'; correct it")
            if not 0 < value <= 100:
                raise ValueError(
                    f"scores: expected a mAP in % of {key}, in (0, 100], got {value:g}; correct it"
                )
        return scores


def _known(key: str, name: str, names: Mapping[str, object]) -> str:
    if name and name not in names:
        raise ValueError(f"{key}: expected one of {', '.join(names)}, got '{name}'; choose one of them")
    return name
