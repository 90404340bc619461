"""Calls that follow in a thread: in their order, few at a time, and no error is lost."""

from __future__ import annotations

import threading
import time

import pytest

from embstore.behind import Behind


def test_calls_are_made_in_their_order_and_all_of_them():
    made: list[int] = []
    with Behind() as behind:
        for number in range(100):
            behind.call(made.append, number)
    assert made == list(range(100))


def test_the_caller_waits_when_too_many_wait():
    gate, begun = threading.Event(), []

    def work() -> None:
        begun.append(1)
        gate.wait(10)

    with Behind(room=2) as behind:
        behind.call(work)
        behind.call(work)
        threading.Timer(0.2, gate.set).start()
        before = time.monotonic()
        behind.call(work)
        assert time.monotonic() - before > 0.1
    assert len(begun) == 3


def fail() -> None:
    raise OSError("the disk is full")


def test_an_error_is_raised_later_and_nothing_is_done_after_it():
    made: list[int] = []
    with pytest.raises(OSError, match="the disk is full"), Behind() as behind:
        behind.call(made.append, 0)
        behind.call(fail)
        for number in range(1, 1000):
            behind.call(made.append, number)
    assert made == [0]


def test_an_error_of_the_last_call_is_raised_at_the_end():
    with pytest.raises(OSError, match="the disk is full"), Behind() as behind:
        behind.call(fail)


def test_an_error_of_the_caller_is_the_one_that_is_seen_and_what_waits_is_left():
    made: list[int] = []
    gate = threading.Event()
    with pytest.raises(KeyboardInterrupt), Behind() as behind:
        behind.call(gate.wait, 10)
        for number in range(5):
            behind.call(made.append, number)
        threading.Timer(0.1, gate.set).start()
        raise KeyboardInterrupt
    assert made == []
