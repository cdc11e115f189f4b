"""Searches that wait while another is at work go together: the descriptors are read once for all of them."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float

from groundwork.top_k import Nearest, Ranking


class Together:
    """Ranks as `nearest` does, in one of `threads`, one search at a time for all that want as many rows.

    Reading the descriptors is most of what a search costs, so ten people wait little longer than one. A score
    may differ in its last bits from that of a search alone: libraries sum products of many rows otherwise.
    """

    def __init__(self, nearest: Nearest, threads: ThreadPoolExecutor) -> None:
        self._nearest, self._threads = nearest, threads
        self._waiting: dict[int, list[tuple[Float[np.ndarray, "1 d"], asyncio.Future[Ranking]]]] = {}
        self._at_work: asyncio.Task[None] | None = None

    async def __call__(self, query: Float[np.ndarray, "1 d"], top: int) -> Ranking:
        """The ranking of one query."""
        found: asyncio.Future[Ranking] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(top, []).append((query, found))
        if self._at_work is None or self._at_work.done():
            self._at_work = asyncio.create_task(self._work())
        return await found

    async def _work(self) -> None:
        while self._waiting:
            top = next(iter(self._waiting))
            queries, waiting = zip(*self._waiting.pop(top), strict=True)
            search = self._threads.submit(self._nearest, np.concatenate(queries), top)
            try:
                ranking = await asyncio.wrap_future(search)
            except Exception as error:
                _tell(waiting, [error] * len(waiting))
                continue
            each = zip(ranking.rows, ranking.scores, strict=True)
            _tell(waiting, [Ranking(rows=rows[None], scores=scores[None]) for rows, scores in each])


def _tell(waiting: Sequence[asyncio.Future[Ranking]], answers: Sequence[Ranking | Exception]) -> None:
    """Whoever has gone meanwhile is not told."""
    for found, answer in zip(waiting, answers, strict=True):
        if found.done():
            continue
        if isinstance(answer, Ranking):
            found.set_result(answer)
        else:
            found.set_exception(answer)
