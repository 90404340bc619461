"""Canonical Telex, both ways; `python -m rescoring.telex` shows it for a text.

Telex writes Vietnamese with ASCII keys: ă aw, â aa, đ dd, ê ee, ô oo, ơ ow, ư uw, and a tone key f s r x j. Here every
syllable has one code: ươ is uwow (never uow), the tone key stands at the end, ngang has none, and a literal double o
is ooo (xoong is xooong).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from trunkline.command import Summary, run
from trunkline.errors import UsageError, nearest
from trunkline.syllable import MARKS, TONED, parse, place_tone, split_tone, tokens

Style = Literal["old", "new"]
STYLES = ("old", "new")

KEYS = {"ă": "aw", "â": "aa", "đ": "dd", "ê": "ee", "ô": "oo", "ơ": "ow", "ư": "uw"}
_LETTERS = {keys: letter for letter, keys in KEYS.items()} | {"ooo": "oo", "oooo": "ôô"}
_KEYS = re.compile("|".join(sorted(_LETTERS, key=len, reverse=True)))


def to_telex(text: str) -> str:
    """Return the canonical Telex of `text`, in lower case.

    A token that is no Vietnamese syllable stays as it is when it is ASCII (google, mix); otherwise it is written
    letter by letter, each tone key behind its own letter (vắcxin vawscxin). Everything but letters is copied.
    """
    return "".join(map(_encode, tokens(text)))


def from_telex(keys: str, style: Style = "old") -> str:
    """Return the text that canonical Telex `keys` spell, in lower case.

    `style` places the tone mark: "old" hòa, thúy, or "new" hoà, thuý. A run of letters that decodes to no syllable
    (and no single letter) is left alone. An English word may equal a syllable's code (see is sê, mix is mĩ): Telex
    alone cannot tell them apart.
    """
    if style not in STYLES:
        raise UsageError(f"There is no tone placement {style!r}.{nearest(style, STYLES)}")
    return "".join(_decode(token, style) for token in tokens(keys))


@lru_cache(maxsize=65536)
def _encode(token: str) -> str:
    if token.isascii():
        return token.replace("oo", "ooo") if parse(token) else token
    split = split_tone(token) if parse(token) else None
    if split is None:
        return "".join(KEYS.get(base, base) + key for base, key in map(_toned, token))
    letters, tone = split
    return "".join(KEYS.get(letter, letter) for letter in letters.replace("oo", "ooo")) + tone


def _toned(letter: str) -> tuple[str, str]:
    return TONED.get(letter, (letter, ""))


@lru_cache(maxsize=65536)
def _decode(token: str, style: Style) -> str:
    if not token.isascii():
        return token
    tone = token[-1] if token[-1] in MARKS else ""
    for body, key in ((token[: -len(tone)], tone), (token, "")) if tone else ((token, ""),):
        letters = _KEYS.sub(lambda match: _LETTERS[match[0]], body)
        decoded = place_tone(letters, key, old=style == "old")
        # ă, â and đ alone are no syllables, but letters that are spoken of.
        if parse(decoded) or (len(decoded) == 1 and _encode(decoded) == token):
            return decoded
    return token


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_telex, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rescoring.telex",
        description="Write Vietnamese text in canonical Telex, or read Telex back.",
        epilog="example: python -m rescoring.telex 'số dư khả dụng'",
    )
    parser.add_argument("text", nargs="+", help="text, or with --decode Telex keys")
    parser.add_argument(
        "--decode", action="store_true", help="read Telex keys instead of writing them"
    )
    parser.add_argument("--style", default="old", choices=STYLES, help="--decode: old hòa, new hoà")
    return parser


def _telex(arguments: argparse.Namespace) -> Summary:
    text = " ".join(arguments.text)
    if arguments.decode:
        return {"telex": text, "text": from_telex(text, arguments.style)}
    telex = to_telex(text)
    return {"text": text, "telex": telex, "read_back": from_telex(telex, arguments.style)}


if __name__ == "__main__":
    raise SystemExit(main())
