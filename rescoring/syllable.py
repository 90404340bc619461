"""Vietnamese syllables, as `trunkline.syllable` reads them; here under the name rescoring is used with."""

from trunkline.syllable import Syllable, normalise, parse, tokens, words

__all__ = ["Syllable", "normalise", "parse", "tokens", "words"]
