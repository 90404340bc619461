"""What every head that writes text has: its tokenizer, its transcripts with times and confidences, the CTC loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from encoder import Encoded
from heads.alignment import force_align, frames_needed, span_seconds, word_spans
from heads.confidence import (
    WordCalibration,
    confidence_scores,
    fit_word_calibration,
    matches,
    word_posteriors,
)
from heads.decoding import BeamOptions, PrefixScorer, Transcript
from heads.head import Head, HeadLabels, HeadOptions, TrunkSpec
from heads.levels import answer_silence
from heads.utterances import utterances, whole
from trunkline.errors import ConfigError, DataError, TrainingError
from trunkline.log import get_logger
from trunkline.tokenizer import KINDS, load_tokenizer, train_tokenizer
from trunkline.tokenizer.base import from_dict

logger = get_logger(__name__)
_SHOWN = 5


@dataclass(frozen=True)
class TokenizerOptions:
    """Which vocabulary a head writes with."""

    kind: Literal["characters", "syllables", "bpe", "unigram"] = "characters"
    """Made from the training texts."""
    size: int | None = None
    """The most tokens there may be; 2000 for bpe and unigram, no limit for others."""
    min_count: int = 1
    """Rarer characters (of kind characters) or syllables get no token of their own."""
    path: str | None = None
    """A tokenizer file or folder, or a ChunkFormer vocab.txt, instead of one made from the texts."""


@dataclass(frozen=True)
class RecognitionOptions(HeadOptions):
    """The settings of heads that write text."""

    tokenizer: TokenizerOptions = field(default_factory=TokenizerOptions)
    search: BeamOptions = field(default_factory=BeamOptions)
    dropout: float = 0.1
    too_long: Literal["leave_out", "error"] = "leave_out"
    """What to do with a transcript that has more tokens than its audio has frames: leave it out of the loss, counted
    and named, or stop."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout={self.dropout} must be at least 0 and below 1.")


class Word(NamedTuple):
    """A word with its times in seconds and the probability that it is right (calibrated where dev data was given)."""

    word: str
    start: float
    end: float
    confidence: float


class Transcription(NamedTuple):
    """What was said: the text, its words, and ln P(text | audio)."""

    text: str
    words: tuple[Word, ...]
    confidence: float
    """The share of the N-best list that this text has, by probability (of several utterances their product)."""
    log_prob: float


