"""The command that looks at the machine, and at the files of a run."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from experiments.commands import options

# Below this many bytes free on the disk, or in memory, a collection of some thousand photos does not fit.
_LITTLE_DISK = 5e9
_LITTLE_MEMORY = 4e9


def doctor(
    work: Annotated[
        Path | None,
        typer.Argument(metavar="WORK", help="Folder of a run; all its files are compared with their hashes."),
    ] = None,
) -> None:
    """Say what this machine has, what will be slow and why; with WORK, whether its files are whole."""
    if work is not None:
        options.folder(work, "WORK", "use run first")
    print("\n".join(_machine(work or Path())))
    if work is not None:
        _look_through(work)


def _machine(folder: Path) -> list[str]:
    import torch

    from experiments import manifest
    from groundwork.memory import usable_bytes

    on = "cuda" if torch.cuda.is_available() else "cpu"
    machine, memory, disk = manifest.this_machine(on), usable_bytes(), shutil.disk_usage(folder).free
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    versions = ", ".join(f"{name} {version}" for name, version in manifest.installed().items())
    lines = [
        f"system    {machine.system}, Python {machine.python}",
        f"packages  {versions}",
        f"cores     {machine.cores}",
        f"memory    {memory / 1e9:.1f} GB free of {machine.memory_gib * 2**30 / 1e9:.1f} GB",
        f"disk      {disk / 1e9:.1f} GB free at {folder.resolve()}",
        f"GPUs      {', '.join(gpus) or 'none'}",
    ]
    if not gpus:
        lines.append("slow: without a GPU networks run on the processor; protocol small is made for it")
    if memory < _LITTLE_MEMORY:
        lines.append("slow: with little memory fewer places are mapped at a time; close other programs")
    if disk < _LITTLE_DISK:
        lines.append("short: a run keeps some MB a photo; make room on the disk or take another --out")
    return lines


def _look_through(work: Path) -> None:
    from groundwork.lock import hold
    from groundwork.records import verify

    with hold(work):
        damaged = verify(work)
    for path in damaged:
        print(f"damaged   {path}")
    if damaged:
        raise ValueError(
            f"WORK {work}: expected files as their records say, got {len(damaged)} that are not; "
            "run the same command again to make them anew"
        )
    print(f"whole     every recorded file below {work}")
