import os
import signal
import time

import pytest

from groundwork.ahead import work_ahead


def _slow_first(number: int) -> tuple[int, int]:
    time.sleep(0.3 if number == 0 else 0.0)
    return number, os.getpid()


def _dies_on_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def _dies_once(item: tuple[str, int]) -> int:
    sign, number = item
    if number == 3 and not os.path.exists(sign):
        open(sign, "w").close()
        os._exit(7)
    return number


def _out_of_memory(number: int) -> int:
    if number == 2:
        raise MemoryError
    return number


def _raises(number: int) -> int:
    if number == 1:
        raise OSError("photo a.jpg: expected an image")
    return number


def _unused(item, death):
    raise AssertionError(item, death)


@pytest.mark.parametrize(("workers", "together"), [(0, 3), (1, 1), (2, 1), (3, 4), (2, 100)])
def test_results_come_in_the_order_of_the_items_from_other_processes(workers, together):
    found = list(work_ahead(_slow_first, iter(range(13)), workers=workers, together=together, lost=_unused))
    assert [number for number, _ in found] == list(range(13))
    processes = {process for _, process in found}
    assert (os.getpid() in processes) is (workers == 0)
    assert len(processes) == (1 if workers == 0 else -(-13 // together))


def test_no_more_is_taken_than_the_processes_need():
    taken = []

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    results = work_ahead(_slow_first, items(), workers=2, together=3, lost=_unused)
    assert next(results)[0] == 0
    assert len(taken) == 12
    results.close()


def test_an_item_that_kills_its_process_twice_costs_itself_only():
    found = list(work_ahead(_dies_on_three, range(6), workers=2, together=4, lost=lambda *lost: lost))
    assert found == [0, 1, 2, (3, "worker was ended by SIGKILL"), 4, 5]


def test_a_process_that_dies_once_costs_nothing(tmp_path):
    items = [(str(tmp_path / "sign"), number) for number in range(6)]
    assert list(work_ahead(_dies_once, items, workers=1, together=6, lost=_unused)) == list(range(6))
    assert (tmp_path / "sign").exists()


def test_an_item_without_enough_memory_is_lost_as_if_its_process_had_died():
    found = list(work_ahead(_out_of_memory, range(4), workers=1, together=2, lost=lambda *lost: lost))
    assert found == [0, 1, (2, "out of memory"), 3]


@pytest.mark.parametrize("workers", [0, 1])
def test_exceptions_come_back_as_they_are(workers):
    results = work_ahead(_raises, range(3), workers=workers, together=1, lost=_unused)
    assert next(results) == 0
    with pytest.raises(OSError, match=r"^photo a\.jpg: expected an image$"):
        next(results)
