"""Checkpoints of the reference toolbox, filipradenovic/cnnimageretrieval-pytorch at 1e66a41: read and write.

A checkpoint holds `meta` (architecture, pooling, ...), a `state_dict` and, published ones, the whitenings
meta["Lw"][data set]["ss" | "ms"] = {m, P} for descriptors of one and of several scales. Whitenings that the
toolbox learned itself lie beside the checkpoint as NETWORK_{data set}_whiten[_ms].pth.
"""

import math
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnimretrieval.networks.backbones import BACKBONES
from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork, Rgb, build
from cnnimretrieval.networks.pooling import POOLINGS
from cnnimretrieval.networks.tensor_files import (
    named_tensors,
    plain_names,
    read_pickle,
    unreadable,
    weights_within,
)
from cnnimretrieval.networks.weights import fitting
from cnnimretrieval.whitening.apply import Whitening
from groundwork.files import atomic_path

# The architectures that the toolbox can build; ours may be written for these.
ARCHITECTURES = (
    "alexnet", "vgg11", "vgg13", "vgg16", "vgg19", "resnet18", "resnet34", "resnet50", "resnet101",
    "resnet152", "densenet121", "densenet161", "densenet169", "densenet201", "squeezenet1_0", "squeezenet1_1",
)  # fmt: skip

_ONE_SCALE, _SEVERAL_SCALES = "ss", "ms"
# What published scores are computed with, where a checkpoint has whitenings from more than one data set.
_PREFERRED = "retrieval-SfM-120k"
_REMEDY = "give a checkpoint of cnnimageretrieval-pytorch, or another MODEL"

# Parts of a network by the beginning of their names: ours and the toolbox's, the longer ones first.
_NAMES = (
    ("trunk.features.", "features."),
    ("local_whitening.", "lwhiten."),
    ("pool.whitening.", "pool.whiten."),
    ("pool.pool.", "pool.rpool."),
    ("projection.", "whiten."),
)


def read_reference(path: Path, data_set: str | None = None) -> RetrievalNetwork:
    """The network in a checkpoint (.pth, .pth.tar), for evaluation, with its whitenings.

    `data_set` says which of its whitenings, if it brings some of several data sets. Nothing in the file is
    executed. ValueError when it holds no network that can be built here, FileNotFoundError when there is no
    such file; both name the file, what is wrong and what to do.
    """
    what, content = f"network {path}", _load(path)
    inside = weights_within(content)
    there = {"meta": isinstance(content.get("meta"), Mapping), "state_dict": inside is not content}
    for key, is_there in there.items():
        if not is_there:
            found = ", ".join(map(str, list(content)[:3])) or "nothing"
            raise ValueError(f"{what}: expected {key!r} in a checkpoint, got {found}; {_REMEDY}")
    meta = content["meta"]
    state = plain_names(named_tensors(inside, what=what, remedy=_REMEDY), what=what, remedy=_REMEDY)
    network = build(_config(path, meta, state), "random")
    own_state = {_renamed(key, to_ours=True): value for key, value in state.items()}
    named = f"{meta['architecture']}:{meta['pooling']}"
    network.load_state_dict(fitting(own_state, network, what=what, of=named, remedy=_REMEDY))
    whitenings = _whitenings_beside(path) | _whitenings_within(path, meta)
    chosen = _chosen(path, whitenings, data_set)
    network.whitening = chosen.get(_ONE_SCALE)
    network.multi_scale_whitening = chosen.get(_SEVERAL_SCALES)
    for whitening in chosen.values():
        if len(whitening.mean) != network.dim:
            raise ValueError(
                f"network {path}: expected whitenings of {network.dim}-D descriptors, got one of "
                f"{len(whitening.mean)}-D ones ({whitening.note}); {_REMEDY}"
            )
    return network


def read_reference_whitening(path: Path) -> Whitening:
    """The whitening in a file of the toolbox, {m, P}; ValueError or FileNotFoundError when it holds none."""
    return _whitening(path, _load(path), path.name)


def save_reference(network: RetrievalNetwork, path: Path, data_set: str = "cnnimretrieval") -> None:
    """Write `network` as a checkpoint that the toolbox reads, its whitenings as those of `data_set`.

    ValueError when the toolbox cannot build such a network: it knows `ARCHITECTURES` only, always whitens
    regions, and no layer of its own reduces dimensions.
    """
    config = network.config
    _check_known_there(network)
    by_scales = {_ONE_SCALE: network.whitening, _SEVERAL_SCALES: network.multi_scale_whitening}
    learned = {
        scales: {"m": whitening.mean[:, None], "P": whitening.projection}
        for scales, whitening in by_scales.items()
        if whitening is not None
    }
    meta = {
        "architecture": config.backbone,
        "local_whitening": config.local_whitening,
        "pooling": config.pooling,
        "regional": config.regional,
        "whitening": config.projection is not None,
        "mean": list(network.trunk.mean),
        "std": list(network.trunk.std),
        "outputdim": network.dim,
        **({"Lw": {data_set: learned}} if learned else {}),
    }
    state = {
        _renamed(key, to_ours=False): value.detach().cpu().contiguous()
        for key, value in network.state_dict().items()
    }
    with atomic_path(path) as unfinished:
        torch.save({"meta": meta, "state_dict": state}, unfinished)


def _load(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"network: expected a checkpoint, got {path}, which is none; check the path")
    try:
        content = read_pickle(path)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"network {path}: expected a checkpoint, got {unreadable(error)}; {_REMEDY}"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"network {path}: expected a checkpoint, got a {type(content).__name__}; {_REMEDY}")
    return content


