"""Compounds: words of several syllables, joined so that they get a vector of their own (tài khoản: tài_khoản)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trunkline.syllable import words

JOINT = "_"


class Compounds:
    """Joins known compounds in a list of syllables, the longest first, from left to right."""

    def __init__(self, compounds: Iterable[Sequence[str]]) -> None:
        self.parts = {tuple(x) for x in compounds if len(x) > 1}
        # First syllable -> lengths of the compounds that begin with it, longest first
        lengths: dict[str, set[int]] = {}
        for parts in self.parts:
            lengths.setdefault(parts[0], set()).add(len(parts))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}

    @classmethod
    def from_lines(cls, lines: Iterable[str]) -> Compounds:
        """Return the compounds of a word list, one word a line; words of one syllable are left out."""
        return cls(words(line) for line in lines)

    def __len__(self) -> int:
        return len(self.parts)

    def join(self, syllables: Sequence[str]) -> list[str]:
        """Return the syllables with every compound as one token."""
        joined, at = [], 0
        while at < len(syllables):
            end = at + 1
            for length in self._lengths.get(syllables[at], ()):
                if tuple(syllables[at : at + length]) in self.parts:
                    end = at + length
                    break
            joined.append(JOINT.join(syllables[at:end]))
            at = end
        return joined

    def to_list(self) -> list[str]:
        """Return the compounds as joined tokens, sorted."""
        return sorted(JOINT.join(parts) for parts in self.parts)
