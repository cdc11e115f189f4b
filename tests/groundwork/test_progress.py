import io
import logging
import sys

import pytest

from groundwork.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def level():
    logger = logging.getLogger("groundwork")
    before = logger.level
    yield logger.setLevel
    logger.setLevel(before)


def _shown(monkeypatch, stream) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress(range(3), desc="count", unit="photo")) == [0, 1, 2]
    return stream.getvalue()


def test_nothing_is_shown_unless_asked_for(level, monkeypatch):
    level(logging.WARNING)
    assert _shown(monkeypatch, Terminal()) == ""
    level(logging.NOTSET)
    assert _shown(monkeypatch, Terminal()) == ""


def test_a_terminal_shows_a_bar(level, monkeypatch):
    level(logging.INFO)
    assert "count: 100%" in _shown(monkeypatch, Terminal())


def test_short_work_leaves_no_line_in_a_log(level, monkeypatch):
    level(logging.INFO)
    assert _shown(monkeypatch, io.StringIO()) == ""


def _logged(monkeypatch, *, steps: int, seconds_each: float) -> list[str]:
    log, now = io.StringIO(), [0.0]
    monkeypatch.setattr(sys, "stderr", log)
    bar = progress(desc="count, once", unit="photo", total=steps)
    monkeypatch.setattr(bar, "_time", lambda: bar.start_t + now[0])
    for _ in range(steps):
        now[0] += seconds_each
        bar.update()
    bar.close()
    assert "\r" not in log.getvalue()
    return log.getvalue().splitlines()


def test_long_work_leaves_a_line_a_minute_in_a_log(level, monkeypatch):
    level(logging.INFO)
    lines = _logged(monkeypatch, steps=100, seconds_each=2.0)
    # 200 seconds: after the first minute, then each minute, and at the end; the time left stands in them.
    assert 3 <= len(lines) <= 4
    assert lines[0].startswith("count, once: 30 of 100, 01:00 so far, 02:20 left")


def test_a_log_says_once_that_all_is_done(level, monkeypatch):
    level(logging.INFO)
    lines = _logged(monkeypatch, steps=3, seconds_each=61.0)
    assert [line.partition(" of ")[0] for line in lines] == [f"count, once: {done}" for done in (1, 2, 3)]