def _config(path: Path, meta: Mapping[str, Any], state: Mapping[str, Tensor]) -> NetworkConfig:
    _check_meta(path, meta)
    mean, std = (_colours(path, meta, key) for key in ("mean", "std"))
    end = state.get("whiten.weight")
    if bool(meta.get("whitening", False)) != (end is not None):
        raise ValueError(
            f"network {path}: expected 'whiten.weight' if and only if meta['whitening'], got "
            f"{meta.get('whitening', False)} and {'one' if end is not None else 'none'}; {_REMEDY}"
        )
    try:
        return NetworkConfig(
            backbone=meta["architecture"],
            pooling=meta["pooling"],
            local_whitening=bool(meta.get("local_whitening", False)),
            regional=bool(meta.get("regional", False)),
            region_whitening=bool(meta.get("regional", False)) and "pool.whiten.weight" in state,
            projection=None if end is None else len(end),
            mean=mean,
            std=std,
        )
    except ValueError as error:
        problem = str(error).splitlines()[2].strip()
        raise ValueError(
            f"network {path}: expected a network that can be built, got {problem}; {_REMEDY}"
        ) from error


def _colours(path: Path, meta: Mapping[str, Any], key: str) -> Rgb | None:
    """The mean or std of RGB, None where the checkpoint has none."""
    values = meta.get(key)
    if values is None:
        return None
    numbers = isinstance(values, list | tuple) and all(isinstance(value, int | float) for value in values)
    least = 0.0 if key == "std" else -math.inf
    if not numbers or len(values) != 3 or not all(least < value < math.inf for value in values):
        what = "three numbers above 0" if key == "std" else "three numbers"
        raise ValueError(f"network {path}: expected {what} as meta[{key!r}], got {values!r}; {_REMEDY}")
    red, green, blue = map(float, values)
    return red, green, blue


def _check_meta(path: Path, meta: Mapping[str, Any]) -> None:
    for key, known in (("architecture", BACKBONES), ("pooling", POOLINGS)):
        if key not in meta:
            raise ValueError(f"network {path}: expected {key!r} in meta, got none; {_REMEDY}")
        if meta[key] not in known:
            choice = ", ".join(ARCHITECTURES if key == "architecture" else known)
            raise ValueError(f"network {path}: expected as {key} {choice}, got {meta[key]!r}; {_REMEDY}")


def _check_known_there(network: RetrievalNetwork) -> None:
    config, wrong = network.config, None
    if config.backbone not in ARCHITECTURES:
        wrong = f"a backbone that the toolbox has ({', '.join(ARCHITECTURES)}), got {config.backbone}"
    elif config.regional and not config.region_whitening:
        wrong = "regions with a whitening, got regions without one"
    elif config.projection not in (None, network.trunk.out_channels):
        wrong = f"a projection that keeps {network.trunk.out_channels} dimensions, got {config.projection}"
    if wrong is not None:
        raise ValueError(f"network to write for the toolbox: expected {wrong}; keep it in our own format")


def _renamed(key: str, *, to_ours: bool) -> str:
    for ours, theirs in _NAMES:
        old, new = (theirs, ours) if to_ours else (ours, theirs)
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def _whitenings_within(path: Path, meta: Mapping[str, Any]) -> dict[tuple[str, str], Whitening]:
    learned = meta.get("Lw", {})
    for name, one in (("meta['Lw']", learned), *_items_of(learned)):
        if not isinstance(one, Mapping):
            raise ValueError(
                f"network {path}: expected whitenings by data set and scales as {name}, got "
                f"{type(one).__name__}; {_REMEDY}"
            )
    return {
        (data_set, scales): _whitening(path, content, f"{path.name}, {data_set}, {scales}")
        for data_set, by_scales in learned.items()
        for scales, content in by_scales.items()
    }


def _items_of(learned: Any) -> list[tuple[str, Any]]:
    if not isinstance(learned, Mapping):
        return []
    return [(f"meta['Lw'][{data_set!r}]", by_scales) for data_set, by_scales in learned.items()]


def _whitenings_beside(path: Path) -> dict[tuple[str, str], Whitening]:
    pattern = re.compile(re.escape(path.name) + r"_(.+)_whiten(_ms)?\.pth")
    found = {}
    for file in sorted(path.parent.iterdir()):
        match = pattern.fullmatch(file.name)
        if match is not None:
            scales = _SEVERAL_SCALES if match[2] else _ONE_SCALE
            found[match[1], scales] = read_reference_whitening(file)
    return found


def _chosen(
    path: Path, whitenings: Mapping[tuple[str, str], Whitening], data_set: str | None
) -> dict[str, Whitening]:
    """The whitenings of one data set by their scales: the one asked for, else the preferred or first one."""
    data_sets = sorted({name for name, _ in whitenings}, key=lambda name: (name != _PREFERRED, name))
    if data_set is not None and data_set not in data_sets:
        raise ValueError(
            f"network {path}: expected a whitening from {data_set}, got those from "
            f"{', '.join(data_sets) or 'no data set'}; choose one of them"
        )
    wanted = data_set or next(iter(data_sets), None)
    return {scales: found for (name, scales), found in whitenings.items() if name == wanted}


def _whitening(path: Path, content: Any, origin: str) -> Whitening:
    try:
        if not isinstance(content, Mapping):
            raise TypeError(f"a {type(content).__name__}")
        mean, projection = (np.asarray(content[key]) for key in ("m", "P"))
        if np.iscomplexobj(mean) or np.iscomplexobj(projection):
            raise ValueError("complex numbers, of pairs too few for it")
        return Whitening(
            mean=mean.astype(np.float64).ravel(),
            projection=np.ascontiguousarray(projection, np.float64),
            kind="learned",
            note=origin,
        )
    except (LookupError, TypeError, ValueError) as error:
        problem = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"network {path}: expected a whitening {{m, P}} in {origin}, got {problem}; learn it again"
        ) from error
