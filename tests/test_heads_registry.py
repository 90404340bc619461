"""The registry of heads: clashes name both, misses name the nearest, other packages come by entry point."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import heads
from heads import Head, available_heads, find_head, register_head
from trunkline.errors import ConfigError, UsageError

ROOT = Path(__file__).parent.parent


def test_our_heads_are_there_by_name():
    assert {"aed", "ctc", "intent", "sentiment", "speaker", "vad"} <= set(available_heads())
    for name in heads.registry.OWN:
        assert find_head(name).kind == name
    assert find_head("heads.ctc:CTCHead") is find_head("ctc")


def test_a_name_that_is_taken_names_both_classes():
    find_head("intent")
    with pytest.raises(UsageError, match=r"heads\.classification:IntentHead and .*Mine"):

        @register_head("intent")
        class Mine(Head):
            pass


def test_a_miss_names_the_nearest_and_what_to_type():
    with pytest.raises(ConfigError, match="Did you mean 'intent'.*module:Class"):
        find_head("intend")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:Thing", "cannot be imported: No module named 'no_such_module'"),
        ("heads.ctc:CTCHaed", "has no class 'CTCHaed'. Did you mean 'CTCHead'"),
        ("heads.head:HeadOptions", "is no head: derive it from heads.Head"),
        ("heads.head:PooledHead", "is not registered"),
    ],
)
def test_a_path_that_is_no_head_is_refused(path, message):
    with pytest.raises(ConfigError, match=message):
        find_head(path)


def test_what_is_no_head_or_has_loose_options_cannot_be_registered():
    @dataclass
    class Loose:
        size: int = 1

    with pytest.raises(UsageError, match="derive it from heads.Head"):
        register_head("thing")(dict)
    with pytest.raises(UsageError, match="Options must be a frozen dataclass"):

        @register_head("thing")
        class Thing(Head):
            Options = Loose

    with pytest.raises(UsageError, match="is no name for a head"):
        register_head("two words")(Head)


HEAD = """
from heads import Head, register_head

@register_head("{name}")
class Theirs(Head):
    pass
"""
ASK = """
from heads import available_heads, find_head
print("theirs" in available_heads())
print(find_head("theirs").__module__)
"""


@pytest.mark.parametrize("name", ["theirs", "others"])
def test_heads_of_installed_packages_come_by_entry_point(tmp_path, name):
    (tmp_path / "their_heads.py").write_text(HEAD.format(name=name))
    info = tmp_path / "their_heads-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-heads\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[trunkline.heads]\ntheirs = their_heads:Theirs\n")
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
        capture_output=True,
        text=True,
        check=False,
    )
    if name == "theirs":
        assert done.stdout == "True\ntheir_heads\n", done.stderr
    else:
        assert "registers itself as 'others'" in done.stderr


def test_public_names_are_lazy_and_complete():
    code = "import sys, heads; assert 'torch' not in sys.modules; print(*sorted(heads.__all__))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == sorted(heads.__all__)
    assert all(getattr(heads, name) is not None for name in heads.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = heads.nothing
