"""Self-supervised pretraining, beside the standard library's `ssl`, whose code runs here unchanged.

`import ssl` must go on meaning TLS for every other library, so the standard module is executed in this namespace;
the submodules (`ssl.pretrain`, `ssl.cluster`, ...) come on top. `trunkline.sslpath` makes them found everywhere.
"""

import os
from importlib.machinery import PathFinder

_standard = PathFinder.find_spec("ssl", [os.path.dirname(os.__file__)])
__file__ = _standard.origin  # type: ignore[union-attr]
exec(_standard.loader.get_code("ssl"), globals())  # type: ignore[union-attr]