class RecognitionHead(Head):
    """Base of heads that write text; a subclass defines `search`, which returns N-best lists."""

    Options: ClassVar[type[HeadOptions]] = RecognitionOptions
    default_label = "text"
    use = "transcribe"
    options: RecognitionOptions  # type: ignore[assignment]
    per_frame = 1
    """Rows of the CTC's table for each frame."""
    scorers: tuple[PrefixScorer, ...] = ()
    """What joins the search beside the frames (a language model, boosted phrases); not part of the head."""

    def __init__(
        self, options: RecognitionOptions, trunk: TrunkSpec, labels: HeadLabels | None = None
    ) -> None:
        super().__init__(options, trunk, labels)
        if labels is None or labels.tokenizer is None:
            raise ConfigError(f"A {self.kind} head needs a tokenizer; make one with `prepare`.")
        self.tokenizer = from_dict(labels.tokenizer, f"the tokenizer of the {self.kind} head")
        self._named: set[str] = set()

    @property
    def symbol_shift(self) -> float:
        """Seconds from one row of the CTC's table to the next."""
        return self.trunk.frame_shift / self.per_frame

    @classmethod
    def text_of(cls, label: Any) -> str:
        """Return the text of a label; a DataError names one that has none."""
        if not isinstance(label, str):
            raise DataError(f"A transcript must be a string, not {label!r}.")
        return label

    @classmethod
    def prepare(cls, options: RecognitionOptions, labels: Iterable[Any]) -> HeadLabels:
        """Return the tokenizer that the options name, or one made from the training texts.

        Raises:
            DataError: a label is no text, or no text holds a word. ConfigError: an unknown kind.
        """
        texts = [cls.text_of(label) for label in labels]
        wanted = options.tokenizer
        if wanted.path is not None:
            return HeadLabels(tokenizer=load_tokenizer(wanted.path).to_dict())
        if wanted.kind not in KINDS:
            raise ConfigError(f"tokenizer.kind={wanted.kind!r} is none of {', '.join(KINDS)}.")
        made = train_tokenizer(wanted.kind, texts, size=wanted.size, min_count=wanted.min_count)
        return HeadLabels(tokenizer=made.to_dict())

    def check_labels(self, labels: Iterable[Any]) -> None:
        """Raise a DataError for labels that are no text or of which no token is known; warn of unknown tokens."""
        total = unknown = 0
        examples: dict[str, None] = {}
        for label in labels:
            ids = self.tokenizer.encode(self.text_of(label))
            total += len(ids)
            if found := ids.count(self.tokenizer.unk):
                unknown += found
                examples[self.text_of(label)] = None
        if not unknown:
            return
        shown = ", ".join(repr(text) for text in list(examples)[:_SHOWN])
        told = f"{unknown} of {total} tokens are not in the {self.tokenizer.kind} vocabulary, as in {shown}"
        if 2 * unknown > total:
            raise DataError(
                f"{told}; was the text normalised as in training? Normalise it, or train a tokenizer on it."
            )
        logger.warning("%s; they are learnt and written as <unk>.", told)

    def targets(self, labels: Sequence[Any]) -> list[list[int]]:
        """Return the token ids of each text."""
        return [self.tokenizer.encode(self.text_of(label)) for label in labels]

    def too_long(self, output: Any, labels: Sequence[Any]) -> list[int]:
        """Return the places of the items whose transcript needs more frames than they have."""
        needed = [frames_needed(ids) for ids in self.targets(labels)]
        return [i for i, n in enumerate(output.lengths.tolist()) if needed[i] > n]

    def search(self, output: Any) -> list[list[Transcript]]:
        """Return the N-best list of each item, best first, at least one hypothesis."""
        raise NotImplementedError

    def hush(self, output: Any, silent: Tensor) -> Any:
        """Return the output with blanks only where a frame heard nothing: silence is never written as text."""
        if not bool(silent.any()):
            return output
        heard = answer_silence(output.log_probs, silent, self.tokenizer.blank)
        return output._replace(log_probs=heard)

    def decode(self, output: Any) -> list[Transcription]:
        """Return the transcript of each item, with times and confidences; a long one is cut at its pauses."""
        results = []
        for item in range(len(output.lengths)):
            found = utterances(self, output, item)
            text, confidence, log_prob = whole(found)
            words = tuple(word for x in found for word in x.transcription.words)
            results.append(Transcription(text, words, confidence, log_prob))
        return results

    def transcription(self, output: Any, item: int, nbest: Sequence[Transcript]) -> Transcription:
        """Return the first of an N-best list with its words' times and confidences; of `output` the frames."""
        best = nbest[0]
        weights = np.exp(np.array([x.score for x in nbest]) - best.score)
        spans, posteriors, log_probs = self._words(output, item, nbest)
        fitted = self.calibration.get("words")
        sure = posteriors
        if fitted is not None:
            sure = WordCalibration.from_json(fitted).of(posteriors, log_probs)
        times = output.times[item].tolist()
        words = tuple(
            Word(span.word, *span_seconds(span.start, span.end, times, self.symbol_shift), p)
            for span, p in zip(spans, sure.tolist(), strict=True)
        )
        return Transcription(best.text, words, float(1 / weights.sum()), best.log_prob)

    def calibrate(self, outputs: Any, labels: Sequence[Any]) -> dict[str, Any]:
        """Fit word confidences on dev and return what they were worth there before and after.

        The result, also kept in `calibration`: `words` (the regression), `nce_before`, `ece_before`, `nce_after`,
        `ece_after` (NCE None where all words were right, or all wrong), `words_on_dev`, `right_on_dev`.

        Args:
            outputs: of `forward` on dev, one or several batches.
            labels: one text per item.

        Raises:
            DataError: no word was recognised.
        """
        batches = [outputs] if hasattr(outputs, "lengths") else list(outputs)
        references = iter(labels)
        found: list[tuple[np.ndarray, np.ndarray, list[bool]]] = []
        for output in batches:
            for item, nbest in enumerate(self.search(output)):
                spans, posteriors, log_probs = self._words(output, item, nbest)
                truth = self.text_of(next(references)).split()
                found.append((posteriors, log_probs, matches([x.word for x in spans], truth)))
        posteriors, log_probs, correct = (np.concatenate(x) for x in zip(*found, strict=True))
        fitted = fit_word_calibration(posteriors, log_probs, correct)
        before = confidence_scores(posteriors, correct)
        after = confidence_scores(fitted.of(posteriors, log_probs), correct)
        self.calibration = {
            "words": fitted._asdict(),
            **{f"{name}_before": before[name] for name in ("nce", "ece")},
            **{f"{name}_after": after[name] for name in ("nce", "ece")},
            "words_on_dev": after["words"],
            "right_on_dev": after["right"],
        }
        return self.calibration

    def ctc_table(self, output: Any, item: int) -> np.ndarray:
        """Return the CTC log probabilities (frames, symbols) of an item, float64, without what is never written."""
        table = output.log_probs[item, : int(output.lengths[item])].detach().cpu().double().numpy()
        silent = [self.tokenizer.sos_eos, *self.tokenizer.tasks]
        table[:, silent] = -np.inf
        return table

    def _words(
        self, output: Any, item: int, nbest: Sequence[Transcript]
    ) -> tuple[list[Any], np.ndarray, np.ndarray]:
        """Return the words of the best hypothesis, their posteriors and their frames' mean log probabilities."""
        table = self.ctc_table(output, item)
        aligned = force_align(table, nbest[0].tokens, blank=self.tokenizer.blank)
        spans = word_spans(aligned.spans, self.tokenizer)
        texts = [" ".join(x.word for x in spans), *(x.text for x in nbest[1:])]
        posteriors = word_posteriors(texts, [x.score for x in nbest])
        return spans, posteriors, np.array([x.log_prob for x in spans])

    def _name(self, labels: Sequence[Any], items: Sequence[int], lengths: Sequence[int]) -> None:
        """Name transcripts that are too long for their audio, each once; stop where the options say so."""
        for item in items:
            text = self.text_of(labels[item])
            told = (
                f"the transcript {text!r} needs {frames_needed(self.tokenizer.encode(text))} frames, its audio has "
                f"{lengths[item]}"
            )
            if self.options.too_long == "error":
                raise TrainingError(f"{self.kind}: {told}; correct it, or set too_long=leave_out.")
            if text not in self._named:
                self._named.add(text)
                logger.warning("%s: %s; it is left out of the CTC loss.", self.kind, told)


