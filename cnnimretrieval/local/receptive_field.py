"""What part of an image a place of a map has seen: computed from the layers that the image went through.

Every layer is followed as it runs, however the network is written: a convolution or pooling of kernel k,
stride s, padding p and dilation d makes of a field (first pixel f, side r, stride j)

    f - p j,   r + (k - 1) d j,   j s        along each axis

and a sum or concatenation the least interval that holds the fields of all its parts. What has been averaged
over the whole image (the gates of squeeze-and-excitation) scales channels and says nothing of places: it is
left out. So is attention between the patches of a transformer: a patch stands for itself.
"""

from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from cnnimretrieval.networks.network import RetrievalNetwork

# Sides of a trial image, in strides of the map.
_TRIED = 10
_SPATIAL = ({2, 3}, {-2, -1})


class AxisField(NamedTuple):
    """Along one axis: place i has seen the pixels start + i stride to start + i stride + size - 1."""

    start: int
    size: int
    stride: int


@dataclass(frozen=True, kw_only=True)
class ReceptiveField:
    """What the places of a map have seen of the image that went into the network."""

    x: AxisField
    y: AxisField

    def centres(self, height: int, width: int) -> Float[np.ndarray, "n 2"]:
        """Centres x, y of a map's places, row by row, in pixels of the image, pixel centres at .5."""
        x, y = (
            field.start + 0.5 * field.size + field.stride * np.arange(count, dtype=np.float64)
            for field, count in ((self.x, width), (self.y, height))
        )
        return np.stack([np.tile(x, height), np.repeat(y, width)], axis=1)

    def boxes(self, height: int, width: int) -> Float[np.ndarray, "n 4"]:
        """Edges x1, y1, x2, y2 of the same; they may lie outside of the image."""
        half = 0.5 * np.array([self.x.size, self.y.size])
        centres = self.centres(height, width)
        return np.concatenate([centres - half, centres + half], axis=1)


class FieldFinder:
    """The receptive field of the local descriptors of a network, for images of any size.

    It depends on the size where a network pads by it, as those ported from TensorFlow do: more at the right
    and below than at the left and above. Which field an axis has depends on the rest of its side by the
    stride alone. ValueError when the network has no local head.
    """

    def __init__(self, network: RetrievalNetwork) -> None:
        self._stride = network.require_local()[0].stride
        self._network = network
        self._lock = Lock()
        self._of_rest: dict[int, tuple[ReceptiveField, bool]] = {}

    def of(self, height: int, width: int) -> ReceptiveField:
        """The field of places of the map of an image of this size."""
        field, depends_on_size = self._trace(0)
        if not depends_on_size:
            return field
        return ReceptiveField(
            y=self._trace(height % self._stride)[0].y, x=self._trace(width % self._stride)[0].x
        )

    def _trace(self, rest: int) -> tuple[ReceptiveField, bool]:
        """The field for a square image whose sides leave this rest, and whether it was padded for."""
        # One at a time: photos are described by several threads, and tracing changes how torch runs.
        with self._lock:
            if rest not in self._of_rest:
                side = _TRIED * self._stride + rest
                weight = next(self._network.trunk.parameters())
                images = torch.zeros(1, 3, side, side, dtype=weight.dtype, device=weight.device)
                graph = make_fx(lambda x: self._network.local_maps(x).descriptors)(images)
                self._of_rest[rest] = _follow(graph.graph)
            return self._of_rest[rest]


def _follow(graph: fx.Graph) -> tuple[ReceptiveField, bool]:
    fields: dict[fx.Node, ReceptiveField | None] = {}
    padded = False
    for node in graph.nodes:
        if node.op == "placeholder":
            pixel = AxisField(0, 1, 1)
            fields[node] = ReceptiveField(x=pixel, y=pixel)
        elif node.op == "call_function":
            padded |= node.target is torch.ops.aten.constant_pad_nd.default
            fields[node] = _field_after(node, fields)
        elif node.op == "output":
            found = fields[node.args[0]]
            assert found is not None, "the map is one of places"
            return found, padded
    raise AssertionError("a graph has an output")


def _field_after(node: fx.Node, fields: dict[fx.Node, ReceptiveField | None]) -> ReceptiveField | None:
    """The field of what an operation gives; None where it depends on no place."""
    before = fields.get(node.all_input_nodes[0]) if node.all_input_nodes else None
    name = node.target.overloadpacket.__name__ if hasattr(node.target, "overloadpacket") else ""
    if before is not None and name in _WINDOWS:
        return _through_window(before, _WINDOWS[name](node.args))
    if before is not None and name == "constant_pad_nd":
        left, _, top, _ = (*_integers(node.args[1]), 0, 0)[:4]
        return _moved(before, y=-top * before.y.stride, x=-left * before.x.stride)
    if _over_the_whole(node, name):
        return None
    parts = [fields[part] for part in node.all_input_nodes if part in fields]
    return _union([part for part in parts if part is not None])


class _Window(NamedTuple):
    """Kernel, stride, padding, dilation of a layer: y, then x."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


def _convolution(args: tuple[Any, ...]) -> _Window:
    _, weight, _, stride, padding, dilation, transposed, *_ = args
    assert not transposed, "a trunk makes its maps smaller"
    kernel = weight.meta["val"].shape[2:] if isinstance(weight, fx.Node) else weight.shape[2:]
    return _Window(_two(kernel), _two(stride), _two(padding), _two(dilation))


def _pooling(args: tuple[Any, ...]) -> _Window:
    values: list[Any] = [*args[1:5], *([], 0, 1)[len(args) - 2 :]]
    kernel, stride, padding, dilation = values
    return _Window(_two(kernel), _two(stride or kernel), _two(padding), _two(dilation))


def _averaging(args: tuple[Any, ...]) -> _Window:
    return _pooling(args[:4])


_WINDOWS = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _pooling,
    "avg_pool2d": _averaging,
}


def _integers(values: Any) -> list[int]:
    return [int(value) for value in values]


def _two(values: Any) -> tuple[int, int]:
    if isinstance(values, int):
        return values, values
    first, *rest = _integers(values)
    return first, rest[0] if rest else first


def _through_window(field: ReceptiveField, window: _Window) -> ReceptiveField:
    axes = [
        AxisField(
            before.start - padding * before.stride,
            before.size + (kernel - 1) * dilation * before.stride,
            before.stride * stride,
        )
        for before, kernel, stride, padding, dilation in zip((field.y, field.x), *window, strict=True)
    ]
    return ReceptiveField(y=axes[0], x=axes[1])


def _moved(field: ReceptiveField, *, y: int, x: int) -> ReceptiveField:
    return ReceptiveField(
        y=field.y._replace(start=field.y.start + y), x=field.x._replace(start=field.x.start + x)
    )


def _over_the_whole(node: fx.Node, name: str) -> bool:
    """Whether an operation leaves one place of all."""
    if name == "mean" and len(node.args) > 1:
        return set(node.args[1]) in _SPATIAL  # type: ignore[arg-type]
    return name in ("_adaptive_avg_pool2d", "adaptive_avg_pool2d")


def _union(fields: list[ReceptiveField]) -> ReceptiveField | None:
    if not fields:
        return None
    return ReceptiveField(y=_hull([field.y for field in fields]), x=_hull([field.x for field in fields]))


def _hull(fields: list[AxisField]) -> AxisField:
    strides = {field.stride for field in fields}
    assert len(strides) == 1, "maps of one stride are put together"
    start = min(field.start for field in fields)
    stop = max(field.start + field.size for field in fields)
    return AxisField(start, stop - start, strides.pop())
