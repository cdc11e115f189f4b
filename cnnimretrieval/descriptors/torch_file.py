"""A network as one file of PyTorch's own, a graph that runs without this package.

It is what torch.export writes, which took the place of TorchScript.
"""

import json
import warnings
from pathlib import Path

import torch
from torch.export import ExportedProgram

from cnnimretrieval.descriptors.finished import Finished, Run, Written
from cnnimretrieval.networks.network import RetrievalNetwork
from groundwork.files import atomic_path

# Of the text beside the graph, which `torch.export.load` hands out.
FACTS = "cnnimretrieval.json"


def export_torch(network: RetrievalNetwork, path: Path, *, whiten: bool = True) -> Written:
    """Write `network`, with its whitening of one scale, to `path`; both ways as in `export_onnx`.

    ValueError when the network is no graph for any size, or when what is read back disagrees.
    """
    finished = Finished.of(network, whiten=whiten)
    with atomic_path(path) as unfinished, warnings.catch_warnings(action="ignore"):
        facts = {FACTS: json.dumps(finished.facts)}
        with unfinished.open("wb") as file:
            torch.export.save(_traced(finished), file, extra_files=facts)
        difference = finished.require_agreement(path, in_torch(unfinished), "the file")
    return Written(path=path, dim=finished.dim, largest_difference=difference)


def in_torch(path: Path) -> Run:
    """Runs the network of a file, by PyTorch alone."""
    with path.open("rb") as file:
        graph = torch.export.load(file).module()
    return lambda images: graph(torch.tensor(images)).detach().numpy()


def _traced(finished: Finished) -> ExportedProgram:
    try:
        with torch.no_grad():
            return torch.export.export(finished, (finished.example(),), dynamic_shapes=finished.free_sides())
    except (RuntimeError, ValueError) as error:
        raise finished.no_graph(error, "torch") from error
