"""Tokenizers lose nothing, keep their special ids, survive being saved, and refuse what is wrong."""

from __future__ import annotations

import json
import lzma
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.errors import CheckpointError, DataError, UsageError
from trunkline.text import Normaliser, normalise
from trunkline.tokenizer import (
    BLANK,
    KINDS,
    SOS_EOS,
    SPECIAL,
    TASKS,
    UNK,
    Tokenizer,
    import_vocabulary,
    load_tokenizer,
    train_tokenizer,
)
from trunkline.tokenizer.base import from_dict

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
VOCABULARY = SHARED / "golden/chunkformer/checkpoint/vocab.txt"
needs_data = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the shared data (../shared) are not here"
)

TEXTS = [
    normalise(text)
    for text in (
        "Xin chào anh chị, em gọi từ ngân hàng",
        "Dạ tôi muốn hỏi số dư tài khoản [cười]",
        "Chuyển 1.500.000đ lúc 9h30, iPhone 12",
        "vâng em cảm ơn anh ạ",
        "lãi suất là bao nhiêu phần trăm",
    )
    * 3
]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request) -> Tokenizer:
    return train_tokenizer(request.param, TEXTS, size=80 if request.param == "unigram" else 100)


def test_the_special_ids_are_fixed():
    assert (BLANK, UNK, SOS_EOS, TASKS) == (0, 1, 2, (3, 4, 5, 6, 7, 8, 9, 10))
    assert SPECIAL[:3] == ("<blank>", "<unk>", "<sos/eos>")
    assert SPECIAL[3:] == tuple(f"<|task{i}|>" for i in range(8))


def test_every_kind_has_them_first(tokenizer):
    assert tokenizer.pieces[: len(SPECIAL)] == SPECIAL
    ids = (tokenizer.blank, tokenizer.unk, tokenizer.sos_eos, tokenizer.tasks)
    assert ids == (BLANK, UNK, SOS_EOS, TASKS)
    assert len(set(tokenizer.pieces)) == len(tokenizer)


def test_what_was_trained_on_comes_back_exactly(tokenizer):
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert min(ids) >= len(SPECIAL)
    assert tokenizer.unknown(TEXTS) == 0


words = st.lists(st.text("xinchàogọtừ", min_size=1, max_size=9), max_size=6).map(" ".join)


