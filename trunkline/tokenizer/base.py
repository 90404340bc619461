"""What every tokenizer is: its special tokens, and the JSON file it is kept in."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from trunkline.checkpoint import read_json, write_bytes, write_json
from trunkline.errors import CheckpointError, StorageError, UsageError, nearest

FORMAT = "trunkline.tokenizer/1"
FILE = "tokenizer.json"

BLANK, UNK, SOS_EOS = 0, 1, 2
TASKS = tuple(range(3, 11))
SPECIAL = ("<blank>", "<unk>", "<sos/eos>", *(f"<|task{i}|>" for i in range(len(TASKS))))
"""The first pieces of every tokenizer that is trained here: blank 0, unk 1, sos/eos 2, <|task0|>..<|task7|> 3-10."""

SPACE = "\u2581"
"""Stands for a space in pieces, as in SentencePiece."""


class Tokenizer(ABC):
    """Ids and pieces of one vocabulary; `decode(encode(text)) == text` for text of single spaces without unknowns.

    Text is never searched for the names of special tokens: "<blank>" written in a text is seven characters.

    Attributes:
        kind: "characters", "syllables", "bpe", "unigram" or "pieces" (an imported vocabulary).
        pieces: id -> piece; a space is written as U+2581.
        blank, unk, sos_eos: ids of the special tokens; `tasks` those kept free for prompts.
    """

    kind: str
    pieces: tuple[str, ...]
    blank: int = BLANK
    unk: int = UNK
    sos_eos: int = SOS_EOS
    tasks: tuple[int, ...] = TASKS

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, special tokens not included; white space counts as single spaces."""

    def tokenize(self, text: str) -> list[str]:
        """Return the pieces of a text."""
        return [self.pieces[index] for index in self.encode(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids: unknown ones read <unk>, the other special tokens nothing.

        Raises:
            UsageError: an id is not in the vocabulary.
        """
        silent = {self.blank, self.sos_eos, *self.tasks}
        parts = []
        for index in ids:
            if not 0 <= index < len(self.pieces):
                raise UsageError(f"There is no token {index}; the vocabulary has {len(self)}.")
            if index not in silent:
                parts.append(self.pieces[index])
        return "".join(parts).replace(SPACE, " ").removeprefix(" ")

    def unknown(self, texts: Iterable[str]) -> int:
        """Return how many unknown tokens the texts have."""
        return sum(self.encode(text).count(self.unk) for text in texts)

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content: equal for tokenizers that do the same."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON's own types, to be kept in another file (`from_dict` reads it)."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "blank": self.blank,
            "unk": self.unk,
            "sos_eos": self.sos_eos,
            "tasks": list(self.tasks),
            "pieces": list(self.pieces),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the JSON file (`path`, or tokenizer.json in a folder), a library's model beside it; return its path.

        Raises:
            StorageError: the disk refuses the write.
        """
        path = _file(path)
        fields = self.to_dict()
        model = fields.pop("model", None)
        if model is not None:
            data = base64.b64decode(model)
            beside = path.with_suffix(".model")
            write_bytes(beside, data)
            fields |= {"model_file": beside.name, "model_sha256": hashlib.sha256(data).hexdigest()}
        write_json(path, fields)
        return path


def _file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path if path.suffix == ".json" else path / FILE


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Return the tokenizer of a JSON file, of a folder with tokenizer.json in it, or of a ChunkFormer `vocab.txt`.

    Raises:
        CheckpointError: it is missing, incomplete, altered or of a newer format.
        DataError: a vocab.txt has a wrong line.
    """
    from trunkline.tokenizer.pieces import import_vocabulary

    if Path(path).suffix == ".txt":
        return import_vocabulary(path)
    path = _file(path)
    fields = read_json(path)
    if isinstance(fields, dict) and "model_file" in fields:
        name, digest = str(fields.pop("model_file")), fields.pop("model_sha256", None)
        if name != Path(name).name:
            raise CheckpointError(f"{path}: model_file {name!r} must be a name in the same folder.")
        try:
            data = (path.parent / name).read_bytes()
        except FileNotFoundError as error:
            raise CheckpointError(f"{path.parent / name} is missing; {path} needs it.") from error
        except OSError as error:
            raise StorageError(f"Cannot read {path.parent / name}: {error.strerror}.") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise CheckpointError(
                f"{path.parent / name} is not the model that {path} was saved with."
            )
        fields["model"] = base64.b64encode(data).decode()
    return from_dict(fields, str(path))


def from_dict(fields: Any, where: str = "the tokenizer") -> Tokenizer:
    """Return the tokenizer of a dictionary that `Tokenizer.to_dict` made.

    Raises:
        CheckpointError: a field is missing, ill-typed or contradicts another; the message names `where`.
    """
    from trunkline.tokenizer.pieces import PieceTokenizer
    from trunkline.tokenizer.subwords import SubwordTokenizer

    if not isinstance(fields, dict) or "format" not in fields:
        raise CheckpointError(f"{where} is no tokenizer: it has no field 'format'.")
    if fields["format"] != FORMAT:
        raise CheckpointError(
            f"{where} has format {fields['format']!r}; this version reads {FORMAT!r}. Is it from a newer one?"
        )
    kinds = {"characters": PieceTokenizer, "syllables": PieceTokenizer, "pieces": PieceTokenizer}
    kinds |= {"bpe": SubwordTokenizer, "unigram": SubwordTokenizer}
    kind = fields.get("kind")
    if kind not in kinds:
        raise CheckpointError(f"{where}: unknown kind {kind!r}.{nearest(str(kind), kinds)}")
    _check(fields, where)
    return kinds[kind].from_fields(fields, where)


def _check(fields: dict[str, Any], where: str) -> None:
    pieces = fields.get("pieces")
    if not isinstance(pieces, list) or not all(isinstance(x, str) and x for x in pieces):
        raise CheckpointError(f"{where}: pieces must be a list of strings.")
    check_pieces(pieces, where)
    tasks = fields.get("tasks")
    if not isinstance(tasks, list):
        raise CheckpointError(f"{where}: tasks must be a list of ids.")
    ids = [fields.get("blank"), fields.get("unk"), fields.get("sos_eos"), *tasks]
    if not all(type(x) is int and 0 <= x < len(pieces) for x in ids) or len(set(ids)) < len(ids):
        raise CheckpointError(
            f"{where}: blank, unk, sos_eos and tasks must be different ids below {len(pieces)}, not {ids}."
        )


def check_pieces(pieces: Sequence[str], where: str) -> None:
    """Refuse a vocabulary in which a piece stands twice."""
    if len(set(pieces)) < len(pieces):
        seen: set[str] = set()
        twice = next(x for x in pieces if x in seen or seen.add(x))
        raise CheckpointError(f"{where} has the piece {twice!r} twice.")


def decode_model(fields: dict[str, Any], where: str) -> bytes:
    """Return the library's model that a dictionary holds."""
    try:
        return base64.b64decode(fields["model"], validate=True)
    except (KeyError, TypeError, binascii.Error) as error:
        raise CheckpointError(f"{where} has no model, or a damaged one.") from error
