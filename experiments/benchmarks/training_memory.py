"""Memory that a step of training needs, by accounting: every tensor that is alive, at each operation.

One tuple of the published protocol: forward, gradient of the descriptors, way back, Adam. Nothing is computed
(torch's fake tensors have shapes only), so any size can be counted anywhere. Counted are weights,
gradients, the two means of Adam, activations and what backward makes on its way; not what libraries take for
themselves (cuDNN's workspace, the allocator's gaps). `--check` counts a small step that
is computed, too: both must agree. Goal: below 11 GB with recomputation or in parts.
"""

import argparse
import sys
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork, build
from cnnimretrieval.training.losses.registry import contrastive
from experiments.benchmarks.measuring.measure import Claim, conclude, print_table

_LIMIT_GB = 11.0
_MARGIN = 0.85


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operations in its block make, while they live; `peak` of them."""

    def __init__(self, held: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = held
        self.peak: int = held
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and see what it made."""
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._see, made)
        return made

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        known, size = storage._cdata, storage.nbytes()
        if known in self._seen:
            return
        self._seen.add(known)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, known, size)

    def _gone(self, known: int, size: int) -> None:
        self._seen.discard(known)
        self.now -= size


def peak_of_step(network: RetrievalNetwork, images: Tensor, *, at_once: int | None, recompute: bool) -> int:
    """Bytes at the peak of a step on a tuple of images, as `training.gradients` takes it on a GPU."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=1e-6)
    held = sum(value.nbytes for value in (*network.parameters(), *network.buffers())) + images.nbytes
    live = LiveBytes(held)
    with live:
        starts = range(0, len(images), at_once or len(images))
        parts = [images[start : start + (at_once or len(images))] for start in starts]
        with torch.set_grad_enabled(len(parts) == 1):
            made = [_described(network, part, recompute) for part in parts]
        descriptors = torch.cat(made).detach().float().requires_grad_()
        contrastive(descriptors[None], _MARGIN).sum().backward()  # type: ignore[no-untyped-call]
        gradient = descriptors.grad
        assert gradient is not None
        for number, part in enumerate(parts):
            rows = torch.narrow(gradient, 0, number * len(parts[0]), len(part))
            if len(parts) > 1:
                made = [_described(network, part, recompute)]
            found = torch.autograd.grad(made.pop(), weights, rows, allow_unused=True)
            for weight, one in zip(weights, found, strict=True):
                if one is not None:
                    weight.grad = one if weight.grad is None else weight.grad.add_(one)
            del found
        optimizer.step()
    return live.peak


def _described(network: RetrievalNetwork, images: Tensor, recompute: bool) -> Tensor:
    return network.of_activations(network.trunk.above(images, 0, recompute=recompute))


def count(
    backbone: str, side: int, size: int, *, computed: bool, at_once: int | None, recompute: bool
) -> int:
    """The same for `size` square images; unless it is `computed`, tensors have shapes and no content."""
    with nullcontext() if computed else FakeTensorMode():
        network = build(NetworkConfig(backbone=backbone), "random")
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(size, 3, side, side, generator=generator if computed else None)
        return peak_of_step(network, images, at_once=at_once, recompute=recompute)


_WAYS: dict[str, tuple[int | None, bool]] = {
    "a tuple together": (None, False),
    "a tuple together, recomputed": (None, True),
    "2 pictures at once": (2, False),
    "1 picture at once": (1, False),
    "1 picture at once, recomputed": (1, True),
}


def main(words: Sequence[str] | None = None) -> int:
    """Count, print, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet101")
    parser.add_argument("--side", type=int, default=1024, help="of the square pictures, in px")
    parser.add_argument("--size", type=int, default=7, help="pictures of the tuple")
    parser.add_argument("--check", action="store_true", help="also count a small step where it is computed")
    given = parser.parse_args(words)
    rows, claims = [], []
    for name, (at_once, recompute) in _WAYS.items():
        peak = count(
            given.backbone, given.side, given.size, computed=False, at_once=at_once, recompute=recompute
        )
        rows.append((name, f"{peak / 1e9:.2f}"))
        if recompute or at_once:
            claims.append(_below(f"{name}: GB", peak / 1e9, _LIMIT_GB))
    print_table(("way", "GB at the peak"), rows)
    if given.check:
        claims += [_checked(name, *way) for name, way in _WAYS.items()]
    return conclude(claims)


def _checked(name: str, at_once: int | None, recompute: bool) -> Claim:
    counted, computed = (
        count("resnet18", 96, 3, computed=computed, at_once=at_once, recompute=recompute)
        for computed in (False, True)
    )
    return _below(f"{name}: of a small step, computed over counted", computed / counted, 1.01)


def _below(what: str, measured: float, limit: float) -> Claim:
    return Claim(what=what, measured=measured, limit=limit, at_least=False)


if __name__ == "__main__":
    sys.exit(main())
