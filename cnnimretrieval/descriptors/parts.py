"""Many photos described part by part: what is done stays when the rest is interrupted, and may be shared out.

Parts are done one after the other here, by the ranks that `torchrun` started, each its share, or as tasks of
an executor.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cache, partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from cnnimretrieval.descriptors.extract import Described, ExtractConfig, Failure, describe
from cnnimretrieval.descriptors.images import ImageRequest
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

_VERSION = 1
_FOLDER, _NETWORK = "parts", "network"
# Photos of a part: about a minute of a CPU, half a minute of a GPU, where each part starts readers anew. Of a
# task less, so that a cluster has enough of them: reading the network takes a second or two.
_PHOTOS = {"cpu": 1024, "gpu": 16384, "task": 256}
# Of torch in a child; and of a network at work, a pixel of the longest side squared.
_TORCH_BYTES, _PIXEL_BYTES = 300_000_000, 600

_Photos = Batch[ImageRequest]


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
    parts = _parts(network, requests, config, device, tasks=executor is not None)
    if len(parts) == 1 and executor is None:
        return describe(network, requests, config, device=device, workers=workers, out=out)
    folder = out.with_name(_FOLDER)
    here = executor is None and num_on_call() == 1
    if not here:
        save(network, folder / _NETWORK)
    described = partial(
        _describe_part, folder=folder, config=config, network=network if here else folder / _NETWORK
    )
    if executor is None:
        on_all(partial(_describe_share, partial(described, workers=workers), parts, folder), device)
    else:
        task = partial(described, device=device, workers=0, threads=1)
        run_batches(task, parts, folder, executor, label="describe")
    return _joined(parts, folder, network.dim, out)


def _parts(
    network: RetrievalNetwork,
    requests: Sequence[ImageRequest],
    config: ExtractConfig,
    device: str,
    *,
    tasks: bool,
) -> list[_Photos]:
    """The requests in parts: as many for each rank, and none too large to be lost or held in memory."""
    kind = torch.device(device).type
    most = _PHOTOS["task" if tasks else "cpu" if kind == "cpu" else "gpu"]
    rounds = max(1, ceil(len(requests) / (most * num_on_call())))
    size = max(1, ceil(len(requests) / (rounds * num_on_call())))
    made_by = key_of(_VERSION, network.fingerprint(), config, kind)
    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    memory_bytes = CHILD_BYTES + _TORCH_BYTES + 2 * weights + _PIXEL_BYTES * config.image_size**2
    parts: list[_Photos] = []
    for start in range(0, max(1, len(requests)), size):
        items = tuple(requests[start : start + size])
        facts = [[str(one.path), *size_and_time(one.path), list(one.box or ())] for one in items]
        name = f"part-{len(parts):05d}"
        key = key_of(made_by, facts)
        parts.append(Batch(name=name, key=key, items=items, memory_bytes=memory_bytes))
    return parts


def _describe_share(
    described: "partial[tuple[dict[str, Any], Sequence[Path]]]",
    parts: Sequence[_Photos],
    folder: Path,
    *,
    device: str,
) -> None:
    """Do the parts of this rank, and wait for the others."""
    for number in range(rank(), len(parts), num_ranks()):
        desc = f"describe, part {number + 1} of {len(parts)}"
        perform(partial(described, device=device, desc=desc), folder, {}, 0, parts[number])
    wait()


def _describe_part(
    batch: _Photos,
    *,
    folder: Path,
    config: ExtractConfig,
    network: RetrievalNetwork | Path,
    device: str,
    workers: int,
    threads: int | None = None,
    desc: str = "describe",
) -> tuple[dict[str, Any], Sequence[Path]]:
    """The descriptors of one part as a file; what gave none among the facts."""
    if threads is not None:
        torch.set_num_threads(threads)
    ready = _read_once(network) if isinstance(network, Path) else network
    path = folder / f"{batch.name}.npy"
    found = describe(ready, batch.items, config, device=device, workers=workers, out=path, desc=desc)
    failures = [[one.position, one.reason, one.message] for one in found.failures]
    return {"positions": found.positions.tolist(), "failures": failures}, [path]


@cache
def _read_once(folder: Path) -> RetrievalNetwork:
    return read_folder(folder)


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
