"""Many photos described part by part: what is done stays when the rest is interrupted, and may be shared out.

Parts are done one after the other here, by the ranks that `torchrun` started, each its share, or as tasks of
an executor.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from cnnimretrieval.descriptors.extract import Described, ExtractConfig, Failure, describe
from cnnimretrieval.descriptors.images import PIXELS_VERSION, ImageRequest
from cnnimretrieval.distributed import num_on_call, num_ranks, on_all, rank, wait
from cnnimretrieval.networks.model_folder import read_folder, save
from cnnimretrieval.networks.network import RetrievalNetwork
from groundwork.arrays import starts_of
from groundwork.batches import CHILD_BYTES, Batch
from groundwork.files import atomic_path, create_array, discard, size_and_time
from groundwork.keys import key_of
from groundwork.records import read_done
from groundwork.rescue import perform
from groundwork.tasks import run_batches

_FOLDER, _NETWORK = "parts", "network"
# Photos of a part: about a minute of a CPU, half a minute of a GPU, where each part starts readers anew. Of a
# task less, so that a cluster has enough of them: reading the network takes a second or two.
_PHOTOS = {"cpu": 1024, "gpu": 16384, "task": 256}
# Of torch in a child; and of a network at work, a pixel of the longest side squared.
_TORCH_BYTES, _PIXEL_BYTES = 300_000_000, 600

_Photos = Batch[ImageRequest]
# Of a part that is done, with its file.
_Facts = tuple[dict[str, Any], Sequence[Path]]


def describe_in_parts(
    network: RetrievalNetwork,
    requests: Sequence[ImageRequest],
    config: ExtractConfig,
    out: Path,
    *,
    device: str = "cpu",
    workers: int = 0,
    executor: Executor | None = None,
) -> Described:
    """As `describe` to the file `out`, and on a CPU the same bytes.

    A call that was interrupted goes on with the part it was at, kept beside `out` until all are done. With
    `executor` each part is a task of it, in one thread; it and all ranks must see the folder of `out`.
    """
    size = _photos_a_part(len(requests), device, tasks=executor is not None)
    if executor is None and size >= len(requests):
        return describe(network, requests, config, device=device, workers=workers, out=out)
    folder, fingerprint = out.with_name(_FOLDER), network.fingerprint()
    made_by = key_of(PIXELS_VERSION, fingerprint, config, torch.device(device).type)
    parts = _parts(requests, size, made_by, _memory_bytes(network, config))
    described = partial(_describe_part, folder=folder, config=config)
    if executor is not None:
        save(network, folder / _NETWORK)
        task = partial(_describe_in_task, described, folder / _NETWORK, fingerprint, device)
        run_batches(task, parts, folder, executor, label="describe")
    elif num_on_call() > 1:
        save(network, folder / _NETWORK)
        on_all(partial(_describe_share, described, folder / _NETWORK, parts, folder, workers), device)
    else:
        _describe_share(described, network, parts, folder, workers, device=device)
    return _joined(parts, folder, network.dim, out)


def _photos_a_part(num_photos: int, device: str, *, tasks: bool) -> int:
    """At most: none is too large to be lost, and each rank has as many parts."""
    kind = "task" if tasks else "cpu" if torch.device(device).type == "cpu" else "gpu"
    rounds = max(1, ceil(num_photos / (_PHOTOS[kind] * num_on_call())))
    return max(1, ceil(num_photos / (rounds * num_on_call())))


def _memory_bytes(network: RetrievalNetwork, config: ExtractConfig) -> int:
    """Peak of a task: torch, the network as it is read, and one photo."""
    weights: int = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    return CHILD_BYTES + _TORCH_BYTES + 2 * weights + _PIXEL_BYTES * config.image_size**2


def _parts(requests: Sequence[ImageRequest], size: int, made_by: str, memory_bytes: int) -> list[_Photos]:
    """The requests in parts of `size`; `made_by` is the key of what describes them."""
    parts: list[_Photos] = []
    for start in range(0, max(1, len(requests)), size):
        items = tuple(requests[start : start + size])
        facts = [[str(one.path), *size_and_time(one.path), list(one.box or ())] for one in items]
        name, key = f"part-{len(parts):05d}", key_of(made_by, facts)
        parts.append(Batch(name=name, key=key, items=items, memory_bytes=memory_bytes))
    return parts


def _describe_share(
    described: "partial[_Facts]",
    network: RetrievalNetwork | Path,
    parts: Sequence[_Photos],
    folder: Path,
    workers: int,
    *,
    device: str,
) -> None:
    """Do the parts of this rank, with a network or that of a folder, and wait for the others."""
    ready = read_folder(network) if isinstance(network, Path) else network
    for number in range(rank(), len(parts), num_ranks()):
        desc = f"describe, part {number + 1} of {len(parts)}"
        work = partial(described, network=ready, device=device, workers=workers, desc=desc)
        perform(work, folder, {}, 0, parts[number])
    wait()


def _describe_in_task(
    described: "partial[_Facts]", network: Path, fingerprint: str, device: str, batch: _Photos
) -> _Facts:
    """A part with the network of a folder, by one thread, whatever the process does afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return described(batch, network=_read_once(network, fingerprint), device=device, workers=0)
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def _read_once(folder: Path, fingerprint: str) -> RetrievalNetwork:
    """The network of a folder, kept by a process that has several tasks of it.

    Of its fingerprint: the same folder holds another network once others describe into it.
    """
    return read_folder(folder)


