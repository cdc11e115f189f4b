"""The stages for programs that take their settings from a protocol, as the commands of their names do.

`config` gives all settings of a stage instead; its defaults are those of the code, not of any protocol.
Processes that these functions start load the script that calls them: calls have to stand below
`if __name__ == "__main__":` there.
"""

from collections.abc import Sequence

from cnnimretrieval import stages
from cnnimretrieval.stages import Location
from cnnimretrieval.training.result import TrainResult
from cnnimretrieval.training.settings.train_config import TrainConfig
from experiments.settings import protocol as protocols
from experiments.settings.protocol import Protocol
from experiments.settings.run_config import RunConfig
from pairs.mine import MineConfig, MiningResult
from sfm.outcome import ReconstructResult
from sfm.reconstruct import ReconstructConfig


def reconstruct(
    photos: Location,
    out: Location,
    config: ReconstructConfig | None = None,
    *,
    protocol: str | None = None,
    settings: Sequence[str] = (),
    workers: int | None = None,
) -> ReconstructResult:
    """Places and 3D models among the photos below `photos`, written to `out`.

    `protocol` is a name or a FILE.toml, that of the command line when None; `settings` are its changes, as
    `--set` takes them. `workers` processes at a time, one a core when None. Errors are those of
    `sfm.reconstruct.reconstruct`, and UsageFault, a ValueError, for an unknown protocol or setting.
    """
    if config is None:
        config = _read(protocol, settings).resolve(ReconstructConfig, "sfm")
    else:
        _require_alone(protocol, settings)
    return stages.reconstruct(photos, out, config, workers=workers)


def mine(
    sfm: Location,
    out: Location,
    config: MineConfig | None = None,
    *,
    protocol: str | None = None,
    settings: Sequence[str] = (),
) -> MiningResult:
    """Training pairs, places and held-out queries from `sfm`, which `reconstruct` wrote, written to `out`.

    `protocol` and `settings` as in `reconstruct`.
    """
    if config is None:
        config = _read(protocol, settings).resolve(MineConfig, "pairs")
    else:
        _require_alone(protocol, settings)
    return stages.mine(sfm, out, config)


def fine_tune(
    pairs: Location,
    out: Location,
    config: TrainConfig | None = None,
    *,
    protocol: str | None = None,
    settings: Sequence[str] = (),
    weights: str | None = None,
    device: str = "cpu",
    workers: int | None = None,
) -> TrainResult:
    """Train on what `mine` wrote to `pairs`, whiten, score the held-out places; the network goes to `out`.

    `protocol` and `settings` as in `reconstruct`. `weights` of the backbone are the library's download
    (`pretrained`), a file, or `random`; those of the protocol when None.
    """
    if config is None:
        run = _read(protocol, settings).resolve(RunConfig)
        config, weights = run.train, weights or run.weights
    else:
        _require_alone(protocol, settings)
    return stages.fine_tune(
        pairs, out, config, weights=weights or "pretrained", device=device, workers=workers
    )


def _read(protocol: str | None, settings: Sequence[str]) -> Protocol:
    return protocols.read(protocol or protocols.DEFAULT, settings)


def _require_alone(protocol: str | None, settings: Sequence[str]) -> None:
    if protocol is not None or settings:
        given = [*([] if protocol is None else [f"protocol '{protocol}'"]), *settings]
        raise ValueError(
            f"config: expected it without protocol and settings, got {', '.join(given)} as well; "
            "leave one out"
        )
