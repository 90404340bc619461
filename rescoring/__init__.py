"""Rescoring of N-best lists by language, meaning and Vietnamese sound; no torch.

The public names are loaded when they are first used, so that `import rescoring` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rescoring.phonetics import phonetic_distance, phonetic_similarity
    from rescoring.soundex import vnsoundex
    from rescoring.telex import from_telex, to_telex

_MODULES = {
    "from_telex": "rescoring.telex",
    "phonetic_distance": "rescoring.phonetics",
    "phonetic_similarity": "rescoring.phonetics",
    "to_telex": "rescoring.telex",
    "vnsoundex": "rescoring.soundex",
}

__all__ = [
    "from_telex",
    "phonetic_distance",
    "phonetic_similarity",
    "to_telex",
    "vnsoundex",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
