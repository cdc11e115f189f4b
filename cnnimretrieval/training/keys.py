"""Keys of a training: of all that its results hang on, and of what its weights hang on alone."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.settings import LoopConfig
from cnnimretrieval.training.train_config import TrainConfig
from cnnimretrieval.training.watch import WatchConfig
from groundwork.keys import key_of, sha256_of
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


def mining_record(pairs_dir: Path) -> StageRecord:
    """That of the mining in `pairs_dir`; FileNotFoundError when it has not finished."""
    record = read_done(pairs_dir, "mine", remedy="mine again")
    if record is None:
        raise FileNotFoundError(
            f"pairs: expected a folder that mining finished, got {pairs_dir}; run mine first"
        )
    return record


def stage_key(
    mined: StageRecord, config: TrainConfig, initial: RetrievalNetwork, models: Sequence[Path] = ()
) -> str:
    """Of all that the results of a training without a local head hang on; `mined` is the record of mining.

    `models` are those whose tracks teach the trunk, if any.
    """
    # What the files of layers hold decides, not where they lie; how much is kept and told decides nothing.
    without = {
        "layers": config.layers.without_paths(),
        "inputs": config.inputs.without_limit(),
        "watch": WatchConfig(),
        "loop": config.loop.model_copy(update={"tracks": config.loop.tracks.without_path()}),
    }
    settings = config.model_copy(update=without)
    return key_of(
        STAGE,
        _REVISION,
        _versions(),
        mined.key,
        settings,
        list(config.layers.files),
        initial.fingerprint(),
        *map(sha256_of, models),
    )


def stage_key_with_local(key: str, config: TrainConfig, models: Sequence[Path]) -> str:
    """That of the training of a local head too; `key` is that of the rest, which goes on without it."""
    local = config.local.model_copy(update={"sfm": None})
    digests = list(map(sha256_of, models))
    return key_of(key, config.network.local, local, digests)


def loop_key(
    mined: StageRecord,
    content: str,
    config: TrainConfig,
    initial: RetrievalNetwork,
    models: Sequence[Path] = (),
) -> str:
    """Of what the weights after an epoch hang on, so that a change of the rest does not lose them.

    `content` is the key of the photos, as `groundwork.photo_source` has it; `models` are those whose tracks
    teach the trunk.
    """
    files = {name: mined.outputs[name].sha256 for name in _LEARNED_FROM if name in mined.outputs}
    seen = config.loop.through_whitening
    return key_of(
        f"{STAGE} loop",
        _REVISION,
        _versions(),
        files,
        content,
        config.loop.model_copy(update=_AT_ONCE).model_dump(mode="json", exclude=_AFTER_THE_LOOP),
        *_length_that_counts(config.loop),
        config.network,
        config.layers.without_paths(),
        config.whitening.model_dump(mode="json", exclude={"scales"}) if seen else None,
        config.inputs.without_limit(),
        config.seed,
        list(config.layers.files),
        initial.fingerprint(),
        *map(sha256_of, models),
    )


def _length_that_counts(loop: LoopConfig) -> list[int]:
    """The number of epochs where the weights after each hang on it; nothing else."""
    return [loop.epochs] if loop.schedule.kind == "cosine" else []


def _versions() -> list[str]:
    return [version(package) for package in ("cnnimretrieval", "torch")]
