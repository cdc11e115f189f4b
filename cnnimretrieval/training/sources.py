"""What a training is made from, and its keys: of all that results hang on, and of what weights hang on."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cnnimretrieval.networks.network import RetrievalNetwork, build
from cnnimretrieval.training.auxiliary_losses.tracks import track_models
from cnnimretrieval.training.local.training import teaching_models
from cnnimretrieval.training.proof.whitening_layers import load_layers
from cnnimretrieval.training.settings.loop_config import LoopConfig
from cnnimretrieval.training.settings.train_config import TrainConfig
from cnnimretrieval.training.watching.watch import WatchConfig
from groundwork.digest import sha256_of
from groundwork.keys import key_of
from groundwork.records import StageRecord, read_done

STAGE = "train"
# Counts the changes of what the same settings give, so that no earlier result passes for today's.
_REVISION = 2
# What the weights after an epoch do not hang on.
_AFTER_THE_LOOP: dict[str, Any] = {
    "epochs": True,
    "validation_epochs": True,
    "initial_share": True,
    "tracks": {"sfm"},
}
# Nor on these but for rounding: a training that ran out of memory goes on with others.
_AT_ONCE = {"pictures_at_once": None, "recompute": False}
# Of mining, all that training learns from; published pairs have no points.
_LEARNED_FROM = ("images.parquet", "positives.parquet", "apart.parquet", "shared_points.npy")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sources:
    """All that a training is made from.

    Attributes:
        config: its settings.
        mined: the record of mining.
        initial: the network it starts from, but for layers that start from training photos.
        trunk_models: files of the models whose tracks teach the trunk, if any.
        head_models: files of those whose tracks teach a local head, if any.

    """

    config: TrainConfig
    mined: StageRecord
    initial: RetrievalNetwork
    trunk_models: Sequence[Path] = ()
    head_models: Sequence[Path] = ()

    def stage_key(self) -> str:
        """Of all that the results hang on; a local head, which is learned last, changes no other part."""
        key = self._key_without_local()
        if self.config.network.local is None:
            return key
        local = self.config.local.model_copy(update={"sfm": None})
        return key_of(key, self.config.network.local, local, list(map(sha256_of, self.head_models)))

    def _key_without_local(self) -> str:
        config = self.config.without_local
        # What the files of layers hold decides, not where they lie; how much is kept and told decides
        # nothing.
        without = {
            "layers": config.layers.without_paths(),
            "inputs": config.inputs.without_limit(),
            "watch": WatchConfig(),
            "loop": config.loop.model_copy(update={"tracks": config.loop.tracks.without_path()}),
        }
        return key_of(
            STAGE,
            _REVISION,
            _versions(),
            self.mined.key,
            config.model_copy(update=without),
            *self._files(),
        )

    def loop_key(self, content: str) -> str:
        """Of what the weights after an epoch hang on, so that a change of the rest does not lose them.

        `content` is the key of the photos, as `groundwork.photo_source` has it.
        """
        config = self.config.without_local
        outputs = self.mined.outputs
        seen = config.loop.through_whitening
        return key_of(
            f"{STAGE} loop",
            _REVISION,
            _versions(),
            {name: outputs[name].sha256 for name in _LEARNED_FROM if name in outputs},
            content,
            config.loop.model_copy(update=_AT_ONCE).model_dump(mode="json", exclude=_AFTER_THE_LOOP),
            *_length_that_counts(config.loop),
            config.network,
            config.layers.without_paths(),
            config.whitening.model_dump(mode="json", exclude={"scales"}) if seen else None,
            config.inputs.without_limit(),
            config.seed,
            *self._files(),
        )

    def _files(self) -> list[Any]:
        """What the files and weights hold that either key is of."""
        files = list(self.config.layers.files)
        return [files, self.initial.fingerprint(), *map(sha256_of, self.trunk_models)]


def read_sources(pairs_dir: Path, config: TrainConfig, weights: str = "pretrained") -> Sources:
    """What a training on the pairs in `pairs_dir` is made from.

    FileNotFoundError when mining has not finished, or tracks that teach are not there; `weights` and the
    other errors are those of `initial_network`.
    """
    return Sources(
        config=config,
        mined=_mining_record(pairs_dir),
        initial=initial_network(config.without_local, weights),
        trunk_models=track_models(pairs_dir, config.loop.tracks),
        head_models=teaching_models(pairs_dir, config.local) if config.network.local is not None else (),
    )


def initial_network(config: TrainConfig, weights: str = "pretrained") -> RetrievalNetwork:
    """The network that training starts from, but for layers that start from training photos.

    `weights` and the errors are those of `build_trunk`, besides those of `load_layer`.
    """
    network = build(config.network, weights)
    load_layers(network, config.layers)
    return network


def _mining_record(pairs_dir: Path) -> StageRecord:
    record = read_done(pairs_dir, "mine", remedy="mine again")
    if record is None:
        raise FileNotFoundError(
            f"pairs: expected a folder that mining finished, got {pairs_dir}; run mine first"
        )
    return record


def _length_that_counts(loop: LoopConfig) -> list[int]:
    """The number of epochs where the weights after each hang on it; nothing else."""
    return [loop.epochs] if loop.schedule.kind == "cosine" else []


def _versions() -> list[str]:
    return [version(package) for package in ("cnnimretrieval", "torch")]
