"""The stages of a run, a command each: reconstruct, mine, train, report."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from experiments.commands import options
from experiments.exit_codes import UsageFault
from experiments.settings import protocol
from groundwork.lock import hold


def reconstruct(
    photos: options.Photos,
    out: Annotated[Path, typer.Option(metavar="WORK/sfm", help="Folder to write.")],
    protocol_name: options.ProtocolName = protocol.DEFAULT,
    overrides: options.Overrides = [],  # noqa: B006
    workers: options.Workers = None,
    memory_gb: options.MemoryGb = None,
    scheduler: options.Scheduler = None,
    from_colmap: options.FromColmap = None,
    seed: options.Seed = None,
) -> None:
    """Find verified matches, places and 3D models among photos."""
    from experiments import counts
    from sfm.reconstruct import ReconstructConfig
    from sfm.reconstruct import reconstruct as stage

    overrides = options.with_source(overrides, from_colmap)
    config = protocol.read(protocol_name, overrides, seed=seed).resolve(ReconstructConfig, "sfm")
    options.photos(photos, out)
    with options.engine(workers, memory_gb, scheduler).open(photos, out) as executor:
        stage(photos, out, config, executor)
    print(f"{counts.Reconstruction.read(out)}\n{out / 'images.parquet'}")


def mine(
    sfm: Annotated[
        Path,
        typer.Argument(
            metavar="WORK/sfm", help="Folder that `reconstruct` wrote, or a published retrieval-SfM .pkl."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="WORK/pairs", help="Folder to write.")],
    photos: Annotated[
        Path | None, typer.Option(help="Folder of a published .pkl's photos, ims or the one above it.")
    ] = None,
    protocol_name: options.ProtocolName = protocol.DEFAULT,
    overrides: options.Overrides = [],  # noqa: B006
    seed: options.Seed = None,
) -> None:
    """Turn the models into training pairs, split by place."""
    from experiments import counts
    from pairs.mine import MineConfig
    from pairs.mine import mine as stage

    if sfm.suffix == ".pkl":
        _adopt(sfm, photos, out)
        return
    if photos is not None:
        raise UsageFault("--photos: expected it with a .pkl only, got a folder; leave it out")
    config = protocol.read(protocol_name, overrides, seed=seed).resolve(MineConfig, "pairs")
    options.folder(sfm, "WORK/sfm", "run reconstruct first")
    with hold(out):
        stage(sfm, out, config)
    print(f"{counts.Mining.read(out)}\n{out / 'positives.parquet'}")


def _adopt(file: Path, photos: Path | None, out: Path) -> None:
    from experiments import counts
    from pairs.adopt import adopt

    options.file(file, "PKL")
    if photos is None:
        raise UsageFault(f"--photos: expected the folder of the photos of {file.name}, got none; give it")
    options.folder(photos, "--photos")
    with hold(out):
        adopt(file, photos / "ims" if (photos / "ims").is_dir() else photos, out)
    print(f"{counts.Mining.read(out)}\n{out / 'positives.parquet'}")


def train(
    pairs: Annotated[Path, typer.Argument(metavar="WORK/pairs", help="Folder that `mine` wrote.")],
    out: Annotated[Path, typer.Option(metavar="WORK/model", help="Folder to write.")],
    protocol_name: options.ProtocolName = protocol.DEFAULT,
    overrides: options.Overrides = [],  # noqa: B006
    weights: options.Weights = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    seed: options.Seed = None,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Tell where the time went, and write it to profile.json; two steps, operation by operation, "
            "go to trace.json.gz, for chrome://tracing or ui.perfetto.dev.",
        ),
    ] = False,
) -> None:
    """Fine-tune on the pairs, whiten, score on held-out places; also under torchrun."""
    options.folder(pairs, "WORK/pairs", "run mine first")
    settings = protocol.read(protocol_name, overrides, seed=seed, weights=weights)
    from cnnimretrieval import distributed
    from cnnimretrieval.training.fine_tune import fine_tune
    from cnnimretrieval.training.watching import clock
    from experiments import machine, scoreboard
    from experiments.settings.run_config import RunConfig

    config, on = settings.resolve(RunConfig), machine.device(device)
    machine.check_weights(config.train, config.weights)
    count = options.num_workers(workers)
    with machine.ranks(on) as own:
        if own is None:
            return
        learn = partial(
            fine_tune, pairs, out, config.train, weights=config.weights, workers=count, profile=profile
        )
        with hold(out):
            result = distributed.on_all(learn, own)
    print(scoreboard.as_table(result.evaluation, result.kept))
    if profile:
        print(clock.as_table(clock.read_profile(out)))
    print(f"{result.train.verdict}\n{out}")


def report(work: Annotated[Path, typer.Argument(metavar="WORK", help="Folder that `run` wrote.")]) -> None:
    """Write WORK/report/index.html, the page about a run."""
    options.folder(work, "WORK", "use run first")
    from experiments.report.page import write_report

    print(write_report(work))
