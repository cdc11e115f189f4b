"""The command line: parse, check what can be checked at once, call one stage, print its result."""

import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands import doctor, download, exchange, options, retrieval
from experiments.commands.exit_codes import INTERRUPTED, UsageFault, exit_code, lines_of
from experiments.settings import protocol
from groundwork.lock import hold
from groundwork.names import printable

if TYPE_CHECKING:
    from experiments.engine import Engine

# Stages are imported inside their commands: --help and reconstruct must not wait for torch.

NAME = "cnnimretrieval"
app = typer.Typer(
    name=NAME,
    help="From a folder of unsorted photos to an image-retrieval network, with no human label.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong usage or config, 130 interrupted.

    Errors are one line on stderr; `--debug` anywhere shows the traceback before it.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for word in given if word != "--debug"]
    _log_to_stderr()
    try:
        code = app(words or ["--help"], prog_name=NAME, standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        if len(words) < len(given):
            traceback.print_exc()
        code = _say(error)
    if code == INTERRUPTED:
        return _say(KeyboardInterrupt())
    return code or 0


class _Printable(logging.Formatter):
    """The message alone; names of files in it cannot start a line or command the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The base class calls this for all but a traceback."""
        return printable(record.message)


def _log_to_stderr() -> None:
    """Show what our own packages tell about their progress, and only warnings of others."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in ("groundwork", "sfm", "pairs", "cnnimretrieval", "experiments"):
        logging.getLogger(package).setLevel(logging.INFO)


def _say(error: BaseException) -> int:
    for line in lines_of(error):
        print(f"{NAME}: {line}", file=sys.stderr)
    return exit_code(error)


@app.command()
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
    seed: options.Seed = None,
    data: options.Data = Path("data"),
    dry_run: options.DryRun = False,
    verify: options.Verify = False,
) -> None:
    """Do everything, for photos or a published row.

    Run it again to continue after an interruption, or to redo what a changed setting touches.
    """
    if photos is not None:
        options.photos(photos, out)
    overrides = options.with_source(overrides, from_colmap)
    settings = protocol.read(protocol_name, overrides, seed=seed, weights=weights)
    if photos is None:
        _repeat(settings, out, data, device, options.num_workers(workers), dry_run)
        return
    if dry_run:
        from experiments import machine, rehearsal

        on, count = machine.device(device), options.num_workers(workers)
        print(rehearsal.of_photos(photos, out, settings, device=on, workers=count))
        return
    _run(photos, out, settings, device, _engine(workers, memory_gb, scheduler), verify)


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


def _engine(workers: int | None, memory_gb: float | None, scheduler: str | None = None) -> "Engine":
    from experiments.engine import Engine

    return Engine(workers=options.num_workers(workers), memory_gb=memory_gb, scheduler=scheduler)


def _run(
    photos: Path, out: Path, settings: protocol.Protocol, device: str, engine: "Engine", verify: bool = False
) -> None:
    from experiments import machine, pipeline, scoreboard
    from experiments.settings.run_config import RunConfig

    execution = pipeline.Execution(
        device=machine.device(device),
        engine=engine,
        command=(NAME, *sys.argv[1:]),
        protocol=settings.source,
        overrides=tuple(settings.overrides.values()),
        verify=verify,
    )
    outcome = pipeline.run(photos, out, settings.resolve(RunConfig), execution)
    print(scoreboard.as_table(outcome.metrics.evaluation, outcome.metrics.train.kept))
    print(f"{outcome.metrics.train.verdict}\n{outcome.report}")


@app.command()
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
    with _engine(workers, memory_gb, scheduler).open(photos, out) as executor:
        stage(photos, out, config, executor)
    print(f"{counts.Reconstruction.read(out)}\n{out / 'images.parquet'}")


@app.command()
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


app.command()(exchange.export)


@app.command()
def train(
    pairs: Annotated[Path, typer.Argument(metavar="WORK/pairs", help="Folder that `mine` wrote.")],
    out: Annotated[Path, typer.Option(metavar="WORK/model", help="Folder to write.")],
    protocol_name: options.ProtocolName = protocol.DEFAULT,
    overrides: options.Overrides = [],  # noqa: B006
    weights: options.Weights = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    seed: options.Seed = None,
) -> None:
    """Fine-tune on the pairs, whiten, score on held-out places."""
    options.folder(pairs, "WORK/pairs", "run mine first")
    settings = protocol.read(protocol_name, overrides, seed=seed, weights=weights)
    from cnnimretrieval.training.fine_tune import fine_tune
    from experiments import machine, scoreboard
    from experiments.settings.run_config import RunConfig

    config, on = settings.resolve(RunConfig), machine.device(device)
    machine.check_weights(config.train, config.weights)
    count = options.num_workers(workers)
    with hold(out):
        result = fine_tune(pairs, out, config.train, weights=config.weights, device=on, workers=count)
    print(scoreboard.as_table(result.evaluation, result.kept))
    print(f"{result.train.verdict}\n{out}")


app.command()(retrieval.extract)
app.command()(retrieval.search)
app.command()(retrieval.evaluate)
app.command()(download.download)


@app.command()
def report(work: Annotated[Path, typer.Argument(metavar="WORK", help="Folder that `run` wrote.")]) -> None:
    """Write WORK/report/index.html, the page about a run."""
    options.folder(work, "WORK", "use run first")
    from experiments.report.page import write_report

    print(write_report(work))


app.command()(doctor.doctor)


@app.command()
def demo(
    out: options.Work = Path("demo"),
    overrides: options.Overrides = [],  # noqa: B006
    device: options.Device = "auto",
    workers: options.Workers = None,
    memory_gb: options.MemoryGb = None,
    seed: options.Seed = None,
) -> None:
    """Do everything on a collection rendered on the spot."""
    settings, engine = protocol.read("demo", overrides, seed=seed), _engine(workers, memory_gb)
    from experiments import machine
    from experiments.demo.collection import DemoConfig, render_collection
    from experiments.settings.run_config import RunConfig

    # Whatever is wrong is told before the collection is rendered.
    settings.resolve(RunConfig)
    on = machine.device(device)
    with hold(out):
        render_collection(out, DemoConfig(), workers)
    _run(out / "photos", out, settings, on, engine)


if __name__ == "__main__":
    sys.exit(main())
