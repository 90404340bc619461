"""The phonetic tables that ship with the package as JSON: read once, never changed in place."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any


@cache
def load_table(name: str) -> dict[str, Any]:
    """Return `rescoring/data/NAME.json`; callers must not change it."""
    text = resources.files("rescoring").joinpath("data", f"{name}.json").read_text("utf-8")
    return json.loads(text)


def pairs(listed: str) -> list[tuple[str, str]]:
    """Return the pairs of ``a/b c/d``; 0 (no onset, no coda) and - (ngang, no glide) become ""."""
    return [(symbol(a), symbol(b)) for a, _, b in (item.partition("/") for item in listed.split())]


def symbol(written: str) -> str:
    """Return a symbol as `Syllable` has it: 0 and - are written for ""."""
    return "" if written in ("0", "-") else written
