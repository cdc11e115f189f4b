"""The command that writes what was made here in the formats of others: match graph, pairs, network."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.commands import options
from experiments.exit_codes import UsageFault
from groundwork.lock import hold
from groundwork.names import printable

_CHECKPOINTS = (".pth", ".pth.tar")
_GRAPH = ".graphml"


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="WORK/sfm|WORK/pairs|MODEL",
            help="Folder that `reconstruct` or `mine` wrote, or a network: any MODEL.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Of a reconstruction, the file of its match graph: FILE.graphml; of pairs, the folder to "
            "write: NAME.pkl, NAME-whiten.pkl, ims, a pair list; of a network, the checkpoint: FILE.pth or "
            "FILE.pth.tar."
        ),
    ],
    name: Annotated[
        str,
        typer.Option(
            help="Of the data set, as the reference toolbox calls it: of the pairs, or of those that the "
            "network's whitenings were learned from."
        ),
    ] = "mined",
    whitening_from: options.WhiteningFrom = None,
    weights: options.Weights = None,
) -> None:
    """Write a match graph as GraphML, pairs for the reference toolbox and hloc, or a network for it."""
    from pairs.export import require_file_name

    try:
        require_file_name(name, "--name")
    except ValueError as error:
        raise UsageFault(str(error)) from error
    folder = Path(source)
    if (folder / "graph.parquet").is_file():
        _export_graph(folder, out)
    elif folder.is_dir() and not (folder / "network.json").is_file():
        _export_pairs(folder, out, name)
    else:
        _export_network(source, out, name, whitening_from, weights)


def _export_graph(sfm: Path, out: Path) -> None:
    if not out.name.endswith(_GRAPH) or out.is_dir():
        raise UsageFault(f"--out: expected a file ending in {_GRAPH} for a match graph, got {out}; give one")
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


def _export_network(
    model: str, out: Path, name: str, whitening_from: str | None, weights: str | None
) -> None:
    if not out.name.endswith(_CHECKPOINTS) or out.is_dir():
        raise UsageFault(
            f"--out: expected a file ending in {' or '.join(_CHECKPOINTS)} for a network, got {out}; give one"
        )
    from cnnimretrieval.networks.reference import save_reference
    from experiments import machine

    save_reference(machine.load_network(model, weights, whitening_from), out, name)
    print(out)
