"""Text by an attention encoder-decoder, trained and searched together with CTC, which keeps it honest.

Loss: weight * CTC + (1 - weight) * cross-entropy of the decoder with label smoothing (Kim et al., arXiv 1609.06773).
Before the text may stand task tokens (<|task0|> ..), reserved in every tokenizer of ours, so that prompts can be added
later without changing a shape. A second decoder may read from right to left, as in WeNet's U2++ (arXiv 2106.05642).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder import Encoded
from encoder.masks import length_mask
from heads.ctc import CTCHead, CTCOptions
from heads.decoding import Decoded, PrefixBeamSearch, Transcript, transcripts
from heads.decoding.joint import JointOptions, joint_search
from heads.head import HeadLabels, HeadOptions, TrunkSpec
from heads.recognition import frame_times
from heads.registry import register_head
from heads.transformer_decoder import DecoderState, TransformerDecoder
from trunkline.errors import ConfigError, DataError

_IGNORED = -100


@dataclass(frozen=True)
class AEDOptions(CTCOptions):
    """The settings of the attention encoder-decoder head; those of its CTC branch come first."""

    decoder_layers: int = 2
    reverse_layers: int = 0
    """Layers of a decoder that reads from right to left and re-ranks what the other found; 0 is none."""
    heads: int = 4
    feed_forward: int = 512
    ctc_weight: float = 0.3
    """Of the CTC loss beside the decoder's, which weighs the rest."""
    reverse_weight: float = 0.3
    """Of the right-to-left decoder's loss and scores beside the other's, where there is one."""
    label_smoothing: float = 0.1
    decode_ctc_weight: float = 0.4
    """Of the CTC in the search."""
    length_slack: float = 0.25
    """How much longer than the longest, or shorter than the shortest hypothesis of the CTC a text may be, as a share
    of its tokens; two tokens more are always allowed."""
    prompt: tuple[int, ...] = ()
    """Numbers of the task tokens that stand before every text: 0 is <|task0|>."""
    prompt_loss: bool = False
    """Whether the decoder also learns to foretell the prompt, which is given when it is used."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.decoder_layers, self.heads, self.feed_forward) < 1 or self.reverse_layers < 0:
            raise ConfigError(
                "decoder_layers, heads and feed_forward must be 1 or more, reverse_layers 0 or more."
            )
        for name in ("ctc_weight", "decode_ctc_weight"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(
                    f"{name}={getattr(self, name)} must be above 0 and below 1: the CTC bounds what the decoder "
                    "writes. For CTC alone take the head ctc."
                )
        if not (0 <= self.reverse_weight < 1 and 0 <= self.label_smoothing < 1):
            raise ConfigError("reverse_weight and label_smoothing must be at least 0 and below 1.")
        if self.length_slack < 0:
            raise ConfigError(f"length_slack={self.length_slack} must be 0 or more.")


class AEDOutput(NamedTuple):
    """What the decoder attends to, and what the CTC branch says."""

    log_probs: Tensor
    """(batch, frames, symbols) of the CTC; zero at padding."""
    memory: Tensor
    """(batch, frames, dim) for the decoder; zero at padding."""
    lengths: Tensor
    """(batch,) frames."""
    times: Tensor
    """(batch, frames) centres of the frames in seconds, float64."""


@register_head("aed")
class AEDHead(CTCHead):
    """Writes text token by token, attending to all frames; see `AEDOptions`.

    A label is a text, or ``{"text": ..., "prompt": [0, 3]}`` with the numbers of its task tokens.
    """

    Options: ClassVar[type[HeadOptions]] = AEDOptions
    options: AEDOptions  # type: ignore[assignment]

    def __init__(
        self, options: AEDOptions, trunk: TrunkSpec, labels: HeadLabels | None = None
    ) -> None:
        super().__init__(options, trunk, labels)
        if trunk.dim % options.heads:
            raise ConfigError(f"heads={options.heads} do not divide the width {trunk.dim}.")
        self._prompt = self._prompt_tokens(options.prompt)

        def decoder(layers: int) -> TransformerDecoder:
            return TransformerDecoder(
                len(self.tokenizer),
                trunk.dim,
                layers=layers,
                heads=options.heads,
                feed_forward=options.feed_forward,
                dropout=options.dropout,
            )

        self.decoder = decoder(options.decoder_layers)
        self.reverse: nn.Module | None = (
            decoder(options.reverse_layers) if options.reverse_layers else None
        )

    @classmethod
    def text_of(cls, label: Any) -> str:
        """Return the text of a label, which may be an object with `text` and `prompt`."""
        return super().text_of(label.get("text") if isinstance(label, dict) else label)

    def _prompt_tokens(self, numbers: Sequence[Any]) -> list[int]:
        tasks = self.tokenizer.tasks
        wrong = [x for x in numbers if type(x) is not int or not 0 <= x < len(tasks)]
        if wrong:
            raise DataError(
                f"There is no task token {wrong[0]!r}; this tokenizer has {len(tasks)} of them."
            )
        return [tasks[x] for x in numbers]

    def _prompt_of(self, label: Any) -> list[int]:
        given = label.get("prompt") if isinstance(label, dict) else None
        return self._prompt if given is None else self._prompt_tokens(given)

    def forward(self, encoded: Encoded) -> AEDOutput:  # type: ignore[override]
        """Return the CTC's log probabilities and the frames for the decoder."""
        memory = self.inputs(encoded)
        log_probs = self.output(self.hidden(memory)).float().log_softmax(dim=-1)
        valid = length_mask(encoded.lengths, memory.shape[1])[..., None]
        return AEDOutput(
            log_probs.masked_fill(~valid, 0.0),
            memory.masked_fill(~valid, 0.0),
            encoded.lengths,
            frame_times(encoded),
        )

    def loss(self, output: AEDOutput, labels: Sequence[Any]) -> tuple[Tensor, dict[str, float]]:  # type: ignore[override]
        """Return the joint loss, the mean over items of losses per token, and both parts as metrics.

        Items without frames count in neither part, transcripts that are too long only in the decoder's.
        """
        ctc, metrics = super().loss(output, labels)  # type: ignore[arg-type]
        heard = output.lengths > 0
        if not bool(heard.any()):
            return ctc, metrics
        targets = self.targets(labels)
        prompts = [self._prompt_of(label) for label in labels]
        attention, right = self._attention_loss(self.decoder, output, prompts, targets, heard)
        if self.reverse is not None:
            turned = [ids[::-1] for ids in targets]
            other, _ = self._attention_loss(self.reverse, output, prompts, turned, heard)
            weight = self.options.reverse_weight
            attention = (1 - weight) * attention + weight * other
        metrics |= {
            "ctc": float(ctc.detach()),
            "attention": float(attention.detach()),
            "token_accuracy": right,
        }
        weight = self.options.ctc_weight
        return weight * ctc + (1 - weight) * attention, metrics

    def _attention_loss(
        self,
        decoder: nn.Module,
        output: AEDOutput,
        prompts: Sequence[Sequence[int]],
        texts: Sequence[Sequence[int]],
        heard: Tensor,
    ) -> tuple[Tensor, float]:
        """Return the mean over items of the cross-entropy per token, and the share of tokens foretold."""
        end = self.tokenizer.sos_eos
        inputs = [[end, *a, *b] for a, b in zip(prompts, texts, strict=True)]
        learnt = [a if self.options.prompt_loss else [_IGNORED] * len(a) for a in prompts]
        wanted = [[*a, *b, end] for a, b in zip(learnt, texts, strict=True)]
        device = output.memory.device
        given = _padded(inputs, end).to(device)
        targets = _padded(wanted, _IGNORED).to(device).masked_fill(~heard[:, None], _IGNORED)
        logits = decoder(given, decoder.read(output.memory, output.lengths)).float()  # type: ignore[operator]
        losses = functional.cross_entropy(
            logits.transpose(1, 2),
            targets,
            ignore_index=_IGNORED,
            label_smoothing=self.options.label_smoothing,
            reduction="none",
        )
        counted = targets != _IGNORED
        items = losses.sum(1) / counted.sum(1).clamp_min(1)
        right = (logits.argmax(-1) == targets)[counted].float().mean()
        return items[heard].mean(), float(right)

    @torch.no_grad()
    def search(self, output: AEDOutput) -> list[list[Transcript]]:  # type: ignore[override]
        """Return the N-best list of each item by joint search; where the CTC hears nothing, nothing is written."""
        return [self._search(output, item) for item in range(len(output.lengths))]

    def _search(self, output: AEDOutput, item: int) -> list[Transcript]:
        table = self.ctc_table(output, item)
        blank = self.tokenizer.blank
        heard = PrefixBeamSearch(blank=blank, options=self.options.search)(table)
        if not heard[0].tokens:
            return transcripts(heard, self.tokenizer)
        sizes = [len(x.tokens) for x in heard]
        slack = self.options.length_slack
        options = JointOptions(
            self.options.search.beam,
            self.options.decode_ctc_weight,
            max(1, math.floor(min(sizes) * (1 - slack)) - 2),
            min(len(table), math.ceil(max(sizes) * (1 + slack)) + 2),
        )
        found = joint_search(
            table,
            _Reader(self.decoder, output, item, self._prompt),
            options,
            blank=blank,
            eos=self.tokenizer.sos_eos,
            forbidden=self.tokenizer.tasks,
            scorers=self.scorers,
        )
        if self.reverse is not None:
            found = self._reranked(found, output, item)
        # Where CTC and decoder agree on nothing, the CTC has the word.
        return transcripts(found or heard, self.tokenizer)[: self.options.search.nbest]

    def _reranked(self, found: Sequence[Decoded], output: AEDOutput, item: int) -> list[Decoded]:
        """Return hypotheses with the right-to-left decoder's part in their scores."""
        weight = (1 - self.options.decode_ctc_weight) * self.options.reverse_weight
        changed = []
        for x in found:
            reverse = self.score_tokens(output, item, x.tokens[::-1], reverse=True)
            change = weight * (reverse - dict(x.parts)["attention"])
            changed.append(
                x._replace(
                    log_prob=x.log_prob + change,
                    score=x.score + change,
                    parts=(*x.parts, ("reverse", reverse)),
                )
            )
        return sorted(changed, key=lambda x: (-x.score, x.tokens))

    @torch.no_grad()
    def score_tokens(
        self, output: AEDOutput, item: int, tokens: Sequence[int], *, reverse: bool = False
    ) -> float:
        """Return ln P of tokens and the end by a decoder; for the reverse one give them from right to left."""
        decoder = self.reverse if reverse else self.decoder
        if decoder is None:
            raise ConfigError("This head has no right-to-left decoder (reverse_layers=0).")
        scores = self.token_scores(output, item, tokens, reverse=reverse)[len(self._prompt) :]
        return float(scores.gather(1, torch.tensor([[*tokens, self.tokenizer.sos_eos]]).T).sum())

    @torch.no_grad()
    def token_scores(
        self, output: AEDOutput, item: int, tokens: Sequence[int], *, reverse: bool = False
    ) -> Tensor:
        """Return ln P (tokens + 1, symbols) of the token after each, the start (and the prompt) being the first."""
        decoder = self.reverse if reverse else self.decoder
        assert isinstance(decoder, TransformerDecoder)
        length = int(output.lengths[item])
        memory = decoder.read(output.memory[item : item + 1, :length], output.lengths[[item]])
        given = torch.tensor([[self.tokenizer.sos_eos, *self._prompt, *tokens]])
        return decoder(given.to(output.memory.device), memory)[0].float().log_softmax(-1).cpu()


