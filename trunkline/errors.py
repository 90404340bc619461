"""The one exception family: everything a user of the toolkit can get wrong or run into.

Every error is also a ``ValueError`` (something given is wrong) or an ``OSError`` (the world is in the way), so
callers who know nothing of the toolkit still catch the right thing. A message names the file, line, key or
tensor, says what was seen, and what to do. Commands turn `UsageError` and `ConfigError` into exit status 2 and
the rest into 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TrunklineError(Exception):
    """Base of every error that the toolkit raises on purpose."""


class UsageError(TrunklineError, ValueError):
    """A command or function was called with arguments that cannot be served."""


class ConfigError(TrunklineError, ValueError):
    """A setting is unknown, ill-typed, out of range, or contradicts another."""


class DataError(TrunklineError, ValueError):
    """A recording, manifest or label file does not hold what it should."""


class CheckpointError(TrunklineError, ValueError):
    """A model directory or checkpoint is incomplete, altered, of another shape, or too new."""


class TrainingError(TrunklineError, ValueError):
    """A training run must not go on: non-finite loss, too many bad files, a loss over zero frames."""


class StorageError(TrunklineError, OSError):
    """A file or folder cannot be written, read, or is in use by another run."""


class DependencyError(TrunklineError, OSError):
    """An optional package is needed for what was asked, and is not installed."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest allowed name, or the list of allowed names."""
    names = [str(item) for item in allowed]
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return (
        f" Did you mean {match[0]!r}?"
        if match
        else f" Allowed: {', '.join(sorted(names)) or 'none'}."
    )
