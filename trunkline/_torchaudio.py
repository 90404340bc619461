"""The only place that imports torchaudio, with or without its native part.

Its wheels are built for one CUDA version and raise on import beside a torch for CPUs or for another CUDA. Nearly all
of it is plain PyTorch, so where the native part does not load, `torchaudio._extension` is replaced by a stub.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

from trunkline.errors import DependencyError

NATIVE_FEATURES = (
    "functional.forced_align",
    "functional.rnnt_loss",
    "models.decoder.cuda_ctc_decoder",
    "fast lfilter",
)


def load() -> ModuleType:
    """Return torchaudio; `missing` tells which of its features do not work here.

    Raises:
        DependencyError: torchaudio is not installed.
    """
    return _load()[0]


def missing() -> tuple[str, ...]:
    """Return the features of torchaudio that its native part would give and that do not work here."""
    return NATIVE_FEATURES if _load()[1] else ()


def reason() -> str:
    """Return why the native part does not load, in a sentence, or an empty string when it does."""
    return _load()[1]


@functools.cache
def _load() -> tuple[ModuleType, str]:
    try:
        return importlib.import_module("torchaudio"), ""
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"{error.name} is not installed; run: pip install torchaudio"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        why = str(error)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]
    sys.modules["torchaudio._extension"] = _stub(why)
    return importlib.import_module("torchaudio"), why


def _stub(why: str) -> ModuleType:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise DependencyError(
            f"This needs the native part of torchaudio, which does not load ({why}); "
            "install the torchaudio that was built for this torch."
        )

    def refusing(function: Callable[..., object]) -> Callable[..., object]:
        return functools.wraps(function)(refuse)

    stub = ModuleType("torchaudio._extension")
    stub.__dict__.update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        _check_cuda_version=lambda: None,
        _load_lib=refuse,
        fail_if_no_align=refusing,
    )
    return stub
