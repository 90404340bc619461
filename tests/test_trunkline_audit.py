"""`trunkline data audit`: what is lopsided is found, what is balanced is not accused, the page is readable."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.preparing import data, rows_of, write_rows
from trunkline.manifest import load_manifest
from trunkline.prepare import provenance
from trunkline.prepare.audit import audit

SHARED = Path(__file__).parents[2] / "shared" / "data"


def balanced() -> list[dict[str, Any]]:
    """Cuts of 60 speakers in three splits, with nothing to complain about."""
    return [
        {"audio_filepath": f"{i}.wav", "channel": i % 2, "duration": 60.0, "text": "dạ", "language": "vi",
         "speaker": f"s{i // 20}", "gender": "fm"[i // 20 % 2], "licence": "CC0-1.0", "snr_db": 20 + i % 7,
         "split": ("train", "dev", "test")[i // 20 % 3], "labels": {"intent": ("card", "loan")[i % 2]}}
        for i in range(1200)
    ]  # fmt: skip


def findings_of(tmp_path: Path, rows: list[dict[str, Any]]) -> list[str]:
    findings, _ = audit(load_manifest(write_rows(tmp_path / "m.jsonl", rows)))
    assert all(row["recommendation"] for row in findings)
    return [f"{row['topic']}: {row['finding']}" for row in findings]


def test_balanced_data_are_not_accused(tmp_path: Path):
    assert findings_of(tmp_path, balanced()) == []


@pytest.mark.parametrize(
    ("where", "keys", "finding"),
    [
        (lambda i: i < 400, {"speaker": "s1", "split": "train"}, "speaker: speaker 's1' has 33.3 % of the hours"),
        (lambda i: True, {"speaker": None}, "speaker: no cut states a speaker"),
        (lambda i: i > 1160, {"language": "en"}, "language: language 'en' has 3.2 % of the hours"),
        (lambda i: i < 300, {"language": None}, "language: 25 % of the hours state no language"),
        (lambda i: i > 1170, {"channel": 2}, "channel: channel 2 has 2.4 % of the hours"),
        (lambda i: i > 1190, {"labels": {"intent": "pin"}}, "intent: 1 of 3 classes have fewer than 20 cuts: pin"),
        (lambda i: i > 1190, {"labels": {"intent": "pin"}}, "intent: the largest class has 66 times"),
        (lambda i: i % 2 and i // 20 % 3 == 2, {"labels": {}}, "intent: test has no cut of loan"),
        (lambda i: i == 5, {"speaker": "s1"}, "split: 1 values of speaker lie in more than one split"),
        (lambda i: True, {"split": None}, "split: no cut states a split"),
        (lambda i: i // 20 % 3 == 2, {"duration": 1.0}, "split: test holds 7 minutes"),
        (lambda i: i % 3 == 0, {"snr_db": 4}, "noise: 33 % of the cuts have less than 10 dB SNR"),
        (lambda i: i // 20 % 3 == 2, {"snr_db": 15}, "noise: the median SNR of test is 15.0 dB, of train 23.0 dB"),
        (lambda i: i < 3, {"licence": None}, "licence: 3 of 1200 cuts state no licence"),
        (lambda i: i < 4, {"duration": None}, "duration: 4 cuts state no duration"),
        (lambda i: i < 600, {"text": None}, "text: 50 % of the cuts have a text"),
        (lambda i: i < 90, {"tags": ["fast_speech"]}, "tags: 7.5 % of the cuts are tagged fast_speech"),
    ],
)  # fmt: skip
def test_what_is_lopsided_is_found(tmp_path: Path, where, keys, finding):
    rows = [row | keys if where(i) else row for i, row in enumerate(balanced())]
    found = findings_of(tmp_path, rows)
    assert any(each.startswith(finding) for each in found), found


def test_the_page_tells_every_finding_and_table(tmp_path: Path):
    rows = [row | {"speaker": "<b>An</b>", "split": "train"} for row in balanced()]
    source = write_rows(tmp_path / "m.jsonl", rows)
    done = data("audit", source, tmp_path / "audit.html", "--json")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "audit.html").read_text()
    assert "<b>" not in page and "<script" not in page
    text = html.unescape(re.sub(r"<[^>]*>", " ", page))
    for row in json.loads(done.stdout)["tables"]["findings"]:
        assert row["finding"] in text and row["recommendation"] in text
    for title in ("Overview", "Speaker", "Channel", "Language", "Gender", "Intent", "SNR (dB)"):
        assert f"<h2>{title}" in page
    assert "█" in page
    assert provenance.history(tmp_path)[0]["command"] == "audit"


SETS = sorted(path.parent.name for path in SHARED.glob("*/manifest.jsonl"))


@pytest.mark.skipif(not SETS, reason="../shared/data is not here")
@pytest.mark.parametrize("name", SETS)
def test_audit_and_stats_run_clean_on_every_real_set(tmp_path: Path, name: str):
    source = SHARED / name / "manifest.jsonl"
    count = len(rows_of(source))
    done = data("audit", source, tmp_path / "a.html", "--json", "--max-bad", "0")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cuts"] == count
    assert len((tmp_path / "a.html").read_text()) > 2000
    done = data("stats", source, "--json", "--max-bad", "0")
    assert json.loads(done.stdout)["cuts"] == count
