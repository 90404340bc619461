"""Let `ssl.pretrain` be found although the standard library has a module `ssl`, wherever Python was started.

Run by `trunkline.pth` at every start of an environment that has the toolkit, so it stays small and never imports `ssl`.
"""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder


class SslFinder:
    """Answers for the one name `ssl`: the package that holds `pretrain.py`, if a folder of `sys.path` has it."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return where the toolkit's `ssl` is, or None to leave the name to the standard library."""
        if name != "ssl":
            return None
        for entry in sys.path:
            if isinstance(entry, str) and os.path.isfile(os.path.join(entry, "ssl", "pretrain.py")):
                return PathFinder.find_spec("ssl", [entry])
        return None


def install() -> None:
    """Put the finder first; a standard `ssl` that is imported already learns where the submodules are."""
    if SslFinder not in sys.meta_path:
        sys.meta_path.insert(0, SslFinder)
    module = sys.modules.get("ssl")
    spec = SslFinder.find_spec("ssl")
    if module is not None and spec is not None and not hasattr(module, "__path__"):
        module.__path__ = list(spec.submodule_search_locations or ())


install()
