"""`trunkline COMMAND ...` and `python -m trunkline COMMAND ...`: one front door to every command of the toolkit."""

import trunkline.sslpath  # noqa: F401, I001  (first: the standard library's ssl may be imported by what follows)

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from trunkline import __version__
from trunkline.errors import nearest


class Command(NamedTuple):
    """Where a command lives (a module with `main(argv) -> int`) and what it does, in a line."""

    module: str
    summary: str


COMMANDS = {
    "doctor": Command("trunkline.doctor", "tell versions, threads, devices, and what is missing for what"),
    "data": Command("trunkline.prepare.cli", "check a manifest, or make one from a folder, table or other toolkit"),
    "pretrain": Command("ssl.pretrain", "turn unlabelled recordings into a backbone"),
    "cluster": Command("ssl.cluster", "make the targets of pretraining alone"),
    "probe": Command("ssl.probe", "measure what frozen frames know about a label"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the arguments to the module of the command; return its exit status, 2 if there is no such command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"trunkline {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"error: no command {name!r}.{nearest(name, COMMANDS)}", file=sys.stderr)
        return 2
    return importlib.import_module(COMMANDS[name].module).main(rest)


def usage() -> str:
    """Return the help text: every command in a line."""
    width = max(map(len, COMMANDS))
    lines = (f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    return (
        "usage: trunkline COMMAND [options]\n\n"
        "One streaming speech encoder, many heads, and a store of vectors, for contact-centre calls.\n\n"
        "commands:\n" + "\n".join(lines) + "\n\n"
        "`trunkline COMMAND --help` tells a command's options.\n"
        "Example: trunkline pretrain configs/pretrain/tiny.yaml data.manifest=calls out=runs/first"
    )


if __name__ == "__main__":
    raise SystemExit(main())
