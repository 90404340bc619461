"""Work that follows in a thread, so that the encoder need not wait for the disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec

P = ParamSpec("P")

ROOM = 16
"""Calls that may wait: what they hold must stay little beside what the encoder holds."""


class Behind:
    """Makes calls one after the other in a thread; what one raises is raised by a later `call`, or at the end.

    After an error, and after one inside the `with`, calls that still wait are not made.
    """

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[object]] = deque()
        self._failed = False

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._failed |= error is not None
        self._thread.shutdown(cancel_futures=self._failed)
        if error is None:
            self._end(0)

    def call(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Make a call after those before it; waits while too many wait."""
        self._end(self._room - 1)
        self._waiting.append(self._thread.submit(self._unless_failed, function, *args, **kwargs))

    def _end(self, left: int) -> None:
        """Wait until no more than so many calls wait, and raise what one raised."""
        while self._waiting and (len(self._waiting) > left or self._waiting[0].done()):
            self._waiting.popleft().result()

    def _unless_failed(
        self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        if self._failed:
            return
        try:
            function(*args, **kwargs)
        except BaseException:
            self._failed = True
            raise
