"""deconv/progress.py: a bar on a terminal, log lines elsewhere, neither for what is quick."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr

import pytest

from deconv import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def on_a_terminal() -> Iterator[Terminal]:
    with redirect_stderr(Terminal()) as stream:  # in the test itself: pytest puts its own stderr back after fixtures
        yield stream


@pytest.fixture(autouse=True)
def xterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SHOW_AFTER", 0.05)
    monkeypatch.setattr(progress, "LOG_EVERY", 0.1)


def slowly(items: Iterable[int], seconds: float) -> Iterator[int]:
    for item in items:
        time.sleep(seconds)
        yield item


def test_quick_work_passes_through_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "deconv")
    with on_a_terminal() as terminal:
        assert list(progress.track(range(5), "mining", 5)) == [0, 1, 2, 3, 4]
    assert list(progress.track(range(5), "mining", 5)) == [0, 1, 2, 3, 4]
    assert terminal.getvalue() == "" and caplog.messages == []


def test_lines_without_a_terminal(caplog: pytest.LogCaptureFixture, impatient: None) -> None:
    caplog.set_level(logging.INFO, "deconv")
    batches = [[1, 2], [3, 4], [5]] * 4
    assert list(progress.track(slowly_lists(batches, 0.02), "mining", 20, size=len)) == batches
    assert 2 <= len(caplog.messages) <= 4
    assert caplog.messages[0].startswith("mining: ") and " of 20 images, " in caplog.messages[0]
    assert " images/s, " in caplog.messages[0] and caplog.messages[0].endswith(" s left")
    assert caplog.messages[-1].startswith("mining: 20 images in 0.")


def slowly_lists(batches: list[list[int]], seconds: float) -> Iterator[list[int]]:
    for number in slowly(range(len(batches)), seconds):
        yield batches[number]


def test_a_status_ends_every_line_and_stands_beside_the_bar(caplog: pytest.LogCaptureFixture, impatient: None) -> None:
    caplog.set_level(logging.INFO, "deconv")
    seen: list[int] = []
    for item in progress.track(slowly(range(8), 0.03), "epoch 1", 8, status=lambda: f"loss {len(seen)}.5"):
        seen.append(item)
    assert [message.rpartition(", ")[2] for message in caplog.messages][-1] == "loss 8.5"
    assert all(", loss " in message for message in caplog.messages) and len(caplog.messages) >= 2
    with on_a_terminal() as terminal:
        list(progress.track(slowly(range(2), 0.1), "epoch 2", 2, status=lambda: "loss 0.25"))
    assert "loss 0.25" in terminal.getvalue()


def test_a_total_that_is_not_known(caplog: pytest.LogCaptureFixture, impatient: None) -> None:
    caplog.set_level(logging.INFO, "deconv")
    list(progress.track(slowly(range(8), 0.02), "drawing", None, unit="figures"))
    assert "drawing: " in caplog.messages[0] and " of " not in caplog.messages[0]


def test_bar_on_a_terminal_even_before_the_first_item(caplog: pytest.LogCaptureFixture, impatient: None) -> None:
    caplog.set_level(logging.DEBUG, "deconv")
    with on_a_terminal() as terminal:
        for _ in progress.track(slowly(range(2), 0.3), "projecting", 2, unit="peaks"):
            assert "projecting" in terminal.getvalue()
            assert progress.bar_is_up()
    assert "2/2" in terminal.getvalue() and "peaks/s" in terminal.getvalue()
    assert caplog.messages == [] and not progress.bar_is_up()


def test_only_the_outer_of_two_has_a_bar(impatient: None) -> None:
    with on_a_terminal() as terminal:
        for _ in progress.track(range(2), "outer", 2):
            assert list(progress.track(slowly(range(3), 0.05), "inner", 3)) == [0, 1, 2]
    assert "outer" in terminal.getvalue() and "inner" not in terminal.getvalue()


def test_the_bar_is_gone_when_its_consumer_fails(impatient: None) -> None:
    def consume() -> None:
        for _ in progress.track(slowly(range(9), 0.1), "mining", 9):
            raise KeyboardInterrupt

    with on_a_terminal() as terminal:
        with pytest.raises(KeyboardInterrupt):
            consume()
        shown = terminal.getvalue()
        time.sleep(0.2)
        assert "mining" in shown and terminal.getvalue() == shown
    assert not progress.bar_is_up()


def test_an_error_of_the_iterable_passes_through() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(progress.track(broken(), "mining", 2))


def test_a_dumb_terminal_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with on_a_terminal():
        assert not progress.on_terminal()
