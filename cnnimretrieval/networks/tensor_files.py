"""Files of named tensors, .safetensors or pickled by torch: read, out of what training wrapped them in."""

import pickle
import re
import warnings
from argparse import Namespace
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

State = Mapping[str, Tensor]

# Under which of these keys training scripts keep weights beside an optimiser and more; the first that is
# there, so plain weights come before their running average. Some nest one below another.
_BELOW = ("state_dict", "model_state_dict", "model", "network", "net", "state_dict_ema", "model_ema")
_MOST_NESTED = 4
# What stands in a name for no layer of the network: DataParallel, torch.compile, sharding, checkpointing.
_WRAPPERS = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
# What training code calls the attribute that its network is: dropped where every name begins so.
_HOLDERS = ("backbone", "encoder", *_BELOW, *_WRAPPERS)
# What torch.optim.swa_utils counts beside the weights that it averages.
_COUNTERS = frozenset(("n_averaged",))

# How torch names what it will not build from a file.
_REFUSED = re.compile(r"GLOBAL (\w+(?:\.\w+)*) was not")

# Whatever an array of numbers in a file is built from, under its names of NumPy 1 and 2, and what training
# scripts note of their options: plain records and paths, which do nothing. No other type is built.
_ALLOWED_TYPES: list[Any] = [
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "c8", "c16")),
    *(
        (value.__reduce__()[0], f"numpy.{core}.multiarray.{name}")
        for value, name in ((np.empty(0), "_reconstruct"), (np.float64(), "scalar"))
        for core in ("core", "_core")
    ),
    Namespace,
    *((PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
]


def read_state(path: Path, what: str = "weights") -> State:
    """The named tensors in a .safetensors, .pth or .pt file, on the CPU; nothing in it is executed.

    What lies beside them is passed over, see `weights_within`; arrays in place of tensors are understood.
    FileNotFoundError when there is no such file, ValueError when it holds something else; both call it
    `what`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{what}: expected a file, got {path}, which is none; check the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = read_pickle(path)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"{what} {path}: expected a .safetensors or .pth file of tensors, got {unreadable(error)}; "
            "give another file"
        ) from error
    return named_tensors(
        weights_within(content), what=f"{what} {path}", remedy="give the file of a state_dict"
    )


def read_pickle(path: Path) -> Any:
    """What `torch.save` wrote: tensors, arrays and plain containers of them; nothing in it is executed.

    pickle.UnpicklingError, RuntimeError, EOFError or ValueError for anything else: see `unreadable`.
    """
    try:
        # It warns of layouts that are refused below.
        with torch.serialization.safe_globals(_ALLOWED_TYPES), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (LookupError, TypeError, AttributeError, AssertionError) as error:
        # What the reader of pickles trips over in bytes that are none.
        raise pickle.UnpicklingError from error


def weights_within(content: Any) -> Any:
    """The weights in what a training script saved; `content` itself where they lie below no known key."""
    for _ in range(_MOST_NESTED):
        if not isinstance(content, Mapping):
            break
        inside = [content[key] for key in _BELOW if isinstance(content.get(key), Mapping)]
        if not inside:
            break
        content = inside[0]
    return content


def named_tensors(content: Any, *, what: str, remedy: str) -> dict[str, Tensor]:
    """`content` as tensors by name; ValueError, which calls it `what`, for anything else in it."""
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{what}: expected named tensors, got a {type(content).__name__} of something else; {remedy}"
        )
    tensors = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor | np.ndarray):
            raise ValueError(
                f"{what}: expected named tensors, got a {type(value).__name__} as {key!r}; {remedy}"
            )
        try:
            tensors[key] = torch.as_tensor(value)
        except TypeError as error:
            raise ValueError(
                f"{what}: expected named tensors, got an array of {value.dtype} as {key!r}; {remedy}"
            ) from error
    return tensors


def plain_names(state: State, own: Collection[str] = (), *, what: str, remedy: str) -> dict[str, Tensor]:
    """`state` under the names of the network itself, without what it was wrapped in while it was trained.

    Of DataParallel and torch.compile, `module` and `_orig_mod` anywhere in a name, in any order; a prefix
    such as `model.` where all names have it. `own` are the network's names: what stands in those stays.
    ValueError when two names become one.
    """
    wrappers = _WRAPPERS - {part for name in own for part in name.split(".")}
    names = {
        key: ".".join(part for part in key.split(".") if part not in wrappers)
        for key in state
        if key not in _COUNTERS
    }
    holders = [f"{holder}." for holder in _HOLDERS if not any(name.startswith(f"{holder}.") for name in own)]
    while prefix := next((one for one in holders if names and _all_begin(names.values(), one)), ""):
        names = {key: name.removeprefix(prefix) for key, name in names.items()}
    key_of: dict[str, str] = {}
    for key, name in names.items():
        if name in key_of:
            raise ValueError(
                f"{what}: expected one tensor {name!r}, got {key_of[name]!r} and {key!r}; {remedy}"
            )
        key_of[name] = key
    return {name: state[key] for name, key in key_of.items()}


def _all_begin(names: Collection[str], prefix: str) -> bool:
    return all(name.startswith(prefix) for name in names)


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
