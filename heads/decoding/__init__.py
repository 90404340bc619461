"""From CTC log probabilities to texts: greedy, prefix beam search, language models, boosted phrases."""

from heads.decoding.greedy import collapse, greedy
from heads.decoding.hypotheses import Decoded, Transcript, to_nbest, transcripts
from heads.decoding.prefix_beam import BeamOptions, BeamState, PrefixBeamSearch
from heads.decoding.scorers import PrefixScorer

__all__ = [
    "BeamOptions",
    "BeamState",
    "Decoded",
    "PrefixBeamSearch",
    "PrefixScorer",
    "Transcript",
    "collapse",
    "greedy",
    "to_nbest",
    "transcripts",
]
