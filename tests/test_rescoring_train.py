"""`python -m rescoring.train`: models from text, a summary of what was made, and bad input in one line."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rescoring import phonetics
from rescoring.consensus import Phonetic
from rescoring.corpus import read_lines, read_sentences
from rescoring.lm import ArpaLM, load_lm
from rescoring.options import read_dialect
from rescoring.phon2vec import Phon2Vec
from rescoring.phonetics import phonetic_distance
from rescoring.semantic import SemanticModel
from rescoring.train import main
from tests.language_models import SENTENCES, TEXT
from trunkline.errors import DataError, StorageError

ROOT = Path(__file__).parent.parent
NEWS = ROOT.parent / "shared" / "data" / "vi_news_unc" / "news.tsv.xz"


def summary_of(capsys, *arguments: object) -> dict:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def error_of(capsys, *arguments: object) -> tuple[int, str]:
    status = main([*map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if not line[:4].isdecimal()]
    assert len(lines) == 1
    return status, lines[0]


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_a_language_model_is_trained_as_arpa_text_or_as_a_folder(text, tmp_path, capsys):
    for name in ("lm.arpa", "lm.arpa.gz", "lm"):
        out = tmp_path / name
        summary = summary_of(
            capsys, "lm", "--text", text, "--order", 3, "--out", out, "--dev", text
        )
        assert (summary["sentences"], summary["words"], summary["vocabulary"]) == (8, 30, 16)
        assert [row["n_grams"] for row in summary["tables"]["N-grams"]] == [16, 21, 22]
        (row,) = summary["tables"]["Perplexity on --dev"]
        model = load_lm(out)
        assert row["including_oov"] == pytest.approx(model.perplexity(SENTENCES).including_oov)
    scores = [load_lm(tmp_path / name).score(TEXT.splitlines()) for name in ("lm.arpa.gz", "lm")]
    assert np.array_equal(*scores)


def test_pruning_and_the_fallback_can_be_set(text, tmp_path, capsys):
    arguments = ("lm", "--text", text, "--order", 3, "--out", tmp_path / "a.arpa")
    summary = summary_of(capsys, *arguments, "--prune", 0, 0, 1)
    assert summary["tables"]["N-grams"][2]["n_grams"] == 5
    assert [row["discounts"] for row in summary["tables"]["N-grams"]] == [
        "fallback",
        "fallback",
        "estimated",
    ]
    status, error = error_of(capsys, *arguments, "--overwrite", "--strict-discounts")
    assert status == 1
    assert "discounts of 1-grams cannot be estimated" in error


def test_two_models_are_mixed_with_the_weight_that_dev_wants(text, tmp_path, capsys):
    other = tmp_path / "other.txt"
    other.write_text("trời mưa\ntrời nắng\n", encoding="utf-8")
    summary_of(capsys, "lm", "--text", other, "--order", 2, "--out", tmp_path / "other.arpa")
    arguments = ("lm", "--text", text, "--order", 2, "--out", tmp_path / "a.arpa")
    mixed = ("--mix", tmp_path / "other.arpa", "--mixture", tmp_path / "mix.json", "--dev", text)
    summary = summary_of(capsys, *arguments, *mixed)
    assert summary["weight_of_first"] > 0.9
    rows = summary["tables"]["Perplexity on --dev"]
    assert [row["model"] for row in rows] == ["a.arpa", "other.arpa", "mixture"]
    assert load_lm(tmp_path / "mix.json").oov_rate(["trời khóa thẻ xyz"]) == 0.25
    status, error = error_of(capsys, *arguments, "--overwrite", "--mix", tmp_path / "other.arpa")
    assert status == 2
    assert "--mixture FILE.json and --dev" in error


def test_word_vectors_are_trained_and_imported(text, tmp_path, capsys):
    words = tmp_path / "words.txt"
    words.write_text("tài khoản\nthẻ tín dụng\n", encoding="utf-8")
    settings = ("--dim", 8, "--epochs", 2, "--min-count", 1, "--compounds", words)
    summary = summary_of(capsys, "word2vec", "--text", text, "--out", tmp_path / "v", *settings)
    assert (summary["compounds"], summary["words"], summary["tokens"]) == (2, 30, 27)
    assert summary["covered"] == 1.0
    model = SemanticModel.load(tmp_path / "v", dim=8)
    assert model.tokens("mở tài khoản") == ["mở", "tài_khoản"]

    vectors = tmp_path / "v.vec"
    vectors.write_text("2 2\ntài_khoản 1 0\nthẻ 0 1\n", encoding="utf-8")
    summary = summary_of(capsys, "word2vec", "--import", vectors, "--out", tmp_path / "i")
    assert (summary["tokens"], summary["dim"], summary["compounds"]) == (2, 2, 1)


def test_a_text_too_small_for_sounds_is_refused_by_the_gate_and_nothing_is_written(
    text, tmp_path, capsys
):
    status, error = error_of(
        capsys, "phon2vec", "--text", text, "--out", tmp_path / "p", "--epochs", 1
    )
    assert status == 1
    assert "sound triples right; 90% of at least 100 are needed" in error
    assert not (tmp_path / "p").exists()


def test_sound_vectors_are_trained_from_lists_and_text(tmp_path, capsys):
    from tests.test_rescoring_semantic import sounds

    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(sounds(), 5)) for _ in range(1500)]
    text = tmp_path / "text.txt"
    text.write_text("\n".join(lines), encoding="utf-8")
    rows = [
        {
            "utt_id": f"u{i}",
            "nbest": [{"text": x, "am": 0.0}, {"text": x.replace("s", "x"), "am": -1.0}],
        }
        for i, x in enumerate(lines[:50])
    ]
    nbest = tmp_path / "n.jsonl"
    header = {"schema": "trunkline.nbest/1"}
    nbest.write_text("\n".join(json.dumps(row | header) for row in rows), encoding="utf-8")
    arguments = ("--text", text, "--nbest", nbest, "--dim", 32, "--epochs", 20)
    summary = summary_of(capsys, "phon2vec", *arguments, "--out", tmp_path / "p")
    assert (summary["lists"], summary["sentences"]) == (50, 1550)
    assert summary["gate"]["passed"] >= 0.9
    assert Phon2Vec.load(tmp_path / "p").gate.triples == summary["gate"]["triples"]


def test_costs_are_learnt_from_lists_and_serve_as_a_dialect(tmp_path, capsys):
    hyps = [{"text": "anh lan năm nay", "am": 0.0}]
    rows = [{"utt_id": f"u{i}", "nbest": hyps, "ref": "anh nan lăm nay"} for i in range(40)]
    nbest = tmp_path / "n.jsonl"
    nbest.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    summary = summary_of(capsys, "costs", "--nbest", nbest, "--out", tmp_path / "costs.json")
    assert (summary["lists"], summary["pairs"], summary["unequal"]) == (40, 160, 80)
    (rows,) = summary["tables"].values()
    assert {"part": "onset", "a": "l", "b": "n", "before": 0.15}.items() <= rows[0].items()
    assert rows[0]["now"] < 0.15
    costs = read_dialect(str(tmp_path / "costs.json"))
    assert phonetic_distance("lan", "nan", costs) < phonetic_distance("lan", "nan")
    assert Phonetic(costs).dialect is costs
    command = ["lan", "nan", "--dialect", str(tmp_path / "costs.json"), "--json"]
    assert phonetics.main(command) == 0
    assert json.loads(capsys.readouterr().out)["distance"] == phonetic_distance("lan", "nan", costs)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["costs", "--nbest", "silent.jsonl", "--out", "c"], 1, "no pair of Vietnamese syllables"),
        (["costs", "--nbest", "silent.jsonl", "--out", "c", "--prior", "x"], 2, "no dialect 'x'"),
        (["lm", "--out", "a.arpa"], 2, "--text FILE is needed"),
        (["lm", "--text", "none.txt", "--out", "a.arpa"], 1, "none.txt: there is no such file"),
        (["lm", "--text", "empty.txt", "--out", "a.arpa"], 1, "empty.txt has no word in it"),
        (["lm", "--text", "signs.txt", "--out", "a.arpa"], 1, "signs.txt has no word in it"),
        (["lm", "--text", "latin.txt", "--out", "a.arpa"], 1, "latin.txt:2 is not UTF-8"),
        (["lm", "--text", "bad.jsonl", "--out", "a.arpa"], 1, "bad.jsonl:2 is not valid JSON"),
        (["lm", "--text", "bad.xz", "--out", "a.arpa"], 1, "bad.xz is a broken .xz file"),
        (["lm", "--text", "good.txt", "--out", "empty.txt"], 1, "empty.txt exists already"),
        (["lm", "--text", "good.txt", "--out", "good.txt", "--overwrite"], 2, "a file that is read"),
        (["lm", "--text", "good.txt", "--out", "bad.xz", "--overwrite"], 1, "bad.xz is no folder"),
        (["lm", "--text", "good.txt", "--out", "home", "--overwrite"], 1, "home holds other files"),
        (["lm", "--text", "deep.jsonl", "--out", "a.arpa"], 1, "deep.jsonl:1 is not valid JSON"),
        (["word2vec", "--text", "good.txt", "--out", "v", "--seed", "-1"], 2, "seed must be from 0"),
        (["lm", "--text", "good.txt", "--out", "a.arpa", "--order", "9"], 2, "is 1 to 6, not 9"),
        (["lm", "--text", "good.txt", "--out", "a.arpa", "--order", "6"], 1, "choose a lower order"),
        (["lm", "--text", "good.txt", "--out", "a.arpa", "--dev", "empty.txt"], 1, "empty.txt has no"),
        (["word2vec", "--out", "v"], 2, "--text FILE is needed"),
        (["word2vec", "--text", "good.txt", "--out", "v", "--dim", "0"], 2, "dim must be 1 or more"),
        (["word2vec", "--text", "good.txt", "--out", "v", "--compounds", "x"], 1, "x: there is no such"),
        (["word2vec", "--import", "a.kv", "--out", "v"], 1, "a.kv is a pickle"),
        (["word2vec", "--import", "a.kv", "--text", "good.txt", "--out", "v"], 2, "exclude each other"),
        (["phon2vec", "--out", "v"], 2, "--text FILE or --nbest FILE is needed"),
        (["phon2vec", "--text", "good.txt", "--out", "v", "--swap", "1"], 2, "--swap must be"),
    ],
)  # fmt: skip
def test_bad_input_ends_in_one_line(arguments, status, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").touch()
    Path("signs.txt").write_text("...\n?!\n\n", encoding="utf-8")
    Path("latin.txt").write_bytes("tôi\n".encode() + "khóa".encode("cp1258", "replace") + b"\xff\n")
    Path("bad.jsonl").write_text('{"text": "a"}\n{"text"\n', encoding="utf-8")
    Path("deep.jsonl").write_text("[" * 100_000, encoding="utf-8")
    Path("silent.jsonl").write_text('{"utt_id": "u", "nbest": [{"text": "a", "am": 0}]}\n')
    Path("home").mkdir()
    Path("home", "letters.txt").touch()
    Path("bad.xz").write_bytes(b"no archive")
    Path("good.txt").write_text("a b\na c\n", encoding="utf-8")
    Path("a.kv").write_bytes(b"\x80\x04.")
    found, error = error_of(capsys, *arguments)
    assert found == status
    assert error.startswith("error: ")
    assert message in error


def test_sentences_are_read_from_every_kind_of_file(tmp_path):
    (tmp_path / "a.txt").write_text("Tôi, khóa\r\n\n...\nthẻ 24\n", encoding="utf-8")
    (tmp_path / "b.tsv").write_text("x\tdoc\tTôi khóa\nx\tdoc\tthẻ 24\n", encoding="utf-8")
    rows = '{"text": "Tôi khóa", "id": 1}\n{"id": 2}\n\n{"text": "thẻ 24"}\n'
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    (tmp_path / "d.jsonl.xz").write_bytes(lzma.compress(rows.encode()))
    for name in ("a.txt", "b.tsv", "c.jsonl.gz", "d.jsonl.xz"):
        assert list(read_sentences([tmp_path / name])) == [["tôi", "khóa"], ["thẻ", "24"]], name
    (tmp_path / "e.jsonl").write_text('{"text": 3}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r'e.jsonl:1: "text" must be a string'):
        list(read_lines(tmp_path / "e.jsonl"))
    with pytest.raises(StorageError):
        list(read_lines(tmp_path))


def test_help_is_quick_and_import_rescoring_loads_nothing_heavy(tmp_path):
    code = (
        "import sys, rescoring; rescoring.to_telex('tài')\n"
        "import rescoring.lm, rescoring.semantic, rescoring.train\n"
        "try: rescoring.train.main(['lm', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = [x for x in ('torch', 'gensim', 'scipy', 'kenlm', 'faiss') if x in sys.modules]\n"
        "print(heavy, file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "example: python -m rescoring.train lm" in result.stdout
    assert result.stderr.strip() == "[]"


@pytest.mark.skipif(not NEWS.exists(), reason="needs ../shared/data/vi_news_unc")
def test_a_model_of_news_has_the_perplexity_of_lmplz(tmp_path):
    # kenlm 0.3.0: `lmplz -o 4` on the first 3,000 sentences, `query` on the next 300, ends counted.
    sentences = [x for _, x in zip(range(3300), read_sentences([NEWS]), strict=False)]
    path = tmp_path / "news.txt"
    path.write_text("".join(" ".join(x) + "\n" for x in sentences[:3000]), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "rescoring.train",
        "lm",
        "--text",
        path,
        "--out",
        tmp_path / "lm",
    ]
    result = subprocess.run(
        [*map(str, command), "--json"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout)["sentences"] == 3000
    found = ArpaLM.load(tmp_path / "lm").perplexity(sentences[3000:])
    assert found.including_oov == pytest.approx(104.19181, rel=5e-5)
    assert found.excluding_oov == pytest.approx(85.28077, rel=5e-5)
    assert (found.oov, found.words) == (396, 14031)
