"""Transcripts as the words that were said: one normaliser for every part of the toolkit.

`normalise` does it, `Normaliser` with settings of your own, `Normaliser.explain` tells what was changed by which rule
and what was not understood. `decode` reads bytes of unknown encoding.
"""

from trunkline.text.annotations import TAGS
from trunkline.text.normaliser import (
    LANGUAGES,
    TONE_MARKS,
    Change,
    Mark,
    Normalised,
    Normaliser,
    normalise,
)
from trunkline.text.readings import Readings, load_readings
from trunkline.text.repair import decode

__all__ = [
    "LANGUAGES",
    "TAGS",
    "TONE_MARKS",
    "Change",
    "Mark",
    "Normalised",
    "Normaliser",
    "Readings",
    "decode",
    "load_readings",
    "normalise",
]
