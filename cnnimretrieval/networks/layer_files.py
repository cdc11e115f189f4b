"""Files that whitening layers of a network start from: a layer, or a whitening whose affine part becomes one.

The toolbox publishes layers that its projection networks start from, `toolbox_files.WHITENING_LAYERS`: the
state of a linear layer, weight and bias.
"""

from pathlib import Path

from torch import nn

from cnnimretrieval.networks.linear import set_to_whitening
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.pooling import Regional
from cnnimretrieval.networks.reference import read_reference_whitening
from cnnimretrieval.networks.tensor_files import plain_names, read_state
from cnnimretrieval.networks.toolbox_files import LayerName
from cnnimretrieval.networks.weights import fitting
from cnnimretrieval.whitening.apply import load_whitening

_REMEDY = "give a file with a layer (weight, bias) of that size, or a whitening"


def whitening_layer(network: RetrievalNetwork, name: LayerName) -> nn.Linear | None:
    """The layer of the network that is called `name`, None where it has none."""
    if name == "region_whitening":
        return network.pool.whitening if isinstance(network.pool, Regional) else None
    return network.local_whitening if name == "local_whitening" else network.projection


def load_layer(network: RetrievalNetwork, name: LayerName, path: Path) -> None:
    """Start a whitening layer of `network` from a file, of which nothing is executed.

    The file holds a layer of the same size, weight (outputs, inputs) and bias (outputs), as .pth or
    .safetensors; or a whitening, learned or PCA, of `save_whitening` or of the toolbox ({m, P}), of which the
    first axes are taken. ValueError where the network has no such layer or the file does not fit it,
    FileNotFoundError when there is none.
    """
    layer = whitening_layer(network, name)
    if layer is None:
        raise ValueError(
            f"{name} {path}: expected a network with that layer, got one without; set train.network.{name}"
        )
    what = f"{name} {path}"
    state = plain_names(read_state(path, what=name), what=what, remedy=_REMEDY)
    if state.keys() == {"mean", "projection"}:
        set_to_whitening(layer, load_whitening(path), what=what)
        return
    if state.keys() == {"m", "P"}:
        set_to_whitening(layer, read_reference_whitening(path), what=what)
        return
    of = f"a layer of {layer.in_features} inputs and {layer.out_features} outputs"
    layer.load_state_dict(fitting(state, layer, what=what, of=of, remedy=_REMEDY))
