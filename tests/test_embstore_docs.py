"""The page about the store tells the truth: its queries run in every engine, and all give one answer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from embstore.search import main, search, vector_of
from tests.made_stores import store_of
from trunkline.__main__ import COMMANDS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "embstore.md").read_text(encoding="utf-8")
ENGINES = {
    "pyarrow": "pyarrow.dataset",
    "pandas": "pandas",
    "polars": "polars",
    "embstore": "from embstore",
}


def blocks(language: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_of(tmp_path_factory.mktemp("docs") / "store", 120, 100)


@pytest.fixture(scope="module")
def expected(store) -> list[str]:
    query, _ = vector_of(store, "call-17", channel=1)
    where = "channel = 1 and duration_ms > 2000 and call_id != 'call-17'"
    return search(store, query, 10, where=where)["call_id"].to_pylist()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_query_in_python_gives_the_answer(store, expected, engine, monkeypatch):
    pytest.importorskip(engine)
    (code,) = (block for block in blocks("python") if ENGINES[engine] in block)
    monkeypatch.chdir(store.path.parent)
    found: dict[str, object] = {}
    exec(compile(code, f"docs/embstore.md, {engine}", "exec"), found)  # noqa: S102  (our own page)
    assert found["nearest"] == expected


@pytest.mark.parametrize("page", ["docs/embstore.md", "README.md"])
def test_the_query_in_sql_gives_the_answer(store, expected, page, monkeypatch):
    duckdb = pytest.importorskip("duckdb")
    (query,) = blocks("sql", (ROOT / page).read_text(encoding="utf-8"))
    monkeypatch.chdir(store.path.parent)
    rows = duckdb.execute(query).fetchall()
    assert [name for name, _ in rows] == expected


def test_the_query_on_the_command_line_gives_the_answer(store, expected, capsys):
    words = ["--like", "call-17", "--channel", "customer"]
    where = "channel = 1 and duration_ms > 2000"
    assert f'{" ".join(words)} --where "{where}"' in PAGE
    assert main([str(store.path), *words, "--where", where]) == 0
    assert re.findall(r"call-\d+", capsys.readouterr().out) == expected


def test_every_command_that_is_shown_exists():
    shown = set(re.findall(r"^    trunkline ([\w-]+) ", PAGE, flags=re.MULTILINE))
    assert len(shown) >= 8 and shown <= set(COMMANDS)
