"""Self-supervised pretraining, in a package that is also the standard library's `ssl`.

The standard module's own code runs here, in this namespace, so that torch, asyncio and urllib get what they expect.
The toolkit's own names are in the modules: `ssl.pretrain`, `ssl.cluster`, `ssl.probe` and those they use.
"""

import os
from importlib.machinery import PathFinder

_standard = PathFinder.find_spec("ssl", [os.path.dirname(os.__file__)])
__file__ = _standard.origin
exec(_standard.loader.get_code("ssl"), globals())
