"""The table of short forms and their readings (`readings.tsv`), and a team's own additions to it."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from trunkline.errors import DataError, StorageError, nearest

KINDS = (
    "abbreviation", "acronym", "attached", "attached-scale", "chat", "currency", "letter", "scale", "symbol", "unit",
)  # fmt: skip
_WORDS = re.compile(r"[^\W\d_]+(?: [^\W\d_]+)*")


@dataclass(
    frozen=True, eq=False
)  # equal and hashable by identity: patterns made of a table are cached by it
class Readings:
    """Written form -> reading, by kind; forms in lower case stand for any case, others for themselves."""

    forms: dict[str, str] = field(default_factory=dict)  # abbreviations and acronyms
    chat: dict[str, str] = field(default_factory=dict)
    letters: dict[str, str] = field(default_factory=dict)  # a capital -> its name
    symbols: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    attached: dict[str, str] = field(default_factory=dict)  # units with no space before them
    scales: dict[str, str] = field(default_factory=dict)
    attached_scales: dict[str, str] = field(default_factory=dict)
    currencies: dict[str, str] = field(default_factory=dict)

    def find(self, written: str) -> str | None:
        """Return the reading of an abbreviation or acronym, or None."""
        return self.forms.get(written) or self.forms.get(written.lower())

    def spell(self, letters: str) -> str:
        """Return the names of letters, digits read as they are: U23 -> u hai ba."""
        from trunkline.text.numbers import DIGITS

        return " ".join(
            DIGITS[int(x)] if x.isdecimal() else self.letters.get(x.upper(), x.lower())
            for x in letters
        )

    def unit(self, written: str) -> str | None:
        """Return the reading of a unit, currency or scale, or None."""
        for table in (
            self.units,
            self.attached,
            self.currencies,
            self.scales,
            self.attached_scales,
        ):
            reading = table.get(written) or table.get(written.lower())
            if reading:
                return reading
        return None


@lru_cache(maxsize=1)
def builtin() -> Readings:
    """Return the toolkit's own table."""
    readings = Readings()
    _add(readings, Path(__file__).with_name("readings.tsv"))
    return readings


def load_readings(extra: str | os.PathLike[str] | Mapping[str, str] | None = None) -> Readings:
    """Return the built-in table, with a team's own abbreviations added, which come first.

    `extra` maps written forms to readings, or is a UTF-8 file with one form a line: ``written<TAB>reading`` and
    optionally ``<TAB>kind``, or ``written#reading``; empty lines and lines that start with # are skipped.

    Raises:
        StorageError: the file cannot be read.
        DataError: a line is of another form, or its reading holds something that would be read again.
    """
    own = builtin()
    if extra is None:
        return own
    readings = Readings(**{name: dict(table) for name, table in vars(own).items()})
    if isinstance(extra, Mapping):
        for written, reading in extra.items():
            _put(readings, written, reading, "abbreviation", repr(written))
    else:
        _add(readings, Path(extra))
    _check(readings, extra)
    return readings


def _add(readings: Readings, path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8.") from error
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror or error}.") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split("\t") if "\t" in line else line.split("#")
        if len(parts) not in (2, 3):
            raise DataError(
                f"{path}:{number} must be written<TAB>reading, optionally <TAB>kind, or written#reading, not {line!r}."
            )
        written, reading, kind = (*(x.strip() for x in parts), "abbreviation")[:3]
        _put(readings, written, reading, kind, f"{path}:{number}")


def _put(readings: Readings, written: str, reading: str, kind: str, where: str) -> None:
    if kind not in KINDS:
        raise DataError(f"{where}: unknown kind {kind!r}.{nearest(kind, KINDS)}")
    if not written or re.search(r"\s", written):
        raise DataError(f"{where}: a short form is one word without spaces, not {written!r}.")
    reading = unicodedata.normalize("NFC", reading.lower())
    if not _WORDS.fullmatch(reading):
        raise DataError(f"{where}: a reading is words with one space between, not {reading!r}.")
    tables = {
        "abbreviation": readings.forms, "acronym": readings.forms, "attached": readings.attached,
        "attached-scale": readings.attached_scales, "chat": readings.chat, "currency": readings.currencies,
        "letter": readings.letters, "scale": readings.scales, "symbol": readings.symbols, "unit": readings.units,
    }  # fmt: skip
    tables[kind][unicodedata.normalize("NFC", written)] = reading


def _check(readings: Readings, source: object) -> None:
    """Refuse readings that hold a short form: the second pass of the normaliser would read them again."""
    for table in vars(readings).values():
        for written, reading in table.items():
            for word in reading.split():
                again = readings.forms.get(word) or readings.chat.get(word)
                if again and again != word:
                    raise DataError(
                        f"{source}: the reading of {written!r} holds {word!r}, itself short for {again!r}; "
                        "write the reading out."
                    )
