"""Every command answers `--help` at once, with an example, and without loading what only work needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trunkline.__main__ import COMMANDS
from trunkline.prepare.cli import COMMANDS as STEPS

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "pyarrow", "faiss", "sklearn", "gensim")

# Runs `python -m MODULE ARGUMENTS` and then says which heavy libraries that loaded.
RUN = """
import runpy, sys
module, *arguments = sys.argv[1:]
sys.argv = [module, *arguments]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
    print("loaded:", *(name for name in {heavy} if name in sys.modules), file=sys.stderr)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN.format(heavy=HEAVY), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


SUBCOMMANDS = [["trunkline.prepare.cli", name] for name in STEPS]
PAGES = [["trunkline"], *([module] for module, _ in COMMANDS.values()), *SUBCOMMANDS]


@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_help_shows_an_example_and_loads_nothing_heavy(words):
    result = run(*words, "--help")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^[Ee]xample: (python -m|trunkline) \w", result.stdout, flags=re.MULTILINE), (
        result.stdout
    )
    assert result.stderr == "loaded:\n"


def test_the_front_door_hands_over_arguments_and_exit_status():
    through_the_door, directly = (
        run("trunkline", "pretrain", "--help"),
        run("ssl.pretrain", "--help"),
    )
    assert through_the_door.stdout == directly.stdout
    assert run("trunkline", "pretrain").returncode == 2
    assert run("trunkline", "pretrain", "no-such-file.yaml").returncode == 2


def test_a_misspelt_command_is_answered_with_the_right_one():
    result = run("trunkline", "pretran")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: no command 'pretran'. Did you mean 'pretrain'?\n")


def test_no_command_at_all_shows_what_there_is():
    result = run("trunkline")
    assert result.returncode == 2
    assert all(f"  {name} " in result.stdout for name in COMMANDS)
