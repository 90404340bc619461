"""The command `embstore.index`: what it builds, lists and updates, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from embstore import EmbeddingStore
from embstore.index import main, size
from embstore.index.opened import Index
from tests.made_stores import SPACE, add, store_of
from trunkline.errors import UsageError

ROOT = Path(__file__).parent.parent


def test_sizes_are_read():
    texts = ("4G", "500M", "1.5g", "12")
    assert [size(text) for text in texts] == [4 << 30, 500 << 20, 3 << 29, 12]
    with pytest.raises(UsageError, match="is no size"):
        size("4Gx")


def test_the_command_builds_lists_and_updates(tmp_path, capsys):
    store = store_of(tmp_path / "store", 60)
    made = subprocess.run(
        [sys.executable, "-m", "embstore.index", str(store.path), "--json"],
        cwd=ROOT, text=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["vectors"] == 60
    add(store, 5, 3, 60)
    assert main([str(store.path), "--list"]) == 0 and "no\n" in capsys.readouterr().out
    assert main([str(store.path), "--update"]) == 0 and "5" in capsys.readouterr().out
    index = Index.open(EmbeddingStore.open(store.path), f"pooled-{SPACE.name}")
    assert index.info.rows == 65


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--kind", "nonsense"], 2, "neither auto, flat, ivf-sq8 nor"),
        (["--metric", "cosin"], 2, "Did you mean 'cosine'"),
        (["--max-memory", "lots"], 2, "is no size"),
        (["--shard", "1"], 2, "write it as K/N"),
        (["--shard", "5/2"], 2, "there are 1 files"),
        (["--merge", "a", "b"], 2, "--merge needs --name"),
        (["--name", "../out"], 2, "letters, digits"),
        (["--update"], 2, "no index yet"),
        (["--update", "--name", "x"], 2, "no index 'x'"),
        (["--table", "segments"], 1, "holds no segments"),
        (["--space", "median"], 2, "no space 'median'"),
    ],
)
def test_the_command_refuses_what_cannot_be(tmp_path, words, status, said, capsys):
    store = store_of(tmp_path / "store", 20)
    assert main([str(store.path), *words]) == status
    assert said in capsys.readouterr().err


def test_a_folder_that_is_no_store_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "is not an embedding store" in capsys.readouterr().err
