"""What ran: a run's settings, inputs, versions, seed, machine and scores, in WORK/manifest.json."""

import hashlib
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import Field

from groundwork.executors import usable_cores
from groundwork.files import read_table, write_json
from groundwork.memory import installed_bytes
from groundwork.settings import Values

FILE = "manifest.json"
# What can change a result; the others only draw, parse or print.
PACKAGES = (
    *("cnnimretrieval", "pycolmap", "numpy", "scipy", "pandas", "pillow"),
    *("torch", "torchvision", "timm"),
)


class Machine(Values):
    """Where it ran: times mean nothing without it."""

    cores: int
    memory_gib: float
    system: str
    python: str
    device: str


class Manifest(Values):
    """One execution of the whole way. A number without this file cannot be measured again."""

    version: int = 1
    command: tuple[str, ...]
    started: str = Field(description="UTC, ISO 8601")
    seconds: float = Field(description="of this execution; stages that were done already took none")
    seed: int
    protocol: str
    overrides: tuple[str, ...] = Field(description="every --set, as written")
    config: dict[str, Any] = Field(description="every setting, defaults included")
    weights: str
    photos: str
    input_sha256: str
    packages: dict[str, str]
    machine: Machine
    scores: dict[str, Any] = Field(description="the evaluation of metrics.json")
    rounds: list[dict[str, Any]] = Field(default=[], description="as in metrics.json; of several only")


def save(manifest: Manifest, work: Path) -> Path:
    """Write WORK/manifest.json, whole or not at all."""
    path = work / FILE
    write_json(path, manifest.model_dump(mode="json"))
    return path


def load(work: Path) -> Manifest:
    """The manifest that `save` wrote."""
    return Manifest.load(work / FILE)


def input_hash(collection: Path) -> str:
    """SHA-256 (hex) of the names and contents of the photos listed in a `collection.parquet`."""
    table = read_table(collection, ["name", "sha256"])
    return _hash(f"{sha256} {name}" for name, sha256 in zip(table["name"], table["sha256"], strict=True))


def installed(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of those of the packages that are installed."""
    versions: dict[str, str] = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def this_machine(device: str) -> Machine:
    """The machine at hand, and the device that its networks run on."""
    return Machine(
        cores=usable_cores(),
        memory_gib=round(installed_bytes() / 2**30, 1),
        system=f"{platform.system()} {platform.machine()}",
        python=sys.version.split()[0],
        device=device,
    )


def _hash(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in sorted(lines):
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