def _describe_part(
    batch: _Photos,
    *,
    folder: Path,
    config: ExtractConfig,
    network: RetrievalNetwork,
    device: str,
    workers: int,
    desc: str = "describe",
) -> _Facts:
    """The descriptors of one part as a file; what gave none among the facts."""
    path = folder / f"{batch.name}.npy"
    found = describe(network, batch.items, config, device=device, workers=workers, out=path, desc=desc)
    failures = [[one.position, one.reason, one.message] for one in found.failures]
    return {"positions": found.positions.tolist(), "failures": failures}, [path]


def _joined(parts: Sequence[_Photos], folder: Path, dim: int, out: Path) -> Described:
    """The descriptors of all parts in one file, in their order; the parts are removed."""
    found = [_Found.read(part, folder) for part in parts]
    firsts = starts_of([part.items for part in parts])[:-1].tolist()
    with atomic_path(out) as unfinished:
        vectors = create_array(unfinished, (sum(len(one.positions) for one in found), dim), np.float32)
        row = 0
        for part, one in zip(parts, found, strict=True):
            vectors[row : row + len(one.positions)] = np.load(folder / f"{part.name}.npy", mmap_mode="r")
            row += len(one.positions)
        vectors.flush()
    discard(folder)
    return Described(
        vectors=np.load(out, mmap_mode="r"),
        positions=np.concatenate([first + one.positions for first, one in zip(firsts, found, strict=True)]),
        failures=tuple(
            replace(failure, position=first + failure.position)
            for first, one in zip(firsts, found, strict=True)
            for failure in one.failures
        ),
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """What came of a part: the positions in it that have a descriptor, and why others have none."""

    positions: Int[np.ndarray, " n"]
    failures: tuple[Failure, ...]

    @classmethod
    def read(cls, part: _Photos, folder: Path) -> "_Found":
        """What the record of a part that is done says."""
        record = read_done(folder, part.name, remedy="extract again")
        assert record is not None
        told, killers = record.facts["facts"], record.facts["quarantined"]
        # A photo that kills its worker was left out of what the others were counted among.
        alive = np.delete(np.arange(len(part.items)), [int(position) for position in killers])
        why = [(int(alive[position]), reason, message) for position, reason, message in told["failures"]]
        for position, reason in killers.items():
            path = part.items[int(position)].path
            why.append((int(position), reason, f"photo {path}: {reason}"))
        failures = tuple(
            Failure(position=position, path=part.items[position].path, reason=reason, message=message)
            for position, reason, message in sorted(why)
        )
        return cls(alive[np.array(told["positions"], np.int64)], failures)
