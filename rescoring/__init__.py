"""Rescoring of N-best lists by language, meaning and Vietnamese sound; no torch.

The public names are loaded when they are first used, so that `import rescoring` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rescoring.bias import expander
    from rescoring.combine import Rescorer
    from rescoring.confusions import learn_costs
    from rescoring.consensus import Consensus, Phonetic
    from rescoring.nbest import Hypothesis, NBest, read_nbest, write_nbest
    from rescoring.phonetics import phonetic_distance, phonetic_similarity
    from rescoring.phrases import PhraseList
    from rescoring.soundex import vnsoundex
    from rescoring.telex import from_telex, to_telex
    from rescoring.weights import Weights

_MODULES = {
    "Consensus": "rescoring.consensus",
    "Hypothesis": "rescoring.nbest",
    "NBest": "rescoring.nbest",
    "Phonetic": "rescoring.consensus",
    "PhraseList": "rescoring.phrases",
    "Rescorer": "rescoring.combine",
    "Weights": "rescoring.weights",
    "expander": "rescoring.bias",
    "from_telex": "rescoring.telex",
    "learn_costs": "rescoring.confusions",
    "phonetic_distance": "rescoring.phonetics",
    "phonetic_similarity": "rescoring.phonetics",
    "read_nbest": "rescoring.nbest",
    "to_telex": "rescoring.telex",
    "vnsoundex": "rescoring.soundex",
    "write_nbest": "rescoring.nbest",
}

__all__ = [
    "Consensus",
    "Hypothesis",
    "NBest",
    "Phonetic",
    "PhraseList",
    "Rescorer",
    "Weights",
    "expander",
    "from_telex",
    "learn_costs",
    "phonetic_distance",
    "phonetic_similarity",
    "read_nbest",
    "to_telex",
    "vnsoundex",
    "write_nbest",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
