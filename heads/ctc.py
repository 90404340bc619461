"""Text by connectionist temporal classification (Graves et al. 2006): a symbol or a blank at every frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from encoder import Encoded
from encoder.masks import length_mask
from heads.decoding import BeamState, PrefixBeamSearch, Transcript, transcripts
from heads.head import FrameHead, HeadLabels, HeadOptions, TrunkSpec
from heads.recognition import RecognitionHead, RecognitionOptions, ctc_items, frame_times
from heads.registry import register_head
from trunkline.errors import ConfigError

MAX_PER_FRAME = 8


@dataclass(frozen=True)
class CTCOptions(RecognitionOptions):
    """The settings of the CTC head."""

    hidden: int = 256
    """Width of a layer between the frames and the symbols; 0 is none, as in an imported head."""
    per_frame: int = 1
    """Symbols that a frame can write: characters of quick speech come faster than frames of 80 ms."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 0:
            raise ConfigError(f"hidden={self.hidden} must be 0 or more.")
        if not 1 <= self.per_frame <= MAX_PER_FRAME:
            raise ConfigError(f"per_frame={self.per_frame} must be 1 to {MAX_PER_FRAME}.")


class LiveText(NamedTuple):
    """What was said on a live line until now; its end may still change."""

    text: str


class CTCOutput(NamedTuple):
    """What the CTC head says of each frame, or of each of the equal parts of a frame that may write a symbol."""

    log_probs: Tensor
    """(batch, frames, symbols) natural logarithms, float32; zero at padding."""
    lengths: Tensor
    """(batch,) frames, or parts."""
    times: Tensor
    """(batch, frames) centres in seconds, float64."""


@register_head("ctc")
class CTCHead(FrameHead, RecognitionHead):
    """Scores every symbol of a tokenizer at every frame; see `CTCOptions`."""

    Options: ClassVar[type[HeadOptions]] = CTCOptions
    default_label = "text"
    options: CTCOptions  # type: ignore[assignment]

    def __init__(
        self, options: CTCOptions, trunk: TrunkSpec, labels: HeadLabels | None = None
    ) -> None:
        super().__init__(options, trunk, labels)
        width = options.hidden or trunk.dim
        self.hidden = nn.Sequential(
            *((nn.Linear(trunk.dim, width), nn.SiLU()) if options.hidden else ()),
            nn.Dropout(options.dropout),
        )
        self.per_frame = options.per_frame
        self.output = nn.Linear(width, options.per_frame * len(self.tokenizer))

    def forward(self, encoded: Encoded) -> CTCOutput:
        """Return the log probabilities of the symbols at each frame, or part of a frame."""
        scores = self.output(self.hidden(self.inputs(encoded))).float()
        batch, frames, _ = scores.shape
        parts, lengths = frames * self.per_frame, encoded.lengths * self.per_frame
        log_probs = scores.view(batch, parts, len(self.tokenizer)).log_softmax(dim=-1)
        valid = length_mask(lengths, parts)[..., None]
        return CTCOutput(log_probs.masked_fill(~valid, 0.0), lengths, self._part_times(encoded))

    def hush(self, output: CTCOutput, silent: Tensor) -> CTCOutput:
        """Return the output with blanks only where a frame heard nothing."""
        return super().hush(output, silent.repeat_interleave(self.per_frame))

    def _part_times(self, encoded: Encoded) -> Tensor:
        """Return the centres of the parts of frames, (batch, parts)."""
        times = frame_times(encoded)
        parts = torch.arange(self.per_frame, dtype=times.dtype, device=times.device)
        offsets = (parts - (self.per_frame - 1) / 2) * self.symbol_shift
        return (times[..., None] + offsets).flatten(1)

    def loss(self, output: CTCOutput, labels: Sequence[Any]) -> tuple[Tensor, dict[str, float]]:
        """Return the mean over items of -ln P(text) / tokens; see `RecognitionOptions.too_long`.

        The metrics count `too_long` transcripts, which have no finite loss, and `unknown` tokens.

        Raises:
            DataError: a label that is no text. TrainingError: a transcript that is too long, where that is an error.
        """
        targets = self.targets(labels)
        losses, _ = ctc_items(output.log_probs, output.lengths, targets, self.tokenizer.blank)
        missed = self.too_long(output, labels)
        if missed:
            self._name(labels, missed, output.lengths.tolist())
        unknown = sum(ids.count(self.tokenizer.unk) for ids in targets)
        metrics = {"too_long": float(len(missed)), "unknown": float(unknown)}
        # Without any item the loss keeps its graph, so that a batch of one such item stops nothing.
        total = losses.mean() if len(losses) else 0.0 * output.log_probs.sum()
        return total, metrics

    def search(self, output: CTCOutput) -> list[list[Transcript]]:
        """Return the N-best list of each item by prefix beam search with `scorers`."""
        search = self._search_by_prefixes()
        return [
            transcripts(search(self.ctc_table(output, item)), self.tokenizer)
            for item in range(len(output.lengths))
        ]

    def init_live(self) -> BeamState:
        """Return the state of a live text; see `begin_text`."""
        return self.begin_text()

    def live(self, output: CTCOutput, state: BeamState) -> tuple[LiveText, BeamState]:
        """Return all of the text so far, by the CTC, and the new state; see `step_text`."""
        text, state = self.step_text(output, state)
        return LiveText(text), state

    def begin_text(self) -> BeamState:
        """Return the state of a live text of which nothing has been heard."""
        return self._search_by_prefixes().begin()

    def step_text(self, output: CTCOutput, state: BeamState) -> tuple[str, BeamState]:
        """Return the text so far, whose end may still change, and the new state; `output` is of one stream's step."""
        search = self._search_by_prefixes()
        state = search.step(self.ctc_table(output, 0), state)
        return " ".join(self.tokenizer.decode(search.partial(state)).split()), state

    def finish_text(self, state: BeamState) -> list[Transcript]:
        """Return the N-best list of a live text: exactly that of `search` over all of its frames."""
        return transcripts(self._search_by_prefixes().finish(state), self.tokenizer)

    def _search_by_prefixes(self) -> PrefixBeamSearch:
        return PrefixBeamSearch(
            blank=self.tokenizer.blank, options=self.options.search, scorers=self.scorers
        )
