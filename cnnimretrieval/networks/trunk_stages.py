"""The map inside a trunk at a given stride: which layer gives it, and how it is read while the trunk runs."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cnnimretrieval.networks.trunk import Trunk

# Height and width of a trial; maps of stride s differ in their sides by a difference that s divides.
_TRIED = (128, 192)
_MOST_DEPTH = 2
# Whether the running thread waits for a stage: descriptors are computed by several threads at a time.
_waiting = threading.local()


class Stage(NamedTuple):
    """A map inside a trunk: the layer that gives it ("" is the trunk itself), its channels and stride."""

    layer: str
    channels: int
    stride: int


class _Reached(Exception):
    """Ends a pass through a trunk at the stage that it was made for."""


def find_stage(trunk: Trunk, stride: int = 16) -> Stage:
    """The last map of `trunk` at `stride`: layer3 of a ResNet, conv5 of VGG.

    Of a transformer that is the map of its patches, where their side is at most `stride`. ValueError when
    there is none.
    """
    if getattr(trunk, "tokens", False) and trunk.stride <= stride:
        return Stage("", trunk.out_channels, trunk.stride)
    outer: dict[str, nn.Module] = dict(trunk.features.named_children())
    for depth in range(_MOST_DEPTH):
        found = _last_at(trunk, outer, stride)
        if found is not None:
            return Stage(f"features.{found[0]}", found[1], stride)
        if depth + 1 < _MOST_DEPTH:
            outer = {
                f"{name}.{inner}": layer
                for name, part in outer.items()
                for inner, layer in part.named_children()
            }
    raise ValueError(
        f"local: expected a backbone with a map at stride {stride}, got {trunk.name}, which has none; "
        "choose another backbone"
    )


def watch(trunk: Trunk, stage: Stage) -> None:
    """Let `run_to` read the stage of this trunk, and of copies of it."""
    layer = layer_of(trunk, stage)
    if layer is not None and _give not in layer._forward_hooks.values():
        layer.register_forward_hook(_give)


def layer_of(trunk: Trunk, stage: Stage) -> nn.Module | None:
    """The layer that gives the map of a stage, as `Trunk.above` runs it; None where it is the trunk itself.

    Of layers in a row that is the last one: they run one by one where the lowest of a trunk stay.
    """
    if not stage.layer:
        return None
    layer = trunk.get_submodule(stage.layer)
    while type(layer).forward is nn.Sequential.forward:
        *_, layer = layer.children()
    return layer


def run_to(trunk: Trunk, images: Float[Tensor, "b 3 h w"], stage: Stage) -> Float[Tensor, "b c h2 w2"]:
    """The map of a stage that is watched, with gradient; layers after it do not run."""
    return map_at(stage, lambda: trunk(images))


def map_at(stage: Stage, run: Callable[[], Tensor]) -> Float[Tensor, "b c h2 w2"]:
    """The map of a stage that is watched, when its trunk runs by `run`; layers after it do not."""
    if not stage.layer:
        return run()
    _waiting.asked = True
    try:
        run()
    except _Reached:
        pass
    finally:
        _waiting.asked = False
    found: Tensor = _waiting.__dict__.pop("found")
    return found


def _give(layer: nn.Module, inputs: Any, output: Any) -> None:
    if getattr(_waiting, "asked", False):
        _waiting.found = output
        raise _Reached


def _last_at(trunk: Trunk, layers: dict[str, nn.Module], stride: int) -> tuple[str, int] | None:
    """The last of the layers to run that gives a map at `stride`, and its channels."""
    last: list[tuple[str, int]] = []
    height, width = _TRIED

    def look(name: str, output: Any) -> None:
        if not isinstance(output, Tensor) or output.ndim != 4:
            return
        sides = (output.shape[2], output.shape[3])
        # By the difference of the sides: networks without padding lose some of the border of both.
        if sides[1] > sides[0] and (sides[1] - sides[0]) * stride == width - height:
            last.append((name, int(output.shape[1])))

    handles = [
        layer.register_forward_hook(lambda _, __, output, name=name: look(name, output))
        for name, layer in layers.items()
    ]
    try:
        with torch.inference_mode(), suppress(ValueError):  # what a trunk of one size says of another
            trunk(torch.zeros(1, 3, height, width))
    finally:
        for handle in handles:
            handle.remove()
    return last[-1] if last else None
