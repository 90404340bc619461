"""What a rule for numbers is told and what it answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trunkline.text.readings import Readings


class Reading(NamedTuple):
    """What a rule made of some characters: where they end, in words, which rule, and the value where there is one."""

    end: int
    words: str
    rule: str
    value: float | None = None


@dataclass(slots=True)
class Before:
    """What stands before a number: the words so far, and the piece that came last.

    `rule` is that piece's rule, "word" or "punctuation", or "" at the start; `value` its value, if it was a number.
    """

    out: Sequence[str]
    readings: Readings
    rule: str = ""
    value: float | None = None

    def words(self, number: int) -> str:
        """Return the last `number` words of what was read so far."""
        return " ".join(" ".join(self.out[-number:]).split()[-number:])

    @property
    def word(self) -> str:
        """The last word."""
        return self.out[-1].rsplit(" ", 1)[-1] if self.out else ""


Rule = tuple[re.Pattern[str], Callable[[re.Match[str], Before], Reading | None]]
END = r"(?![^\W_])"
"""No letter or digit follows."""
END_OF_NUMBER = r"(?![^\W_]|[.,:/]\d)"
"""Nor does the number go on."""
