"""Options that several commands share, the same everywhere, and the checks that need only the file system."""

import json
import math
import os
from pathlib import Path
from typing import Annotated

import typer

from experiments.engine import Engine
from experiments.exit_codes import UsageFault
from experiments.settings import protocol
from groundwork.executors import usable_cores
from groundwork.settings import MAX_INTEGER

# Beyond what any machine has: a slip of the finger.
_MAX_WORKERS = 4096
_MAX_MEMORY_GB = 1e6

Photos = Annotated[
    Path, typer.Argument(metavar="PHOTOS", help="Folder of photos; searched with all below it.")
]
MaybePhotos = Annotated[
    Path | None,
    typer.Argument(
        metavar="PHOTOS",
        help="Folder of photos, searched with all below it; left out to repeat a published row.",
    ),
]
Work = Annotated[Path, typer.Option("--out", metavar="WORK", help="Folder to write everything to.")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Folder that `train` wrote, a checkpoint of cnnimageretrieval-pytorch (.pth, .pth.tar), or an "
        "off-the-shelf BACKBONE[:POOLING] such as resnet101:gem.",
    ),
]


def _list_protocols(name: str) -> str:
    if name == "list":
        print(protocol.table())
        raise typer.Exit
    return name


ProtocolName = Annotated[
    str,
    typer.Option(
        "--protocol",
        metavar="NAME|FILE.toml",
        callback=_list_protocols,
        is_eager=True,
        help="Settings, by name or from a file; `list` shows the names.",
    ),
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="KEY=VALUE", help="One setting, over the protocol's; dotted key, TOML value."
    ),
]
Scales = Annotated[
    str | None, typer.Option(metavar="S,S,...", help="Factors on top of --image-size, e.g. 1,0.7071,0.5.")
]
ImageSize = Annotated[int | None, typer.Option(metavar="PX", help="Longest side; photos are never enlarged.")]
ApplyWhitening = Annotated[
    bool, typer.Option("--whitening/--no-whitening", help="Apply the network's own, if it has one.")
]
WhiteningFrom = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which of a checkpoint's whitenings is used, by the data set it was learned from "
        "[default: retrieval-SfM-120k, else the first].",
    ),
]
Rerank = Annotated[
    list[str],
    typer.Option(
        metavar="STEP[:KEY=VALUE,...]",
        help="Re-rank by dba, qe, diffusion or spatial, as qe:alpha=3,neighbours=50 or "
        "spatial:features=sift,candidates=100; may be given again. They are done in this order.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Weights of the backbone: .safetensors or .pth, fp16 or fp32 [default: the library's download].",
    ),
]
Data = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="Folder of published data, laid out by `download`.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done; write nothing.")]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Read every file of earlier runs first, and make again what is not as recorded.",
    ),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="Where networks run: auto, cpu, cuda or cuda:N.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, max=_MAX_WORKERS, metavar="N", help="Processes at a time [default: one a core]."),
]
MemoryGb = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        max=_MAX_MEMORY_GB,
        metavar="GB",
        help="Memory for the processes of a reconstruction; fewer run at a time where more would not fit "
        "[default: what the machine or container has left].",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Work on the workers of this Dask scheduler, e.g. tcp://host:8786, instead of here.",
    ),
]
FromColmap = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Folder of COLMAP models to use in place of our own, or a COLMAP database whose matches to use; "
        "names in them are relative to PHOTOS.",
    ),
]
Rounds = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=9,
        metavar="N",
        help="From the second on the network of the round before proposes pairs that it finds alike; ends "
        "early where that brings nothing new [default: the protocol's, or 1].",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=MAX_INTEGER,
        metavar="N",
        help="Of everything random: same seed, same result [default: the protocol's, or 0].",
    ),
]


def folder(path: Path, what: str, remedy: str = "check the path") -> Path:
    """`path`, if it is a folder.

    Raises:
        UsageFault: it is missing, a file, or not to be read; the message calls it `what`.

    """
    if not path.exists():
        raise UsageFault(f"{what}: expected a folder, got {path}, which does not exist; {remedy}")
    if not path.is_dir():
        raise UsageFault(f"{what}: expected a folder, got {path}, which is a file; {remedy}")
    if not os.access(path, os.R_OK | os.X_OK):
        raise UsageFault(f"{what}: expected leave to read {path}, got none; change its permissions")
    return path


def photos(path: Path, out: Path) -> Path:
    """`path`, if it is a folder and what is written to `out` cannot become one of its files.

    Raises:
        UsageFault: it is no folder, or `out` is or lies in it.

    """
    folder(path, "PHOTOS")
    if out.resolve().is_relative_to(path.resolve()):
        raise UsageFault(f"--out: expected a folder outside PHOTOS, got {out}; write somewhere else")
    return path


def file(path: Path, what: str) -> Path:
    """`path`, if it is a file.

    Raises:
        UsageFault: it is missing or a folder; the message calls it `what`.

    """
    if not path.is_file():
        got = "which is a folder" if path.is_dir() else "which does not exist"
        raise UsageFault(f"{what}: expected a file, got {path}, {got}; check the path")
    return path


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Comma-separated numbers, as `--scales 1,0.7071,0.5`.

    Raises:
        UsageFault: something else stands there.

    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageFault(
            f"{option}: expected numbers separated by commas, got '{text}'; write it like 1,0.5"
        ) from error


def box(text: str, option: str) -> tuple[float, float, float, float]:
    """Four numbers x1,y1,x2,y2 in pixels of the upright photo, the upper left corner first.

    Raises:
        UsageFault: other than four numbers, or corners in another order.

    """
    values = numbers(text, option)
    corners_in_order = len(values) == 4 and values[0] < values[2] and values[1] < values[3]
    if not corners_in_order or not all(map(math.isfinite, values)):
        raise UsageFault(f"{option}: expected x1,y1,x2,y2 with x1 < x2 and y1 < y2, got '{text}'; correct it")
    return values[0], values[1], values[2], values[3]


def with_source(overrides: list[str], from_colmap: Path | None) -> list[str]:
    """`overrides` and what `--from-colmap` says, as the setting that it is.

    Raises:
        UsageFault: there is no such folder or file.

    """
    if from_colmap is None:
        return overrides
    if not from_colmap.is_file():
        folder(from_colmap, "--from-colmap")
    return [*overrides, f"sfm.from_colmap={json.dumps(str(from_colmap.resolve()), ensure_ascii=False)}"]


def with_rounds(overrides: list[str], rounds: int | None) -> list[str]:
    """`overrides` and what `--rounds` says, as the setting that it is."""
    return overrides if rounds is None else [*overrides, f"rounds={rounds}"]


def num_workers(workers: int | None) -> int:
    """The number asked for, else one a core that this process may use."""
    return workers if workers is not None else usable_cores()


def engine(workers: int | None, memory_gb: float | None, scheduler: str | None = None) -> Engine:
    """Where a reconstruction runs, as the options say."""
    return Engine(workers=num_workers(workers), memory_gb=memory_gb, scheduler=scheduler)
