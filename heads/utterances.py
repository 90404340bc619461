"""A long recording as utterances: cut where nothing is said, each searched, timed and written by itself.

Prefix search and alignment over an hour at once would need memory for the hour and could not give an N-best list that
means anything. Over a pause of blanks a cut changes next to nothing: both sides keep half of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from heads.decoding import Transcript

if TYPE_CHECKING:
    from heads.recognition import RecognitionHead, Transcription

PAUSE_FRAMES = 10
"""So many frames (0.8 s) of blank are a pause."""
LONGEST_FRAMES = 500
"""An utterance of more (40 s) is cut at its longest stretch of blanks, however short."""
BLANK = np.log(0.9)


class Utterance(NamedTuple):
    """A stretch between pauses: its rows [start, end) of the output, what was said, and what else it may be."""

    start: int
    end: int
    transcription: Transcription
    nbest: list[Transcript]


def utterances(head: RecognitionHead, output: Any, item: int = 0) -> list[Utterance]:
    """Return the utterances of an item, in order; in some of them nothing may have been said.

    A recording of up to 40 s, such as a turn, is one utterance.
    """
    length = int(output.lengths[item])
    own = type(output)(*(x[item : item + 1] for x in output))
    stretches = [(0, length)]
    pause, longest = PAUSE_FRAMES * head.per_frame, LONGEST_FRAMES * head.per_frame
    if length > longest:
        stretches = pieces(head.ctc_table(own, 0)[:, head.tokenizer.blank], pause, longest)
    found = []
    for start, end in stretches:
        part = _part(own, start, end, length)
        nbest = head.search(part)[0]
        found.append(Utterance(start, end, head.transcription(part, 0, nbest), nbest))
    return found


def pieces(
    blanks: np.ndarray, pause: int = PAUSE_FRAMES, longest: int = LONGEST_FRAMES
) -> list[tuple[int, int]]:
    """Return stretches [start, end) that cover all frames, cut in the middle of pauses.

    Args:
        blanks: (frames,) log probability of the blank.
        pause: frames of blank that make a pause.
        longest: stretches of more frames are cut where the blanks are longest.
    """
    runs = _runs(blanks > BLANK)
    inner = [(a, b) for a, b in runs if a > 0 and b < len(blanks)]
    cuts = [(a + b) // 2 for a, b in inner if b - a >= pause]
    edges = [0, *cuts, len(blanks)]
    place = 0
    while place + 1 < len(edges):
        low, high = edges[place], edges[place + 1]
        if high - low > longest:
            # Not at the very edges, or the pieces would not get shorter.
            margin = longest // 5
            within = [(a, b) for a, b in inner if low + margin <= (a + b) // 2 <= high - margin]
            best = max(within, key=lambda x: x[1] - x[0], default=None)
            edges.insert(place + 1, low + longest if best is None else sum(best) // 2)
        else:
            place += 1
    return [(a, b) for a, b in zip(edges, edges[1:], strict=False) if b > a]


def whole(found: Sequence[Utterance]) -> tuple[str, float, float]:
    """Return the text, confidence and log probability of all utterances, which are independent of each other."""
    texts = " ".join(x.transcription.text for x in found if x.transcription.text)
    confidence = float(np.prod([x.transcription.confidence for x in found]))
    return texts, confidence, float(sum(x.transcription.log_prob for x in found))


def _part(output: Any, start: int, end: int, length: int) -> Any:
    """Return frames [start, end) of an output of batch 1."""
    parts = {
        name: torch.tensor([end - start], device=x.device)
        if name == "lengths"
        else x[:, :length][:, start:end]
        for name, x in output._asdict().items()
    }
    return type(output)(**parts)


def _runs(on: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], on.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
