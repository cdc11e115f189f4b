"""Small pictures of the photos served: each made once, by a child process, and kept on the disk."""

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.web import decoding
from experiments.web.collection import Served
from experiments.web.faults import RequestFault
from groundwork.child import Limits, WorkerDied, preload
from groundwork.executors import Guarded
from groundwork.files import atomic_path
from groundwork.photos import UnusablePhoto

logger = logging.getLogger(__name__)

THUMBNAIL_PX, PREVIEW_PX = 320, 1280
_LIMITS = Limits(seconds=60.0, memory_bytes=2_000_000_000)
# Estimated, for the largest photos that are opened at all.
_MEMORY_BYTES = 600_000_000

preload(decoding.__name__)


def apart(function: Callable[..., Any]) -> Guarded:
    """`function` as a task for a child process that may take so much and no more."""
    return Guarded(fn=function, memory_bytes=_MEMORY_BYTES, limits=_LIMITS)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """Makes pictures by `executor`, whose tasks are child processes, and keeps them in `cache`.

    A picture belongs to the content of its file, as size and time tell: one of a changed photo is made anew.
    """

    served: Served
    cache: Path
    executor: Executor
    _making: dict[str, asyncio.Task[bytes]] = field(default_factory=dict)

    async def jpeg(self, row: int, longest_px: int) -> bytes:
        """The picture of a row; RequestFault where there is no photo to make it of."""
        path = self.served.path(row)
        facts = path.stat()
        told = f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\0{longest_px}"
        key = hashlib.sha256(os.fsencode(told)).hexdigest()
        kept = self.cache / key[:2] / f"{key}.jpg"
        try:
            return kept.read_bytes()
        except OSError:
            pass
        # Whoever asks for the same picture meanwhile waits for the same child.
        making = self._making.get(key)
        if making is None:
            making = asyncio.create_task(self._make(path, longest_px, kept))
            self._making[key] = making
            making.add_done_callback(lambda _: self._making.pop(key, None))
        return await asyncio.shield(making)

    async def size(self, row: int) -> tuple[int, int]:
        """Width and height of the upright photo; only its head is read."""
        path = self.served.path(row)
        return await self._run(apart(decoding.photo_size), path)  # type: ignore[no-any-return]

    async def _make(self, path: Path, longest_px: int, kept: Path) -> bytes:
        made: bytes = await self._run(apart(decoding.small_jpeg), path, longest_px)
        try:
            with atomic_path(kept) as unfinished:
                unfinished.write_bytes(made)
        except OSError as error:
            logger.warning("%s: picture not kept (%s)", kept, error.strerror)
        return made

    async def _run(self, task: Guarded, *arguments: Any) -> Any:
        try:
            return await asyncio.wrap_future(self.executor.submit(task, *arguments))
        except (UnusablePhoto, OSError, WorkerDied, MemoryError) as error:
            raise RequestFault(
                "photo", f"photo: expected one that can be read, got '{error}'", 404
            ) from error
