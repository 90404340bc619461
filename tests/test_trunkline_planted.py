"""The raw demo corpus with faults of every kind planted in it: each is found and named, no clean file is accused."""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import Any

import pytest
from planted_faults import Planted, plant
from preparing import data, rows_of, write_rows

pytest.importorskip("espeakng_loader", reason="needs the demo extra: pip install trunkline[demo]")

from examples.synth_calls import make_corpus
from trunkline.prepare.inventory import KINDS
from trunkline.prepare.tag import BORDERLINE, TAGS

Row = dict[str, Any]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted") / "demo"
    make_corpus(folder, calls=9, seed=1)
    return folder


@pytest.fixture(scope="module")
def raw(demo: Path) -> tuple[Path, Planted]:
    folder = demo.parent / "raw"
    return folder, plant(folder, demo=demo)


def test_every_fault_of_a_raw_folder_is_found_and_no_call_is_accused(
    raw: tuple[Path, Planted], tmp_path: Path
) -> None:
    folder, truth = raw
    done = data("inventory", folder, tmp_path, "--json", "--jobs", 1)
    assert done.returncode == 0, done.stderr
    told = collections.defaultdict(set)
    for fault in rows_of(tmp_path / "faults.jsonl"):
        told[fault["file"].split("#")[0]].add(fault["kind"])
    planted = {name.encode("utf-8", "backslashreplace").decode(): kinds
               for name, kinds in truth.faults.items()}  # fmt: skip
    assert dict(told) == planted
    assert len(truth.clean) == 9 and not set(told) & set(truth.clean)
    found = set().union(*told.values())
    assert len(found) >= 25 and found == set(KINDS) - {"unreadable_folder", "transcript_unreadable"}
    shown = json.loads(done.stdout)
    tables = shown["tables"]
    assert sum(row["count"] for row in tables["kinds of fault"]) == shown["faults"]
    assert shown["files"] == shown["files_read"] + shown["files_unread"]
    assert sum(row["files"] for row in tables["formats"]) == shown["files"]
    assert shown["files_without_fault"] == len(truth.clean)


# What is done to a turn of the demo -> the tag that names it. Three turns make a swap visible.
SPOILT: dict[str, Row] = {
    "fast_speech": {"text": "dạ em chào anh chị em gọi từ ngân hàng " * 4},
    "length_mismatch": {"text": "dạ", "end": 1e4},
    "long_word": {"text": "dạ em chào anh chị emchàoanhchịemgọitừngânhàng ạ"},
    "repetition": {"text": "dạ " + "không có " * 16},
    "empty_text": {"text": " ... "},
    "encoding": {"text": "dạ em chào anh chị".encode().decode("latin-1")},
    "markup": {"text": "dạ <br> em chào anh chị em gọi từ ngân hàng"},
    "language": {"text": "good morning how may i help you today"},
    "overlapping_turns": {},
    "channel_swapped": {"role": "customer", "channel": "agent"},
}
GRADED = {
    "repairable": {"text": "dạ em chào\u200b anh chị"},
    "fast_speech": {"text": "dạ em chào anh chị em gọi từ ngân hàng ạ " * 2, "seconds": 3.0},
    "long_word": {"text": "dạ em chào anh chị emchàoanhchịemgọitừ ạ"},
}


def spoil(turn: Row, kind: str, change: Row, number: int) -> Row:
    """Return a turn of its own call, long enough for its text, with one fault."""
    long = max(1.0, len(change.get("text", turn["text"])) / 14)
    if kind == "fast_speech":
        long = change.get("seconds", len(change["text"]) / 40)
    bad = turn | {"id": f"bad-{number}", "call_id": f"bad-{number}", "start": 0.0, "end": long}
    bad |= {"audio_filepath": f"bad/{number}.wav", "speaker": f"bad-{number}"}
    return {
        name: value for name, value in (bad | change).items() if name not in ("duration", "seconds")
    }


def test_every_fault_of_a_transcript_or_turn_is_tagged_and_no_clean_turn(
    demo: Path, tmp_path: Path
) -> None:
    turns = rows_of(demo / "turns.jsonl")
    clean = [turn | {"audio_filepath": str(demo / turn["audio_filepath"])} for turn in turns]
    plain = next(turn for turn in clean if len(turn["text"].split()) > 5)
    expected: dict[str, set[str]] = {turn["id"]: set() for turn in clean}
    bad = []
    wanted = [
        *SPOILT.items(),
        *((f"{BORDERLINE}{kind}", change) for kind, change in GRADED.items()),
    ]
    for number, (tag, change) in enumerate(wanted):
        bad.append(spoil(plain, tag.removeprefix(BORDERLINE), change, number))
        expected[bad[-1]["id"]] = {tag}
        if tag == "overlapping_turns":
            bad.append(bad[-1] | {"id": "bad-twin"})
            expected["bad-twin"] = {tag}
    source = write_rows(tmp_path / "m.jsonl", [*clean[:50], *bad, *clean[50:]])
    done = data("tag", source, tmp_path / "tagged.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    told = {row["id"]: set(row.get("tags", ())) for row in rows_of(tmp_path / "tagged.jsonl")}
    assert told == expected
    assert {kind.removeprefix(BORDERLINE) for kinds in told.values() for kind in kinds} == set(TAGS)
    shown = json.loads(done.stdout)
    assert shown["cuts"] == len(clean) + len(bad) and shown["untagged"] == len(clean)
    assert sum(shown["tags"].values()) == len(bad)


def test_the_clean_demo_checks_clean_to_the_last_sample(demo: Path) -> None:
    for name in ("calls.jsonl", "turns.jsonl"):
        done = data("check", demo / name, "--samples", "--json")
        assert done.returncode == 0, done.stdout
        assert json.loads(done.stdout)["faults"] == 0
