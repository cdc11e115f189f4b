"""What networks are given of each request: its picture, or what the layers that never change make of it.

Where the lowest layers of a network stay as they are, their activations are constants of a request. They are
made once, by one thread of each picture alone, and kept on disk: what they are does not depend on what is
kept, on other photos, workers or threads. Where no layer stays, the picture itself is kept.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import UInt8
from pydantic import Field
from torch import Tensor

from cnnimretrieval.descriptors.distort import Relit
from cnnimretrieval.descriptors.halves import KeptAs, Look, Parts, below, packed, unpacked
from cnnimretrieval.descriptors.images import PIXELS_VERSION, ImageRequest
from cnnimretrieval.descriptors.passes import in_threads
from cnnimretrieval.descriptors.reading import Loaded, read_each, read_one
from cnnimretrieval.descriptors.tensors import in_bucket
from cnnimretrieval.networks.network import RetrievalNetwork
from groundwork.digest import sha256_of
from groundwork.files import discard
from groundwork.kept_arrays import KeptArrays
from groundwork.keys import key_of
from groundwork.settings import Settings

TOO_SMALL = "too small for the network"


class KeepConfig(Settings):
    """What is kept of photos while a network is trained, so that nothing is read or computed twice.

    Kept are the activations of the layers that stay as they are (`loop.frozen_share`), or where there are
    none the photos at the size of training. How much is kept changes no result.
    """

    limit_gb: float = Field(
        default=16.0, ge=0, description="of disk that what is kept may take while training runs; 0 keeps none"
    )
    kept_as: KeptAs = Field(
        default="float32",
        description="activations; float16 takes half the disk, descriptors differ by about 2e-5",
    )

    def shared_by(self, ranks: int) -> "KeepConfig":
        """The settings of one of so many processes that keep theirs on the same disk."""
        return self.model_copy(update={"limit_gb": self.limit_gb / ranks})

    def without_limit(self) -> "KeepConfig":
        """The settings but for those that change no result."""
        return self.model_copy(update={"limit_gb": 1.0})


@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """What a network is given of one request, or why there is nothing; both texts as in `Loaded`."""

    parts: Parts = ()
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """Gives networks their inputs; what is kept is made once for all networks that share their lowest layers.

    Attributes:
        num_layers: of the trunk, the lowest ones, which never change.
        lowest: fingerprint of these layers.
        kept: what is kept; None: nothing is.
        kept_as: type of the numbers that are kept of activations in float32.

    """

    num_layers: int = 0
    lowest: str = ""
    kept: KeptArrays | None = None
    kept_as: KeptAs = "float32"
    _contents: dict[Path, tuple[int, int, str]] = field(default_factory=dict)

    def for_network(self, network: RetrievalNetwork) -> "Inputs":
        """These inputs, or plain pictures for a network that has other layers below."""
        return self if self.lowest == _fingerprint(network, self.num_layers) else Inputs()

    def each(
        self,
        network: RetrievalNetwork,
        requests: Sequence[ImageRequest],
        look: Look,
        *,
        device: str,
        workers: int,
    ) -> Iterator[Given]:
        """Yield what `network` is given of each request, in order, on the CPU.

        `workers` processes read ahead what is not kept. The network is in evaluation mode, on `device`.
        """
        names = [self._names(request, look, network.config.bucket_px) for request in requests]
        there = [bool(its) and all(self._has(name) for name in its) for its in names]
        missing = [request for request, kept in zip(requests, there, strict=True) if not kept]
        pictures = read_each(missing, look.image_size, workers=workers)
        jobs = (
            partial(self._given, network, request, its, None if kept else next(pictures), look, device)
            for request, its, kept in zip(requests, names, there, strict=True)
        )
        if self.num_layers and torch.device(device).type == "cpu":
            return in_threads(jobs)
        return (job() for job in jobs)

    def _has(self, name: str) -> bool:
        return self.kept is not None and name in self.kept

    def _given(
        self,
        network: RetrievalNetwork,
        request: ImageRequest,
        names: Sequence[str],
        loaded: Loaded | None,
        look: Look,
        device: str,
    ) -> Given:
        if loaded is None and self.kept is not None:
            found = [array for array in map(self.kept.get, names) if array is not None]
            if len(found) == len(names):
                return Given(parts=tuple(map(unpacked, found)))
        loaded = loaded or read_one(look.image_size, request)  # what was kept is damaged
        if loaded.levels is None:
            return Given(reason=loaded.reason, message=loaded.message)
        levels = torch.from_numpy(loaded.levels)
        if message := _too_small(network, levels, request.path):
            return Given(reason=TOO_SMALL, message=message)
        if self.num_layers == 0:
            arrays = [in_bucket(levels[None], network.config.bucket_px)[0].numpy()]
        else:
            made = below(network, self.num_layers, levels[None].to(device), look)
            arrays = [packed(part[0], self.kept_as) for part in made]
        if names and self.kept is not None:
            for name, array in zip(names, arrays, strict=True):
                self.kept.put(name, array)
        return Given(parts=tuple(map(unpacked, arrays)))

    def _names(self, request: ImageRequest, look: Look, bucket_px: int | None) -> list[str]:
        """Under which its parts are kept; none for a request that cannot be kept."""
        content = "" if self.kept is None else self._content(request.path)
        if not content or not (request.edit is None or isinstance(request.edit, Relit)):
            return []
        edit = None if request.edit is None else [request.edit.seed, request.edit.config]
        box = None if request.box is None else list(request.box)
        said = [content, look.image_size, box, request.rotation_deg, edit, request.as_photo]
        said += [] if bucket_px is None else [bucket_px]
        shown = [[scale, look.precision] for scale in look.scales] if self.num_layers else [[]]
        return [key_of(said, one) for one in shown]

    def _content(self, path: Path) -> str:
        """SHA-256 of a file, read again only if its size or time changed; nothing where there is no file."""
        try:
            facts = path.stat()
            known = self._contents.get(path)
            if known is None or known[:2] != (facts.st_size, facts.st_mtime_ns):
                known = self._contents[path] = (facts.st_size, facts.st_mtime_ns, sha256_of(path))
        except OSError:
            return ""
        return known[2]


def keep_inputs(
    folder: Path, network: RetrievalNetwork, num_layers: int, config: KeepConfig, *, device: str = "cpu"
) -> Inputs:
    """Inputs kept in `folder`, where networks of the same lowest layers find them; those of others go."""
    lowest = _fingerprint(network, num_layers)
    if config.limit_gb == 0.0:
        discard(folder)
        return Inputs(num_layers=num_layers, lowest=lowest, kept_as=config.kept_as)
    versions = [version("pillow")]
    computed = [config.kept_as, torch.device(device).type, version("torch")] if num_layers else []
    key = key_of(PIXELS_VERSION, lowest, versions, computed)
    name = f"{'activations' if num_layers else 'pictures'}-{key[:16]}"
    KeptArrays.remove_others(folder / name)
    kept = KeptArrays(folder / name, key, round(config.limit_gb * 1e9))
    return Inputs(num_layers=num_layers, lowest=lowest, kept=kept, kept_as=config.kept_as)


def _too_small(network: RetrievalNetwork, levels: UInt8[Tensor, "3 h w"], path: Path) -> str:
    """Why a picture is too small to describe, or nothing."""
    (height, width), trunk = levels.shape[1:], network.trunk
    if max(height, width) >= trunk.stride:
        return ""
    return (
        f"photo {path}: expected {trunk.stride} px, the stride of {trunk.name}, or more along a side, "
        f"got {width} x {height}; give a larger photo or box"
    )


def _fingerprint(network: RetrievalNetwork, num_layers: int) -> str:
    """Of all that decides what the lowest layers give; nothing for none."""
    if num_layers == 0:
        return ""
    trunk = network.trunk
    digest = hashlib.sha256(key_of(trunk.name, num_layers, list(trunk.mean), list(trunk.std)).encode())
    for layer in trunk.layers[:num_layers]:
        digest.update(repr(layer).encode())
        for value in layer.state_dict().values():
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
