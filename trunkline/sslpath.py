"""Let `ssl.pretrain` and its neighbours be found beside the standard library's `ssl`.

The package `ssl` of this toolkit bears the name of a standard module. In a checkout it comes first on the path; an
installed copy comes last and would never be found. Importing this module (from `conftest.py`, from `trunkline` and
from `trunkline.pth`, at every start of an interpreter it is installed for) mends that: a finder for the one name `ssl`
looks for our folder first, and an `ssl` that is imported already is given a path to it. It must not import ssl.
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


def find_folder() -> str | None:
    """Return the first folder on `sys.path` that holds ``ssl/pretrain.py``, or None."""
    folders = (entry or os.curdir for entry in sys.path)
    return next((x for x in folders if os.path.isfile(os.path.join(x, "ssl", "pretrain.py"))), None)


class SslFinder:
    """A finder that answers for the top-level name `ssl` and nothing else."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of the toolkit's `ssl` package, or None to let the usual finders answer."""
        folder = find_folder() if name == "ssl" else None
        return PathFinder.find_spec(name, [folder], target) if folder else None


def install() -> None:
    """Put the finder first (once), or extend an `ssl` that is imported already."""
    module, folder = sys.modules.get("ssl"), find_folder()
    if module is not None and not hasattr(module, "__path__") and folder:
        module.__path__ = [os.path.abspath(os.path.join(folder, "ssl"))]
    if SslFinder not in sys.meta_path:
        sys.meta_path.insert(0, SslFinder)


install()
