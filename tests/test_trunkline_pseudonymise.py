"""`trunkline data pseudonymise` and `scan`: names tell nothing, sound is untouched, numbers do not get out."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tests.preparing import ROOT, data, rows_of, write_rows
from trunkline.manifest import load_manifest
from trunkline.prepare import private
from trunkline.prepare.keys import plain_phone, pseudonym
from trunkline.prepare.pseudonymise import scan

KEY = bytes(range(32))
SPELLED = ["không", "một", "hai", "ba", "bốn", "năm", "sáu", "bảy", "tám", "chín"]
CARD = "4111111111111111"
PHONE, ACCOUNT = "0901234567", "19031234567890"


def key_file(folder: Path, mode: int = 0o600, content: bytes = KEY) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "secret.key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def corpus(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in (f"{PHONE} gọi.wav", "b.wav", "tagged.flac"):
        soundfile.write(folder / name, rng.normal(0, 0.1, (800, 2)), 8000)
    samples, _ = soundfile.read(folder / "tagged.flac")
    with soundfile.SoundFile(folder / "tagged.flac", "w", 8000, 2) as file:
        file.comment = f"call from {PHONE}"
        file.write(samples)
    rows = [
        {"audio_filepath": f"{PHONE} gọi.wav", "channel": c, "speaker": s, "phone": "+84 901 234 567",
         "text": "dạ em chào anh", "name": "Nguyễn Văn An", "licence": "internal", "labels": {"intent": "card"}}
        for c, s in ((0, "An"), (1, "KH 17"))
    ]  # fmt: skip
    rows += [
        {"audio_filepath": "b.wav", "channel": 0, "speaker": " an ", "phone": PHONE, "text": "dạ"},
        {"audio_filepath": "b.wav", "channel": 1, "text": " ".join(SPELLED[int(d)] for d in PHONE)},
        {"audio_filepath": "b.wav", "channel": 1, "start": 0.05, "labels": {"slot": CARD}},
        {"audio_filepath": "tagged.flac", "channel": 0},
        {"audio_filepath": "gone.wav", "channel": 0},
    ]
    return write_rows(folder / "calls.jsonl", rows)


def test_names_tell_nothing_and_sound_is_untouched(tmp_path: Path):
    source, out = corpus(tmp_path / "raw"), tmp_path / "private"
    key = key_file(tmp_path / "keys")
    before = {
        path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir() if path.is_file()
    }
    words = ["pseudonymise", source, out, "--key-file", key, "--max-bad", "0.9", "--json"]
    done = data(*words)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["cuts"], summary["set_aside"]) == (3, 4)
    assert summary["keys_left_out"] == ["name"]
    manifest = load_manifest(out / "manifest.jsonl")
    a, b, c = manifest
    for original, cut in zip(list(load_manifest(source))[:3], manifest, strict=True):
        assert cut.audio_filepath.read_bytes() == original.audio_filepath.read_bytes()
        assert np.array_equal(cut.load(), original.load())
        assert cut.text == original.text and cut.channel == original.channel
    assert a.call_id == b.call_id != c.call_id
    assert a.speaker == c.speaker != b.speaker  # however it was written
    assert a.extra["phone"] == c.extra["phone"]
    assert a.extra["licence"] == "internal" and a.labels == {"intent": "card"}
    everything = "".join(
        str(path) + (path.read_text() if path.suffix == ".jsonl" else "") for path in out.rglob("*")
    )
    for secret in (PHONE, "901", "gọi", "An", "KH 17", "b.wav", "raw", "keys", CARD, KEY.hex()):
        assert secret not in everything.replace(str(tmp_path), ""), secret
    reasons = [row["reason"] for row in rows_of(out / "manifest.quarantine.jsonl")]
    assert [row["line"] for row in rows_of(out / "manifest.quarantine.jsonl")] == [4, 5, 6, 7]
    assert reasons == [
        "the line holds a phone number",
        "the line holds a card number",
        "the recording's metadata hold a phone number",
        "the recording cannot be read",
    ]
    after = {
        path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir() if path.is_file()
    }
    assert before == after
    first = (out / "manifest.jsonl").read_bytes()
    assert data(*words).returncode == 0  # again: the same
    assert (out / "manifest.jsonl").read_bytes() == first
    copied = ["pseudonymise", source, tmp_path / "copy", *words[3:], "--audio", "copy"]
    assert data(*copied).returncode == 0
    assert (tmp_path / "copy" / "manifest.jsonl").read_bytes() == first
    assert data("scan", out).returncode == 0


def test_another_key_gives_other_names():
    names = {pseudonym(key, "call", "17") for key in (KEY, KEY[::-1], KEY * 3, KEY * 4)}
    assert len(names) == 4
    assert pseudonym(KEY, "call", "17") != pseudonym(KEY, "speaker", "17")
    digest = hashlib.blake2b(b"17", key=KEY, person=b"call", digest_size=12).hexdigest()
    assert pseudonym(KEY, "call", "17") == "".join(chr(97 + int(h, 16)) for h in digest)


@given(st.text(min_size=1, max_size=20), st.binary(min_size=16, max_size=80))
def test_a_name_is_letters_only_and_holds_no_number(value, key):
    name = pseudonym(key, "speaker", value)
    assert len(name) == 24 and set(name) <= set("abcdefghijklmnop")
    assert private.find(f"speaker-{name}") == []


@pytest.mark.parametrize(
    "text", ["0901234567", "+84901234567", "84 901-234-567", "0084 901 234 567"]
)
def test_a_telephone_has_one_name_however_it_is_written(text):
    assert plain_phone(text) == PHONE


def refused(tmp_path: Path, key: Path) -> str:
    done = data("pseudonymise", corpus(tmp_path / "raw"), tmp_path / "out", "--key-file", key)
    assert done.returncode in (1, 2)
    assert not (tmp_path / "out").exists()
    return done.stderr


def test_a_key_that_is_missing_open_inside_the_data_or_short_is_refused(tmp_path: Path):
    assert "does not exist" in refused(tmp_path, tmp_path / "none.key")
    for mode in (0o644, 0o640, 0o604, 0o660):
        assert "chmod 600" in refused(tmp_path, key_file(tmp_path / "k", mode))
    assert "inside the data" in refused(tmp_path, key_file(tmp_path / "raw"))
    linked = tmp_path / "raw" / "link.key"
    linked.symlink_to(key_file(tmp_path / "elsewhere"))
    assert "inside the data" in refused(tmp_path, linked)
    assert "holds 5 bytes" in refused(tmp_path, key_file(tmp_path / "k", content=b"12345"))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (PHONE, "phone"), ("0901 234 567", "phone"), ("090-123-4567", "phone"), ("(090) 123.4567", "phone"),
        ("+84 90 123 4567", "phone"), ("02838291234 số bàn", "phone"),
        ("gọi số không chín không một hai ba bốn năm sáu bảy nhé", "phone"),
        ("KHÔNG CHÍN KHÔNG MỘT HAI BA BỐN NĂM SÁU BẢY", "phone"),
        ("khong chin khong mot hai ba bon nam sau bay", "phone"),
        ("không chín, không một, hai ba; bốn năm sáu bảy", "phone"), ("0901,234,567", "phone"),
        ("không chín ờ không một dạ hai ba bốn năm sáu bảy", "phone"),
        ("09 không một hai ba bốn 567", "phone"), ("oh nine double zero one two three four five six", "phone"),
        (CARD, "card"), ("4111 1111 1111 1111", "card"), ("5500-0000-0000-0004", "card"), ("378282246310005", "card"),
        ("bốn " + "một " * 15, "card"), (ACCOUNT, "account"), ("4111111111111112", "account"),
        ("stk 123456789", "account"),
        ("1.500.000 đồng", None), ("1,500,000,000 VND", None), ("150.000.000đ", None), ("12345678", None),
        ("ngày 20/11/2026 lúc 10 giờ 30", None), ("2026-11-21 15:00:00", None), ("21.11.2026 2 người", None),
        ("năm hai nghìn không trăm hai mươi sáu", None), ("một hai ba bốn năm", None),
        ("hai ba người nam và ba nữ", None),
        ("chín trăm chín mươi chín nghìn đồng", None), ("sau này nam bay hai ba lần", None),
        ("d41d8cd98f00b204e9800998ecf8427e", None), ("", None),
    ],
)  # fmt: skip
def test_numbers_are_found_and_amounts_and_dates_are_not(text, kind):
    assert [found.kind for found in private.find(text)] == [kind] * (kind is not None)


@given(st.text(alphabet="0123456789", min_size=9, max_size=19), st.integers(0, 3))
def test_no_run_of_nine_digits_escapes_however_it_is_spelled(digits, style):
    text = {
        0: digits,
        1: " ".join(SPELLED[int(d)] for d in digits),
        2: "-".join(digits),
        3: " ".join(d if i % 2 else SPELLED[int(d)] for i, d in enumerate(digits)),
    }[style]
    assert private.find(f"số {text} ạ")
    assert private.find_in_line(json.dumps({"text": [text]}))
    assert private.find_in_line(json.dumps({text: 1}))


@given(st.text(max_size=80))
def test_any_text_can_be_scanned(text):
    for found in private.find(text):
        assert found.end > found.start


def test_the_check_digit_is_that_of_iso_7812():
    assert private.luhn(CARD) and private.luhn("79927398713")
    assert not any(private.luhn(f"7992739871{digit}") for digit in "012456789")


def test_the_scanner_names_place_and_kind_but_never_the_number(tmp_path: Path):
    write_rows(
        tmp_path / "a.jsonl", [{"text": "dạ"}, {"n": int(ACCOUNT)}, {"labels": {"x": [CARD]}}]
    )
    (tmp_path / f"{PHONE}.wav").write_bytes(b"RIFF")
    (tmp_path / "notes.txt").write_text(f"ok\nsố {PHONE}\n")
    done = data("scan", tmp_path, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["counts"] == {"phone": 2, "account": 1, "card": 1}
    places = [(row["file"], row["line"], row["kind"]) for row in found["tables"]["found"]]
    assert ("a.jsonl", 2, "account") in places and ("a.jsonl", 3, "card") in places
    assert ("notes.txt", 2, "phone") in places
    assert ACCOUNT not in done.stdout and CARD not in done.stdout
    assert data("scan", tmp_path / "none").returncode == 1


def test_the_hash_in_the_name_of_a_cache_is_no_number(tmp_path: Path):
    write_rows(tmp_path / "m.jsonl", [{"audio_filepath": "a.wav", "text": "dạ"}])
    (tmp_path / ".trunkline").mkdir()
    (tmp_path / ".trunkline/m.jsonl.3112048429107813.arrow").write_bytes(b"\0")
    assert scan(tmp_path) == []


def test_lines_that_are_no_cuts_are_set_aside_without_their_text(tmp_path: Path):
    source, key = corpus(tmp_path / "raw"), key_file(tmp_path / "keys")
    with open(source, "a") as file:
        file.write('{"audio_filepath": "b.wav", "channel": "An Nguyễn"}\n')
    done = data("pseudonymise", source, tmp_path / "out", "--key-file", key, "--max-bad", "0.9")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "manifest.quarantine.jsonl").read_text()
    assert '"line": 8' in text and "Nguyễn" not in text and str(tmp_path) not in text


def test_a_full_disk_stops_with_a_sentence_and_a_second_run_finishes(tmp_path: Path):
    raw = tmp_path / "raw"
    raw.mkdir()
    soundfile.write(raw / "a.wav", np.zeros(40_000), 8000)
    source = write_rows(raw / "m.jsonl", [{"audio_filepath": "a.wav"}])
    load_manifest(source)
    key, out = key_file(tmp_path / "keys"), tmp_path / "out"
    words = ["pseudonymise", str(source), str(out), "--key-file", str(key), "--audio", "copy"]
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "from trunkline.prepare.cli import main\n"
        f"sys.exit(main({words!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: Cannot write" in done.stderr
    assert not (out / "manifest.jsonl").exists()
    assert [path for path in out.rglob("*") if path.is_file()] == []
    assert data(*words).returncode == 0
    assert len(rows_of(out / "manifest.jsonl")) == 1