def frame_times(encoded: Encoded) -> Tensor:
    """Return the frames' centres in seconds as (batch, frames), float64."""
    if encoded.times.ndim == 2:
        return encoded.times
    return encoded.times.expand(len(encoded.lengths), -1)


def ctc_items(
    log_probs: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]], blank: int
) -> tuple[Tensor, Tensor]:
    """Return each item's CTC loss per token, (items,), and which items have one, (batch,) bool.

    An item without one has a transcript that needs more frames than there are (its loss is infinite) or neither
    frames nor text; the rest are in the order of the batch.

    Args:
        log_probs: (batch, frames, symbols), natural logarithms.
        lengths: (batch,) frames.
        targets: token ids of each item.
        blank: number of the blank.
    """
    needed = torch.tensor([frames_needed(ids) for ids in targets], device=lengths.device)
    possible = (needed <= lengths) & (lengths > 0)
    rows = possible.nonzero()[:, 0]
    if not len(rows):
        return log_probs.new_zeros(0), possible
    kept = [list(targets[i]) for i in rows.tolist()]
    sizes = torch.tensor([len(ids) for ids in kept])
    flat = torch.tensor([x for ids in kept for x in ids], dtype=torch.int64)
    losses = functional.ctc_loss(
        log_probs[rows].float().transpose(0, 1),
        flat.to(log_probs.device),
        lengths[rows].cpu(),
        sizes,
        blank=blank,
        reduction="none",
    )
    return losses / sizes.clamp_min(1).to(losses), possible