@settings(deadline=None)
@given(text=words)
def test_any_text_of_known_characters_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(deadline=None)
@given(text=st.text())
def test_any_text_at_all_gives_ids_and_only_what_is_unknown_is_lost(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(0 < index < len(tokenizer) for index in ids)
    if tokenizer.unk not in ids:
        known = " ".join(text.split())
        assert tokenizer.decode(ids) == known


@pytest.mark.parametrize("written", [*SPECIAL, "a\u2581b", "\u2581"])
def test_no_text_is_taken_for_a_special_token_or_a_space(tokenizer, written):
    ids = tokenizer.encode(f"xin {written} chào")
    silent = {BLANK, SOS_EOS, *TASKS}
    assert not silent & set(ids)
    assert tokenizer.decode(ids).split()[0] == "xin"
    assert len(tokenizer.decode(ids).split()) == 3


def test_special_tokens_are_silent_when_decoded_but_the_unknown_is_seen():
    tokenizer = train_tokenizer("characters", TEXTS)
    ids = [SOS_EOS, 3, *tokenizer.encode("xin"), UNK, BLANK, SOS_EOS]
    assert tokenizer.decode(ids) == "xin<unk>"


@pytest.mark.parametrize("index", [-1, 10_000])
def test_an_id_that_is_not_there_is_refused(tokenizer, index):
    with pytest.raises(UsageError, match=f"There is no token {index}"):
        tokenizer.decode([index])


def test_tags_are_one_piece(tokenizer):
    pieces = tokenizer.tokenize("dạ <laugh>")
    assert any(piece.strip("▁") == "<laugh>" for piece in pieces), pieces


def test_syllables_are_whole_and_other_words_are_spelt():
    tokenizer = train_tokenizer("syllables", TEXTS)
    assert tokenizer.tokenize("xin chào iphone") == ["▁xin", "▁chào", "▁", *"iphone"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_texts_give_the_same_tokenizer(kind):
    size = 80 if kind == "unigram" else 100
    made = [train_tokenizer(kind, TEXTS, size=size) for _ in range(2)]
    assert made[0].fingerprint == made[1].fingerprint


def test_order_does_not_matter_to_characters_and_syllables():
    for kind in ("characters", "syllables"):
        there, back = train_tokenizer(kind, TEXTS), train_tokenizer(kind, TEXTS[::-1])
        assert there.fingerprint == back.fingerprint


def test_rare_pieces_and_a_size_are_heeded():
    texts = ["an an ba", "an bò"]
    assert "▁bò" not in train_tokenizer("syllables", texts, min_count=2).pieces
    assert len(train_tokenizer("syllables", texts, size=19)) == 19
    assert train_tokenizer("characters", texts, min_count=2).unknown(["ba bò"]) == 1
    with pytest.raises(UsageError, match="needs a size of 16 at least, not 12"):
        train_tokenizer("syllables", texts, size=12)


# --- files


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    path = tokenizer.save(tmp_path / "folder")
    assert path == tmp_path / "folder" / "tokenizer.json"
    library = tokenizer.kind in ("bpe", "unigram")
    assert path.with_suffix(".model").exists() == library
    for source in (path, path.parent):
        again = load_tokenizer(source)
        assert again.fingerprint == tokenizer.fingerprint
        assert [again.encode(x) for x in TEXTS] == [tokenizer.encode(x) for x in TEXTS]
    first = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == first


def test_it_lies_in_other_json_and_in_other_processes(tokenizer):
    held = from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    sent = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301
    assert held.fingerprint == sent.fingerprint == tokenizer.fingerprint
    assert sent.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "trunkline.tokenizer/2"}, "from a newer one"),
        ({"format": None}, "has format None"),
        ({"kind": "character"}, "unknown kind 'character'. Did you mean 'characters'"),
        ({"pieces": "abc"}, "pieces must be a list"),
        ({"pieces": ["a", "a"]}, "the piece 'a' twice"),
        ({"unk": 0}, "must be different ids"),
        ({"unk": True}, "must be different ids"),
        ({"sos_eos": 10_000}, "must be different ids"),
        ({"tasks": None}, "tasks must be a list"),
        ({"pieces": [f"p{i}" for i in range(20)]}, "no piece for the space"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, change, message):
    path = train_tokenizer("characters", TEXTS).save(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change))
    with pytest.raises(CheckpointError, match=message) as error:
        load_tokenizer(path)
    assert str(path) in str(error.value)


def test_a_model_that_is_missing_altered_or_elsewhere_is_refused(tmp_path):
    path = train_tokenizer("bpe", TEXTS, size=100).save(tmp_path)
    model = path.with_suffix(".model")
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is not the model that"):
        load_tokenizer(path)
    model.unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer.model is missing"):
        load_tokenizer(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_file": "../x.model"}))
    with pytest.raises(CheckpointError, match="in the same folder"):
        load_tokenizer(path)
    fields = train_tokenizer("bpe", TEXTS, size=100).to_dict()
    for model_text in ("AAAA", "?"):
        with pytest.raises(CheckpointError, match="model"):
            from_dict(fields | {"model": model_text})
    with pytest.raises(CheckpointError, match="not those of its model"):
        from_dict(fields | {"pieces": [*fields["pieces"][:-1], "qqq"]})


# --- ChunkFormer


@needs_data
def test_a_chunkformer_vocabulary_keeps_its_ids():
    tokenizer = load_tokenizer(VOCABULARY)
    ids = (len(tokenizer), tokenizer.blank, tokenizer.unk, tokenizer.sos_eos, tokenizer.tasks)
    assert ids == (50, 0, 1, 49, ())
    assert tokenizer.encode("xin chào anh") == [3, 4, 5]
    assert tokenizer.decode([0, 3, 0, 4, 49]) == "xin chào"
    assert tokenizer.decode(tokenizer.encode("vay tiền")) == "vay tiền"


def test_pieces_are_the_longest_from_left_to_right(tmp_path):
    pieces = ["<blank>", "<unk>", "▁", "▁ng", "▁ngh", "i", "iê", "ên", "n", "g", "▁nghiêng", "<sos/eos>"]  # fmt: skip
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{piece} {i}\r\n" for i, piece in enumerate(pieces)), encoding="utf-8")
    tokenizer = import_vocabulary(path)
    assert tokenizer.tokenize("nghiêng nghiên nin nix") == [
        "▁nghiêng", "▁ngh", "iê", "n", "▁", "n", "i", "n", "▁", "n", "i", "<unk>",
    ]  # fmt: skip
    again = load_tokenizer(tokenizer.save(tmp_path / "saved"))
    assert again.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<blank> 0\n<unk>\n", r"vocab.txt:2 must be a piece, a space and an id"),
        ("<blank> 0\na x\n", "vocab.txt:2 must be"),
        ("<blank> 0\na 0\n", "gives id 0 to 'a', which '<blank>' has"),
        ("<blank> 0\na 2\n", "no line for id 1 of 2"),
        ("<blank> 0\na 1\n▁ 2\n", "no piece <unk>"),
        ("<blank> 0\n<unk> 1\n▁ 2\na 3\na 4\n<sos/eos> 5\n", "the piece 'a' twice"),
        ("", "no piece <blank>"),
    ],
)
def test_a_wrong_vocabulary_is_refused(tmp_path, text, message):
    path = tmp_path / "vocab.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        import_vocabulary(path)


