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


def test_long_work_leaves_a_line_a_minute_in_a_log(level, monkeypatch):
    level(logging.INFO)
    log, now = io.StringIO(), [0.0]
    monkeypatch.setattr(sys, "stderr", log)
    bar = progress(desc="count", unit="photo", total=100)
    monkeypatch.setattr(bar, "_time", lambda: bar.start_t + now[0])
    for _ in range(100):
        now[0] += 2.0
        bar.update()
    bar.close()
    assert "\r" not in log.getvalue()
    lines = log.getvalue().splitlines()
    # 200 seconds: after the first minute, then each minute, and at the end; the time left stands in them.
    assert 3 <= len(lines) <= 4
    assert lines[0].startswith("count: 30 of 100, 01:00 so far, 02:20 left")