class _Reader:
    """The attention decoder as `joint_search` asks it: one utterance, hypotheses that come and go."""

    def __init__(
        self, decoder: TransformerDecoder, output: AEDOutput, item: int, prompt: Sequence[int]
    ) -> None:
        length = int(output.lengths[item])
        self.decoder, self.prompt = decoder, list(prompt)
        self.memory = decoder.read(output.memory[item : item + 1, :length], output.lengths[[item]])
        self.state: DecoderState | None = None

    def __call__(self, rows: np.ndarray, newest: np.ndarray) -> np.ndarray:
        device = self.memory.mask.device
        tokens = torch.from_numpy(newest.astype(np.int64))[:, None].to(device)
        if self.state is None:
            tokens = torch.cat(
                [tokens, torch.tensor([self.prompt], dtype=torch.int64).to(device)], 1
            )
        else:
            self.state = self.state.at(torch.from_numpy(rows).to(device))
        memory = self.memory._replace(
            keys=tuple(x.expand(len(rows), -1, -1, -1) for x in self.memory.keys),
            values=tuple(x.expand(len(rows), -1, -1, -1) for x in self.memory.values),
        )
        scores, self.state = self.decoder.step(tokens, memory, self.state)
        return scores.cpu().numpy()


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    return nn.utils.rnn.pad_sequence(
        [torch.tensor(row, dtype=torch.int64) for row in rows],
        batch_first=True,
        padding_value=value,
    )