# --- real texts


@needs_data
@pytest.mark.parametrize("kind", KINDS)
def test_real_texts_come_back_exactly(kind):
    with lzma.open(SHARED / "data/vi_news_unc/news.tsv.xz", "rt", encoding="utf-8") as file:
        texts = [line.rstrip("\n").split("\t", 2)[-1] for line in list(file)[1::30]]
    vivos = SHARED / "data/vi_vivos_text/vivos_text.jsonl.xz"
    with lzma.open(vivos, "rt", encoding="utf-8") as file:
        texts += [json.loads(line)["text"] for line in list(file)[::10]]
    normaliser = Normaliser()
    texts = [text for text in map(normaliser, texts) if text]
    tokenizer = train_tokenizer(kind, texts, size=1000 if kind in ("bpe", "unigram") else None)
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts
    assert tokenizer.unknown(texts) == 0


# --- commands


def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "trunkline", "tokenizer", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, input=stdin)


def test_the_command_trains_imports_and_shows(tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS), encoding="utf-16")
    trained = run("train", "bpe", str(texts), str(tmp_path / "bpe"), "--size", "100", "--json")
    assert trained.returncode == 0, trained.stderr
    summary = json.loads(trained.stdout)
    assert (summary["unknown_tokens"], summary["round_trips"]) == (0, len(TEXTS))
    shown = run("encode", str(tmp_path / "bpe"), "-", "--language", "vi", "--json", stdin="Xin CHÀO\n")  # fmt: skip
    (row,) = json.loads(shown.stdout)["tables"]["texts"]
    assert row["text"] == "xin chào"
    assert load_tokenizer(tmp_path / "bpe").decode(row["ids"]) == "xin chào"


def test_the_command_trains_on_one_split_of_a_manifest(tmp_path):
    manifest = tmp_path / "calls.jsonl"
    rows = [
        {"audio_filepath": "a.wav", "text": "xin chào", "split": "train"},
        {"audio_filepath": "b.wav", "text": "vâng", "split": "test"},
        {"audio_filepath": "c.wav", "split": "train"},
    ]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "characters.json"
    done = run("train", "characters", str(manifest), str(out), "--split", "train")
    assert done.returncode == 0, done.stderr
    assert load_tokenizer(out).unknown(["xin", "vâng"]) == 3


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["train", "words", "a.txt", "out"], 2, "invalid choice"),
        (["train", "bpe", "missing.txt", "out"], 1, "Cannot read missing.txt"),
        (["train", "bpe", "{empty}", "out"], 1, "No text in"),
        (["train", "bpe", "{short}", "out", "--size", "5000"], 2, "No bpe tokenizer of 5000"),
        (["train", "bpe", "{short}", "out", "--size", "0"], 2, "--size and --min-count"),
        (["train", "bpe", "{short}", "out", "--split", "train"], 2, "has no splits"),
        (["encode", "nowhere", "x"], 1, "tokenizer.json is missing"),
        (["import", "missing.txt", "out"], 1, "Cannot read missing.txt"),
    ],
)
def test_wrong_use_is_answered_in_a_sentence(tmp_path, words, status, message):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "short.txt").write_text("xin chào\n")
    names = {name: str(tmp_path / f"{name}.txt") for name in ("empty", "short")}
    done = run(*(word.format(**names).replace("out", str(tmp_path / "out")) for word in words))
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr
