"""The command that writes what was made here in the formats of others."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands import options
from experiments.exit_codes import UsageFault
from groundwork.lock import hold
from groundwork.names import printable

if TYPE_CHECKING:
    from cnnimretrieval.descriptors.finished import Written

_CHECKPOINTS = (".pth", ".pth.tar")
_GRAPH = ".graphml"
_ONNX = ".onnx"
_TORCH = ".pt2"


class Format(StrEnum):
    """What `--to` knows; without it the format follows from what is exported."""

    ONNX = "onnx"
    TORCH = "torch"
    HUGGINGFACE = "huggingface"
    REFERENCE = "reference"
    HLOC = "hloc"


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="WORK/sfm|WORK/pairs|MODEL|DIR",
            help="Folder that `reconstruct`, `mine` or `extract` wrote, or a network: any MODEL.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE|DIR",
            help="Of a reconstruction, the file of its match graph: FILE.graphml; of pairs, the folder to "
            "write: NAME.pkl, NAME-whiten.pkl, ims, a pair list; of a network, the checkpoint: FILE.pth or "
            "FILE.pth.tar, FILE.onnx, FILE.pt2, or the folder for huggingface; of descriptors, the folder "
            "for hloc.",
        ),
    ],
    to: Annotated[
        Format | None,
        typer.Option(
            metavar="onnx|torch|huggingface|reference|hloc",
            help="Of a network: one ONNX file with normalisation and whitening inside, the same as a graph "
            "of PyTorch's that runs without this package, a folder as model hubs hold it, or a checkpoint of "
            "the reference toolbox. Of an extracted DIR: HDF5 and a pair list for hloc [default: reference].",
        ),
    ] = None,
    name: Annotated[
        str,
        typer.Option(
            help="Of the data set, as the reference toolbox calls it: of the pairs, or of those that the "
            "network's whitenings were learned from; in the files for hloc."
        ),
    ] = "mined",
    whitening_from: options.WhiteningFrom = None,
    weights: options.Weights = None,
) -> None:
    """Write a match graph as GraphML, pairs and descriptors for other toolboxes, or a network for others."""
    from pairs.export import require_file_name

    try:
        require_file_name(name, "--name")
    except ValueError as error:
        raise UsageFault(str(error)) from error
    folder = Path(source)
    kinds = {"graph.parquet": "a reconstruction", "positives.parquet": "pairs", "vectors.npy": "descriptors"}
    kind = next((kind for file, kind in kinds.items() if (folder / file).is_file()), None)
    if to is Format.HLOC:
        _export_descriptors(folder, out, name)
    elif kind == "descriptors" and to is None:
        raise UsageFault(f"--to: expected hloc for the descriptors in {source}, got none; add --to hloc")
    elif to is not None and kind is not None:
        raise UsageFault(
            f"--to: expected a network for {to.value}, got {kind} in {source}; give a MODEL or leave it out"
        )
    elif to is Format.ONNX:
        _export_onnx(source, out, whitening_from, weights)
    elif to is Format.TORCH:
        _export_torch(source, out, whitening_from, weights)
    elif to is Format.HUGGINGFACE:
        _export_hub_folder(source, out, whitening_from, weights)
    elif to is None and kind == "a reconstruction":
        _export_graph(folder, out)
    elif (
        to is None
        and folder.is_dir()
        and not any((folder / file).is_file() for file in ("network.json", "config.json"))
    ):
        _export_pairs(folder, out, name)
    else:
        _export_checkpoint(source, out, name, whitening_from, weights)


def _export_graph(sfm: Path, out: Path) -> None:
    _require_ending(out, (_GRAPH,), "a match graph")
    import networkx as nx

    from groundwork.files import atomic_path
    from sfm.matchgraph import as_networkx

    # XML holds no control characters, whatever a file is called.
    graph = nx.relabel_nodes(as_networkx(sfm), printable)
    with atomic_path(out) as unfinished:
        nx.write_graphml(graph, unfinished)
    print(out)


def _export_pairs(pairs: Path, out: Path, name: str) -> None:
    from pairs.export import export as stage

    with hold(out):
        print(stage(pairs, out, name))


def _export_descriptors(folder: Path, out: Path, name: str) -> None:
    options.folder(folder, "DIR", "extract the photos first")
    from cnnimretrieval.descriptors.hloc_files import export_hloc
    from cnnimretrieval.local.hloc_files import export_local_hloc
    from cnnimretrieval.local.store import FOLDER

    with hold(out):
        for path in export_hloc(folder, out, name):
            print(path)
        if (folder / FOLDER).is_dir():
            print(export_local_hloc(folder, out, name))


def _export_checkpoint(
    model: str, out: Path, name: str, whitening_from: str | None, weights: str | None
) -> None:
    _require_ending(out, _CHECKPOINTS, "a network")
    from cnnimretrieval.networks.reference import save_reference
    from experiments import machine

    save_reference(machine.load_network(model, weights, whitening_from), out, name)
    print(out)


def _export_onnx(model: str, out: Path, whitening_from: str | None, weights: str | None) -> None:
    _require_ending(out, (_ONNX,), "a network")
    from cnnimretrieval.descriptors.onnx_file import export_onnx, require_packages
    from experiments import machine

    require_packages()
    written = export_onnx(machine.load_network(model, weights, whitening_from), out)
    _say(written, "onnxruntime and PyTorch differ by")


def _export_torch(model: str, out: Path, whitening_from: str | None, weights: str | None) -> None:
    _require_ending(out, (_TORCH,), "a network")
    from cnnimretrieval.descriptors.torch_file import export_torch
    from experiments import machine

    written = export_torch(machine.load_network(model, weights, whitening_from), out)
    _say(written, "the file and the network differ by")


def _say(written: "Written", differ: str) -> None:
    most = f"{written.largest_difference:.1g} at most"
    print(f"descriptors of length {written.dim:,}; {differ} {most}\n{written.path}")


def _export_hub_folder(model: str, out: Path, whitening_from: str | None, weights: str | None) -> None:
    if out.exists():
        options.folder(out, "--out")
    from cnnimretrieval.networks.hub_folder import save_hub_folder
    from experiments import machine
    from experiments.model_card import model_card

    network = machine.load_network(model, weights, whitening_from)
    with hold(out):
        save_hub_folder(network, out, model_card(network, model))
    print(out)


def _require_ending(out: Path, endings: tuple[str, ...], what: str) -> None:
    if not out.name.endswith(endings) or out.is_dir():
        raise UsageFault(
            f"--out: expected a file ending in {' or '.join(endings)} for {what}, got {out}; give one"
        )
