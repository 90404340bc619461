"""Subwords by SentencePiece: BPE and unigram, trained without any normalisation of its own."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any, Self

import sentencepiece

from trunkline.errors import CheckpointError, UsageError
from trunkline.text import TAGS
from trunkline.tokenizer.base import SPACE, SPECIAL, UNK, Tokenizer, decode_model

_LONGEST_LINE = 1 << 20  # bytes; SentencePiece leaves longer lines out of training without a word


class SubwordTokenizer(Tokenizer):
    """A SentencePiece model with our special tokens before its own pieces; its <unk> is ours.

    Args:
        kind: "bpe" or "unigram".
        model: the content of a SentencePiece model file.
    """

    def __init__(self, kind: str, model: bytes) -> None:
        self.kind, self._model = kind, model
        self._processor = sentencepiece.SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(model)
        own = [self._processor.IdToPiece(i) for i in range(1, self._processor.GetPieceSize())]
        self.pieces = (*SPECIAL, *own)

    @classmethod
    def from_fields(cls, fields: dict[str, Any], where: str) -> Self:
        """Return the tokenizer of checked fields, as `trunkline.tokenizer.base.from_dict` gives them."""
        try:
            tokenizer = cls(fields["kind"], decode_model(fields, where))
        except (RuntimeError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{where} has a model that SentencePiece cannot read.") from error
        if list(tokenizer.pieces) != fields["pieces"]:
            raise CheckpointError(f"{where}: its pieces are not those of its model.")
        return tokenizer

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        shift = len(SPECIAL) - 1
        # The mark of a space, written in a text, must not be taken for one: U+FFFF is no character, so unknown.
        plain = " ".join(text.split()).replace(SPACE, "\uffff")
        return [UNK if i == 0 else i + shift for i in self._processor.EncodeAsIds(plain)]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields with the model in base 64."""
        return super().to_dict() | {"model": base64.b64encode(self._model).decode()}

    def __getstate__(self) -> dict[str, Any]:
        return {"kind": self.kind, "model": self._model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)


def train_subwords(kind: str, texts: Iterable[str], size: int) -> SubwordTokenizer:
    """Return a tokenizer of at most `size` tokens, special ones included, that knows every character of the texts.

    One thread and no sampling: the same texts give the same model.

    Raises:
        UsageError: `size` does not fit the texts.
    """
    lines = [line for text in texts if (line := " ".join(text.replace(SPACE, " ").split()))]
    tags = [tag for tag in TAGS if any(tag in line for line in lines)]
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(lines),
            model_writer=written,
            model_type=kind,
            vocab_size=size - len(SPECIAL) + 1,
            character_coverage=1.0,
            normalization_rule_name="identity",
            user_defined_symbols=tags,
            hard_vocab_limit=kind == "bpe",
            max_sentence_length=_LONGEST_LINE,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).split("] ")[-1]
        raise UsageError(
            f"No {kind} tokenizer of {size} tokens comes of these texts: {reason}"
        ) from error
    return SubwordTokenizer(kind, written.getvalue())
