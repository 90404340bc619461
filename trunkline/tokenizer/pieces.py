"""Vocabularies that are lists of pieces: characters, syllables, and those of other toolkits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from trunkline.errors import CheckpointError, DataError, StorageError
from trunkline.tokenizer.base import BLANK, SOS_EOS, SPACE, TASKS, UNK, Tokenizer, check_pieces

_REMEMBERED = 100_000  # words whose ids are kept


class PieceTokenizer(Tokenizer):
    """Cuts each word into the longest pieces there are, from left to right; what no piece fits is unknown.

    Of kind "characters" only the space between words is a token, and a tag such as <laugh> is one piece. Of kind
    "syllables" a word is one piece or is spelled letter by letter. Of kind "pieces" a word begins with U+2581.
    """

    def __init__(
        self,
        kind: str,
        pieces: Sequence[str],
        *,
        blank: int = BLANK,
        unk: int = UNK,
        sos_eos: int = SOS_EOS,
        tasks: Sequence[int] = TASKS,
    ) -> None:
        self.kind, self.pieces = kind, tuple(pieces)
        self.blank, self.unk, self.sos_eos, self.tasks = blank, unk, sos_eos, tuple(tasks)
        special = {blank, unk, sos_eos, *tasks}
        self._ids = {piece: i for i, piece in enumerate(self.pieces) if i not in special}
        self._longest = max((len(piece) for piece in self._ids), default=1)
        self._remembered: dict[str, list[int]] = {}

    @classmethod
    def from_fields(cls, fields: dict[str, Any], where: str) -> Self:
        """Return the tokenizer of checked fields, as `trunkline.tokenizer.base.from_dict` gives them."""
        names = ("blank", "unk", "sos_eos", "tasks")
        tokenizer = cls(fields["kind"], fields["pieces"], **{name: fields[name] for name in names})
        if SPACE not in tokenizer._ids:
            raise CheckpointError(f"{where} has no piece for the space, {SPACE!r}.")
        return tokenizer

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; see the class for how words are cut."""
        ids: list[int] = []
        for word in text.split():
            ids += self._word(word)
        # Characters have no need of a mark before the first word.
        return ids[1:] if self.kind == "characters" else ids

    def _word(self, word: str) -> list[int]:
        ids = self._remembered.get(word)
        if ids is None:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            ids = self._remembered[word] = self._cut(word)
        return ids

    def _cut(self, word: str) -> list[int]:
        if SPACE in word:  # the mark itself, written in a text: not to be mistaken for a space
            parts = word.split(SPACE)
            head = [self._ids.get(SPACE, self.unk), *self._longest_pieces(parts[0])]
            return head + [i for part in parts[1:] for i in (self.unk, *self._longest_pieces(part))]
        whole = self._ids.get(SPACE + word)
        if whole is not None:
            return [whole]
        if self.kind == "syllables":
            return [self._ids.get(x, self.unk) for x in SPACE + word]
        return self._longest_pieces(SPACE + word)

    def _longest_pieces(self, text: str) -> list[int]:
        ids, at = [], 0
        while at < len(text):
            for end in range(min(len(text), at + self._longest), at, -1):
                index = self._ids.get(text[at:end])
                if index is not None:
                    break
            else:
                index, end = self.unk, at + 1
            ids.append(index)
            at = end
        return ids

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_remembered": {}}


def import_vocabulary(path: str | os.PathLike[str]) -> PieceTokenizer:
    """Return the tokenizer of a ChunkFormer or WeNet `vocab.txt`: `piece id` a line, ids kept as they are.

    There is no model file with it, so words are cut into the longest pieces from left to right. It has no task
    tokens.

    Raises:
        StorageError: the file cannot be read.
        DataError: a line is no `piece id`, an id is missing or there twice, or a special token is missing.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text.") from error
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror or error}.") from error
    pieces: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        line = line.removesuffix("\r")
        if not line:
            continue
        piece, space, index = line.rpartition(" ")
        if not (space and piece and index.isascii() and index.isdecimal()):
            raise DataError(f"{path}:{number} must be a piece, a space and an id, not {line!r}.")
        if int(index) in pieces:
            raise DataError(
                f"{path}:{number} gives id {index} to {piece!r}, which {pieces[int(index)]!r} has."
            )
        pieces[int(index)] = piece
    if missing := next((i for i in range(len(pieces)) if i not in pieces), None):
        raise DataError(f"{path} has no line for id {missing} of {len(pieces)}.")
    listed = [pieces[i] for i in sorted(pieces)]
    ids = {piece: i for i, piece in enumerate(listed)}
    for name in ("<blank>", "<unk>", "<sos/eos>", SPACE):
        if name not in ids:
            raise DataError(f"{path} has no piece {name}; is it the vocabulary of a ChunkFormer?")
    try:
        check_pieces(listed, str(path))
    except CheckpointError as error:
        raise DataError(str(error)) from error
    return PieceTokenizer(
        "pieces", listed, blank=ids["<blank>"], unk=ids["<unk>"], sos_eos=ids["<sos/eos>"], tasks=()
    )
