"""Messages and progress bars on stderr, so that stdout carries results only."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    from rich.console import Console

ROOT = "trunkline"
_console: Console | None = None


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module (`__name__`); all of them hang below the logger ``trunkline``."""
    return logging.getLogger(name if name.split(".")[0] == ROOT else f"{ROOT}.{name}")


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what `sys.stderr` is at the time, which a caller may have replaced and closed since `setup`."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def setup(debug: bool = False, quiet: bool = False) -> None:
    """Send the toolkit's messages to stderr: coloured on a terminal, with date and level otherwise."""
    logger = logging.getLogger(ROOT)
    logger.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
    if sys.stderr.isatty():
        from rich.logging import RichHandler

        handler: logging.Handler = RichHandler(console=_shared_console(), show_path=debug)
    else:
        handler = _Stderr()
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
        )
    logger.handlers[:] = [handler]


def progress(
    iterable: Iterable[Any] | None = None,
    *,
    total: float | None = None,
    description: str = "",
    unit: str = "",
) -> Progress:
    """Return a progress bar to loop over, or to use as ``with progress(total=n) as bar: bar.advance()``."""
    return Progress(iterable, total, description, unit)


class Progress:
    """A bar on stderr while it is open; silent where stderr is no terminal or ``--quiet`` was given."""

    def __init__(
        self, iterable: Iterable[Any] | None, total: float | None, description: str, unit: str
    ) -> None:
        self.iterable = iterable
        self.total = len(iterable) if total is None and hasattr(iterable, "__len__") else total  # type: ignore[arg-type]
        self.description, self.unit = description, unit
        self._bar: Any = None

    def __enter__(self) -> Self:
        if not sys.stderr.isatty() or logging.getLogger(ROOT).level >= logging.WARNING:
            return self
        from rich import progress as rich

        columns = (
            rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn(),
            rich.TextColumn(self.unit), rich.TimeElapsedColumn(), rich.TimeRemainingColumn(),
        )  # fmt: skip
        self._bar = rich.Progress(*columns, console=_shared_console())
        self._bar.start()
        self._task = self._bar.add_task(self.description, total=self.total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __iter__(self) -> Iterator[Any]:
        if self.iterable is None:
            raise TypeError("This progress bar was made without anything to loop over.")
        with self:
            for item in self.iterable:
                yield item
                self.advance()

    def advance(self, amount: float = 1) -> None:
        """Move the bar on by `amount` units."""
        if self._bar is not None:
            self._bar.advance(self._task, amount)


def _shared_console() -> Console:
    # Bars and messages share one console, or each would draw over the other.
    global _console
    if _console is None:
        from rich.console import Console

        _console = Console(stderr=True)
    return _console
