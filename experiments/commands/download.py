"""The command that gets what others have published: data sets, ground truth, pairs, networks."""

from pathlib import Path
from typing import Annotated

import typer

from cnnimretrieval.downloads.catalogue import DATA_SETS, find
from cnnimretrieval.downloads.dataset import DataSet
from cnnimretrieval.downloads.download import DownloadConfig, Plan, plan
from cnnimretrieval.downloads.download import download as get
from cnnimretrieval.downloads.ledger import FILE as LEDGER
from experiments.commands import options
from experiments.exit_codes import UsageFault
from experiments.sizes import size
from groundwork.lock import hold

_LIST = "list"
_STATES = {"done": "there", "fetched": "to unpack", "partial": "begun", "missing": "to come"}


def download(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME",
            help="Data sets or networks by their published names, such as roxford5k; `list` shows all.",
        ),
    ],
    data: options.Data = Path("data"),
    mirrors: Annotated[
        list[str],
        typer.Option(
            "--mirror", metavar="URL", help="Asked first, for the path that a file has on its own host."
        ),
    ] = [],  # noqa: B006
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Do not remove what was unpacked.")
    ] = False,
    dry_run: options.DryRun = False,
) -> None:
    """Get published data sets and networks.

    Run it again to continue: what is there already is not asked for again.
    """
    if names == [_LIST]:
        print(catalogue_table())
        return
    data_sets = [_find(name) for name in names]
    config = DownloadConfig(mirrors=tuple(_mirror(url) for url in mirrors), keep_archives=keep_archives)
    if dry_run:
        print("\n\n".join(plan_table(plan(one, data), data) for one in data_sets))
        return
    with hold(data):
        for one in data_sets:
            came = get(one, data, config)
            print(f"{one.name}: {f'{came:,} files got' if came else 'there already'}, {_place(one, data)}")


def catalogue_table() -> str:
    """Every name with its size and what it is."""
    width = max(map(len, DATA_SETS))
    rows = (f"{one.name:<{width}}  {size(one.about_bytes):>9}  {one.title}" for one in DATA_SETS.values())
    return "\n".join(rows)


def plan_table(planned: Plan, root: Path) -> str:
    """What getting a data set would do: files, sizes, checks, addresses, space."""
    lines = [f"{planned.data_set.name}: {planned.data_set.title}"]
    for one in planned.files:
        place = one.file.into or str(Path(one.file.path).parent)
        lines.append(
            f"  {_STATES[one.state]:<9}  {size(one.file.about_bytes):>9}  {one.file.check:<34}"
            f"  {one.file.url} -> {root / place}"
        )
    lines += [f"  link {root / link} -> {root / target}" for link, target in planned.data_set.links]
    unknown = f", and {planned.unknown_sizes} files of unknown size" if planned.unknown_sizes else ""
    needed = size(planned.needed_bytes) if planned.needed_bytes else "nothing"
    lines.append(f"  space needed: {needed}{unknown}; free: {size(planned.free_bytes)}")
    return "\n".join(lines)


def _find(name: str) -> DataSet:
    try:
        return find(name)
    except ValueError as error:
        raise UsageFault(str(error)) from error


def _mirror(url: str) -> str:
    if not url.startswith(("https://", "http://")):
        raise UsageFault(f"--mirror: expected an address with https:// or http://, got '{url}'; correct it")
    return url


def _place(one: DataSet, data: Path) -> Path:
    """The folder with the data set's ledger."""
    return data / Path(one.files[0].path).parent / LEDGER
