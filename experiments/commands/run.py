"""The commands that do everything: `run` on photos or a published row, `demo` on a rendered collection."""

import sys
from pathlib import Path

from experiments.commands import options
from experiments.engine import Engine
from experiments.exit_codes import NAME, UsageFault
from experiments.settings import protocol
from groundwork.lock import hold


def run(
    out: options.Work,
    photos: options.MaybePhotos = None,
    protocol_name: options.ProtocolName = protocol.DEFAULT,
    overrides: options.Overrides = [],  # noqa: B006
    weights: options.Weights = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    memory_gb: options.MemoryGb = None,
    scheduler: options.Scheduler = None,
    from_colmap: options.FromColmap = None,
    rounds: options.Rounds = None,
    seed: options.Seed = None,
    data: options.Data = Path("data"),
    dry_run: options.DryRun = False,
    verify: options.Verify = False,
) -> None:
    """Do everything, for photos or a published row; photos also under torchrun.

    Run it again to continue after an interruption, or to redo what a changed setting touches.
    """
    if photos is not None:
        options.photos(photos, out)
    overrides = options.with_rounds(options.with_source(overrides, from_colmap), rounds)
    settings = protocol.read(protocol_name, overrides, seed=seed, weights=weights)
    if photos is None:
        _repeat(settings, out, data, device, options.num_workers(workers), dry_run)
        return
    if dry_run:
        from experiments import machine, rehearsal

        on, count = machine.device(device), options.num_workers(workers)
        print(rehearsal.of_photos(photos, out, settings, device=on, workers=count))
        return
    _run(photos, out, settings, device, options.engine(workers, memory_gb, scheduler), verify)


def _repeat(
    settings: protocol.Protocol, out: Path, data: Path, device: str, workers: int, dry_run: bool
) -> None:
    recipe = settings.recipe
    if recipe is None:
        raise UsageFault(
            f"PHOTOS: expected a folder of photos for {settings.source}, got none; "
            f"give one, or take a published row: `{protocol.LIST}`"
        )
    if dry_run:
        from experiments import rehearsal

        print(rehearsal.of_row(out, settings, recipe, data))
        return
    from experiments import machine, reproduction
    from experiments.settings.run_config import RunConfig

    config, target = settings.resolve(RunConfig), settings.target
    row = reproduction.Row(protocol=settings.source, config=config, recipe=recipe, target=target)
    result = reproduction.repeat(row, data, out, device=machine.device(device), workers=workers)
    print(f"{reproduction.as_table(result)}\n{out / reproduction.FILE}")


def _run(
    photos: Path, out: Path, settings: protocol.Protocol, device: str, engine: Engine, verify: bool = False
) -> None:
    from experiments import machine, pipeline, scoreboard
    from experiments.settings.run_config import RunConfig

    config, on = settings.resolve(RunConfig), machine.device(device)
    with machine.ranks(on) as own:
        if own is None:
            return
        execution = pipeline.Execution(
            device=own,
            engine=engine,
            command=(NAME, *sys.argv[1:]),
            protocol=settings.source,
            overrides=tuple(settings.overrides.values()),
            verify=verify,
        )
        outcome = pipeline.run(photos, out, config, execution)
    print(scoreboard.as_table(outcome.metrics.evaluation, outcome.metrics.train.kept))
    print(f"{outcome.metrics.train.verdict}\n{outcome.report}")


def demo(
    out: options.Work = Path("demo"),
    overrides: options.Overrides = [],  # noqa: B006
    device: options.Device = "auto",
    workers: options.Workers = None,
    memory_gb: options.MemoryGb = None,
    seed: options.Seed = None,
) -> None:
    """Do everything on a collection rendered on the spot."""
    settings, engine = protocol.read("demo", overrides, seed=seed), options.engine(workers, memory_gb)
    from experiments import machine
    from experiments.demo.collection import DemoConfig, render_collection
    from experiments.settings.run_config import RunConfig

    # Whatever is wrong is told before the collection is rendered.
    settings.resolve(RunConfig)
    on = machine.device(device)
    with hold(out):
        render_collection(out, DemoConfig(), workers)
    _run(out / "photos", out, settings, on, engine)
