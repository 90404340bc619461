"""Spelling variants that are no errors: an editable map applied to both sides before texts are compared."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from trunkline.errors import ConfigError, StorageError


class SpellingVariants:
    """Whole words, or runs of words, that are written in one way before errors are counted.

    A file has a line for each: ``alo = a lô``, any number of variants before the spelling they are counted as
    (``ok = okay = ô kê``), comments after ``#``. Longest runs first; a result is not looked up again.

    Raises:
        ConfigError: a line says nothing, a variant is given twice, or stands in the spelling of another.
    """

    def __init__(self, variants: dict[str, str], where: str = "the spelling map") -> None:
        self._map = {tuple(_words(a)): _words(b) for a, b in variants.items()}
        self._longest = max(map(len, self._map), default=0)
        for variant, spelling in self._map.items():
            if self._replaced(spelling) != spelling:
                raise ConfigError(
                    f"{where}: {' '.join(variant)!r} is counted as {' '.join(spelling)!r}, which holds a variant "
                    "itself; name the final spelling in both lines."
                )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SpellingVariants:
        """Read a map from a file.

        Raises:
            StorageError: the file cannot be read. ConfigError: a line is wrong (named as file:line).
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise StorageError(f"Cannot read the spelling map {path}: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not UTF-8 text.") from error
        variants: dict[str, str] = {}
        for number, line in enumerate(lines, start=1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            *before, spelling = (" ".join(_words(part)) for part in text.split("="))
            if not before or not all(before) or not spelling:
                raise ConfigError(f"{path}:{number}: {line!r} is no 'variant = spelling'.")
            for variant in before:
                if variants.get(variant, spelling) != spelling:
                    raise ConfigError(
                        f"{path}:{number}: {variant!r} is counted as {variants[variant]!r} already."
                    )
                variants[variant] = spelling
        return cls(variants, str(path))

    def __len__(self) -> int:
        return len(self._map)

    def __call__(self, text: str) -> str:
        """Return the text with every variant replaced, words between single spaces (NFC)."""
        return " ".join(self._replaced(_words(text)))

    def _replaced(self, words: list[str]) -> list[str]:
        out: list[str] = []
        place = 0
        while place < len(words):
            for size in range(min(self._longest, len(words) - place), 0, -1):
                found = self._map.get(tuple(words[place : place + size]))
                if found is not None:
                    out += found
                    place += size
                    break
            else:
                out.append(words[place])
                place += 1
        return out


def _words(text: str) -> list[str]:
    return unicodedata.normalize("NFC", text).split()
