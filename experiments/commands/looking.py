"""The commands that look at what there is: near-copies, places as folders, two runs beside each other."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands import options
from groundwork.files import read_json
from groundwork.lock import hold
from groundwork.names import printable

if TYPE_CHECKING:
    from cnnimretrieval.search.crops import Crop
    from cnnimretrieval.search.duplicates import Duplicates


def duplicates(
    database: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `extract` wrote.")],
    crops: Annotated[
        bool,
        typer.Option("--crops", help="Also photos that are a part of another, by SIFT and pixels; slower."),
    ] = False,
    as_json: options.Json = False,
    workers: options.Workers = None,
) -> None:
    """List near-copies among the photos of an extracted folder, the largest of each group first."""
    options.folder(database, "DIR", "extract the photos first")
    from cnnimretrieval.search.crops import Crop, find_crops
    from cnnimretrieval.search.duplicates import alike_pairs, find_duplicates
    from cnnimretrieval.search.evidence import CACHE
    from groundwork.descriptor_folder import META, read_descriptor_folder

    found = read_descriptor_folder(database)
    options.file(database / META, "DIR")
    photos = options.folder(Path(read_json(database / META)["photos"]), "photos of DIR")
    result = find_duplicates(found, photos)
    parts: list[Crop] = []
    if crops:
        names, pairs = alike_pairs(found)
        copied = {frozenset((group[0].name, other.name)) for group in result.groups for other in group[1:]}
        apart = [row for row, pair in enumerate(pairs.tolist()) if {names[i] for i in pair} not in copied]
        count = options.num_workers(workers)
        parts = list(find_crops(names, pairs[apart], photos, cache=database / CACHE, workers=count))
    if as_json:
        told = {"crops": [asdict(part) for part in parts]} if crops else {}
        print(json.dumps(asdict(result) | told, indent=1))
    else:
        print("\n".join([_table(result), *_lines_of(parts)]))


def places(
    sfm: Annotated[Path, typer.Argument(metavar="WORK/sfm", help="Folder that `reconstruct` wrote.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write links to, none of photos.")],
) -> None:
    """Make a folder for every place with links to its photos; nothing is copied."""
    options.folder(sfm, "WORK/sfm", "run reconstruct first")
    from sfm.place_folders import write_place_folders

    with hold(out):
        made = write_place_folders(sfm, out)
    photos, places = _counted(made.photos, "photo"), _counted(made.places, "place")
    print(f"{photos} of {places}, {made.kind or 'no links'}\n{out}")


def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="Folder that `run` or `train` wrote.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="The one to compare with it.")],
    as_json: options.Json = False,
    seed: options.Seed = None,
) -> None:
    """Say what one run gains over another on the held-out queries that they share, and how sure that is."""
    for run, name in ((run_a, "RUN_A"), (run_b, "RUN_B")):
        options.folder(run, name, "use run first")
    from experiments import comparison

    found = comparison.compare(run_a, run_b, seed=seed or 0)
    print(found.model_dump_json(indent=1) if as_json else printable_lines(comparison.as_table(found)))


def printable_lines(text: str) -> str:
    """Lines of text whose names cannot command a terminal."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _lines_of(parts: "Sequence[Crop]") -> list[str]:
    return [
        f"{printable(part.name)} is {','.join(f'{side:g}' for side in part.box)} of {printable(part.of)}"
        for part in parts
    ]


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _table(found: "Duplicates") -> str:
    lines = []
    for group in found.groups:
        for number, copy in enumerate(group):
            facts = f"{copy.width} x {copy.height}  {copy.size_bytes / 1e3:,.0f} kB"
            score = "" if number == 0 else f"  {copy.score:.3f}"
            lines.append(f"{'  ' if number else ''}{printable(copy.name)}  {facts}{score}")
    lines += [f"left out: {printable(name)} ({reason})" for name, reason in found.unreadable]
    spare = sum(len(group) - 1 for group in found.groups)
    groups, photos = _counted(len(found.groups), "group"), _counted(found.photos, "photo")
    compared = _counted(found.pairs_compared, "pair")
    lines.append(f"{groups}, {spare:,} of {photos} near-copies of another; {compared} compared")
    return "\n".join(lines)
