"""`trunkline data normalise`: manifests and text files in, the same with normalised texts out, nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trunkline.text import normalise

ROOT = Path(__file__).parent.parent
ROWS = [
    {"audio_filepath": "a.wav", "id": "1", "text": "Hoà 1tr5, [cười] ờ", "tags": ["first"], "own": 1},
    {"audio_filepath": "b.wav", "id": "2", "text": "dạ vâng"},
    {"audio_filepath": "c.wav", "id": "3"},
    {"audio_filepath": "d.wav", "id": "4", "text": "Room 105!", "language": "en-GB"},
    {"audio_filepath": "e.wav", "id": "5", "text": "FLC 105", "language": "vi-VN"},
    {"audio_filepath": "f.wav", "id": "6", "text": ""},
]  # fmt: skip


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "trunkline", "data", "normalise", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_manifest_keeps_its_rows_and_what_was_written(tmp_path):
    write_rows(tmp_path / "calls.jsonl", ROWS)
    options = ["--report", "r.json", "--changes", "c.jsonl", "--json"]
    done = run(tmp_path, "calls.jsonl", "out.jsonl", *options)
    assert done.returncode == 0, done.stderr
    first, second, third, english, fifth, empty = read_rows(tmp_path / "out.jsonl")
    assert first == ROWS[0] | {
        "text": "hòa một triệu năm <laugh> ờ",
        "text_written": "Hoà 1tr5, [cười] ờ",
        "tags": ["first", "filler"],
    }
    assert (second, third, empty) == (ROWS[1], ROWS[2], ROWS[5])
    assert (english["text"], english["tags"]) == ("room 105", ["not_understood"])
    assert (fifth["text"], fifth["tags"]) == ("FLC một trăm linh năm", ["not_understood"])
    summary, report = json.loads(done.stdout), json.loads((tmp_path / "r.json").read_text())
    assert (summary["texts"], summary["altered"], summary["with_flags"]) == (5, 3, 2)
    assert report["rules"]["money"]["count"] == 1
    assert report["rules"]["money"]["examples"][0]["after"] == "một triệu năm"
    assert report["not_understood"]["acronym"]["texts"] == {"FLC": 1}
    changes = read_rows(tmp_path / "c.jsonl")
    assert [row["id"] for row in changes] == ["1", "2", "4", "5", "6"]
    for change in changes[0]["changes"]:
        assert ROWS[0]["text"][change["start"] : change["end"]] == change["before"]


def test_a_second_run_changes_nothing_and_appends_to_the_record(tmp_path):
    write_rows(tmp_path / "calls.jsonl", ROWS)
    run(tmp_path, "calls.jsonl", "out.jsonl")
    once = (tmp_path / "out.jsonl").read_bytes()
    run(tmp_path, "calls.jsonl", "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == once
    run(tmp_path, "out.jsonl", "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == once
    records = read_rows(tmp_path / "provenance.jsonl")
    assert [record["command"] for record in records] == ["normalise"] * 3
    assert records[0]["outputs"] == records[1]["outputs"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1258"])
def test_a_text_file_of_any_encoding(tmp_path, encoding):
    lines = ["Chào anh, 3 phút", "", "Hà Nội ơi"]
    data = "\r\n".join(lines)
    if encoding == "cp1258":
        for composed, parts in (("ộ", "ô\u0323"), ("ơi", "ơi"), ("à", "à")):
            data = data.replace(composed, parts)
        data = data.replace("ú", "ú")
    (tmp_path / "in.txt").write_bytes(data.encode(encoding))
    done = run(tmp_path, "in.txt", "out.txt", "--json")
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "out.txt").read_text(encoding="utf-8")
    assert written == "".join(f"{normalise(line)}\n" for line in lines)
    assert json.loads(done.stdout)["encoding"] == encoding.removesuffix("-sig")


def test_settings_reach_the_normaliser(tmp_path):
    (tmp_path / "in.txt").write_text("Hoà [cười] FLC GTTK 5", encoding="utf-8")
    (tmp_path / "own.tsv").write_text("GTTK\tgiấy tờ tài khoản\n", encoding="utf-8")
    options = ["--tone-mark", "new", "--drop-annotations", "--spell-acronyms", "--readings", "own.tsv"]  # fmt: skip
    assert run(tmp_path, "in.txt", "out.txt", *options).returncode == 0
    said = (tmp_path / "out.txt").read_text(encoding="utf-8")
    assert said == "hoà ép lờ xê giấy tờ tài khoản năm\n"
    run(tmp_path, "in.txt", "out.txt", "--language", "neutral")
    said = (tmp_path / "out.txt").read_text(encoding="utf-8")
    assert said == "hoà <laugh> flc gttk 5\n"


@pytest.mark.parametrize(
    ("data", "words", "status", "message"),
    [
        (b"", [], 1, "in.txt holds no text"),
        (b" \n", [], 1, "in.txt holds no text"),
        (b"ok\n\xff\xd8\xe9\xfe", [], 1, "in.txt:2 is neither UTF-8"),
        (b"\xff\xfea", [], 1, "is not valid utf-16"),
        (b"a", ["--readings", "none.tsv"], 1, "Cannot read none.tsv"),
        (b"a", ["--language", "xx"], 2, "invalid choice"),
        (b"a", ["--report", "in.txt/r.json"], 1, "Cannot write"),
    ],
)
def test_bad_input_is_answered_in_a_sentence(tmp_path, data, words, status, message):
    (tmp_path / "in.txt").write_bytes(data)
    done = run(tmp_path, "in.txt", "out.txt", *words)
    assert (done.returncode, "Traceback" in done.stderr) == (status, False)
    assert message in done.stderr


def test_the_source_is_never_overwritten_and_a_missing_one_is_named(tmp_path):
    (tmp_path / "in.txt").write_text("a")
    same = run(tmp_path, "in.txt", "./in.txt")
    assert (same.returncode, "is the source itself" in same.stderr) == (2, True)
    missing = run(tmp_path, "none.txt", "out.txt")
    assert (missing.returncode, "Cannot read none.txt" in missing.stderr) == (1, True)


def test_bad_lines_of_a_manifest_are_set_aside(tmp_path):
    write_rows(tmp_path / "calls.jsonl", ROWS)
    with open(tmp_path / "calls.jsonl", "a", encoding="utf-8") as file:
        file.write("not json\n")
    assert run(tmp_path, "calls.jsonl", "out.jsonl").returncode == 1
    done = run(tmp_path, "calls.jsonl", "out.jsonl", "--max-bad", "0.5")
    assert done.returncode == 0, done.stderr
    assert len(read_rows(tmp_path / "out.jsonl")) == len(ROWS)
    assert [row["line"] for row in read_rows(tmp_path / "out.quarantine.jsonl")] == [7]
