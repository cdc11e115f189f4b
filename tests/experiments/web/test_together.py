"""Searches that wait go together: each gets what it would have got alone."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

from experiments.web.together import Together
from groundwork.top_k import search

DATABASE = np.random.default_rng(4).normal(size=(300, 8)).astype(np.float32)
QUERIES = np.random.default_rng(5).normal(size=(8, 8)).astype(np.float32)


class Slow:
    """Searches one at a time, each when it is let; what it was asked."""

    def __init__(self):
        self.asked, self.let, self.fault = [], threading.Semaphore(0), None

    def __call__(self, queries, top):
        self.asked.append((len(queries), top))
        assert self.let.acquire(timeout=60)
        if self.fault is not None:
            raise self.fault
        return search(queries, DATABASE, top)


@pytest.fixture
def slow():
    return Slow()


def _run(slow, work):
    """The result of `work`, a coroutine that is given what asks together."""

    async def all_of_it():
        with ThreadPoolExecutor(2) as threads:
            try:
                return await work(Together(slow, threads))
            finally:
                slow.let.release(100)

    return asyncio.run(all_of_it())


def test_what_waits_goes_together_and_gets_its_own_ranking(slow):
    tops = [5, 3, 7, 3, 3, 7]

    async def work(together):
        first = asyncio.create_task(together(QUERIES[:1], tops[0]))
        while not slow.asked:
            await asyncio.sleep(0)
        others = [
            asyncio.create_task(together(query[None], top))
            for query, top in zip(QUERIES[1:6], tops[1:], strict=True)
        ]
        await asyncio.sleep(0)
        slow.let.release(3)
        return await asyncio.gather(first, *others)

    found = _run(slow, work)
    assert slow.asked == [(1, 5), (3, 3), (2, 7)]
    for query, top, ranking in zip(QUERIES, tops, found, strict=False):
        alone = search(query[None], DATABASE, top)
        assert ranking.rows.tolist() == alone.rows.tolist()
        np.testing.assert_allclose(ranking.scores, alone.scores, atol=1e-5)


def test_a_fault_is_told_to_all_it_concerns_and_the_next_search_works(slow):
    async def work(together):
        slow.fault = ValueError("search: expected finite descriptors")
        slow.let.release(2)
        told = await asyncio.gather(
            *(together(query[None], 4) for query in QUERIES[:3]), return_exceptions=True
        )
        slow.fault = None
        slow.let.release()
        return told, await together(QUERIES[3:4], 4)

    told, found = _run(slow, work)
    assert [str(error) for error in told] == ["search: expected finite descriptors"] * 3
    assert found.rows.tolist() == search(QUERIES[3:4], DATABASE, 4).rows.tolist()


def test_who_goes_costs_nobody_else_the_answer(slow):
    async def work(together):
        tasks = [asyncio.create_task(together(query[None], 4)) for query in QUERIES[:3]]
        while not slow.asked:
            await asyncio.sleep(0)
        tasks[1].cancel()
        with suppress(asyncio.CancelledError):
            await tasks[1]
        slow.let.release(2)
        return await asyncio.gather(tasks[0], tasks[2])

    found = _run(slow, work)
    for number, ranking in zip((0, 2), found, strict=True):
        assert ranking.rows.tolist() == search(QUERIES[number][None], DATABASE, 4).rows.tolist()
