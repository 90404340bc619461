"""The story of docs/prepare.md: each of its commands runs, and what comes out is clean, private and free of leaks."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile
from preparing import ROOT, data, rows_of

pytest.importorskip("espeakng_loader", reason="needs the demo extra: pip install trunkline[demo]")

from examples.synth_calls import make_corpus
from trunkline.manifest import load_manifest
from trunkline.prepare import provenance
from trunkline.prepare.inventory import KINDS
from trunkline.prepare.split import leaks
from trunkline.prepare.tag import TAGS

PAGE = (ROOT / "docs/prepare.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (.+)$", PAGE, re.MULTILINE)
PHONE = "0901234567"


def raw_calls(folder: Path, demo: Path) -> None:
    """Write what a contact centre has: recordings, some twice, one broken, and an export of transcripts."""
    make_corpus(demo, calls=14, seed=1)
    (folder / "tháng 11").mkdir(parents=True)
    for path in sorted((demo / "audio").iterdir()):
        shutil.copy(path, folder / "tháng 11" / path.name)
    samples, rate = soundfile.read(demo / "audio/call-0002.wav")
    (folder / "xuất lại").mkdir()
    soundfile.write(folder / "xuất lại/again.flac", samples, rate)
    quieter = 0.4 * samples[rate:]
    soundfile.write(folder / "xuất lại/quieter, from 1 s.wav", quieter, rate, subtype="ULAW")
    soundfile.write(folder / "xuất lại/dead.wav", samples[2 * rate : 6 * rate] * [1.0, 0.0], rate)
    table = io.StringIO()
    names = [
        "audio_filepath",
        "channel",
        "start",
        "end",
        "text",
        "speaker",
        "phone",
        "language",
        "call_name",
    ]
    writer = csv.DictWriter(table, names, extrasaction="ignore")
    writer.writeheader()
    turns = rows_of(demo / "turns.jsonl")
    longest = sorted(turns, key=lambda turn: turn["duration"])[-2:]
    spoken = {
        longest[0]["id"]: f'dạ số của em là "{PHONE}", anh ghi giúp em',
        longest[1]["id"]: "số thẻ bốn năm ba chín một bốn tám tám không ba bốn ba sáu bốn sáu bảy",
    }
    for turn in turns:
        text = spoken.get(turn["id"], turn["text"])
        row = turn | {
            "audio_filepath": f"tháng 11/{Path(turn['audio_filepath']).name}",
            "text": text,
        }
        customer = next(each["speaker"] for each in turns
                        if each["call_id"] == turn["call_id"] and each["channel"] == "customer")  # fmt: skip
        row |= {"phone": f"09{int(customer.rpartition('-')[2]):08d}", "call_name": "Nguyễn Văn A"}
        writer.writerow(row)
    (folder / "transcripts.csv").write_text(table.getvalue(), encoding="utf-16")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list]]:
    """Run every command of the page, in its order; return the folder and each command's summaries."""
    folder = tmp_path_factory.mktemp("story")
    home = tmp_path_factory.mktemp("home")
    raw_calls(folder / "raw calls 📞", folder / "demo")
    before = {path: path.read_bytes() for path in (folder / "raw calls 📞").rglob("*.*")}
    told: dict[str, list] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(home))
        for line in COMMANDS:
            if not line.startswith("trunkline data "):
                subprocess.run(["sh", "-c", line], check=True)
                continue
            words = [word.replace("~", str(home), 1) if word.startswith("~") else word
                     for word in shlex.split(line)[2:]]  # fmt: skip
            done = data(*words, "--json")
            assert done.returncode == (1 if words[0] == "check" else 0), (line, done.stderr)
            told.setdefault(words[0], []).append(json.loads(done.stdout))
    assert all(path.read_bytes() == raw for path, raw in before.items()), "a step altered raw data"
    return folder, told


def test_the_story_tells_of_every_step(story: tuple[Path, dict[str, list]]) -> None:
    _, told = story
    order = ["inventory", "import", "dedupe", "check", "segment", "normalise", "tag", "split", "licence",
             "filter", "pseudonymise", "audit", "stats", "scan", "shard", "merge"]  # fmt: skip
    assert list(told) == order


def test_what_is_wrong_with_the_raw_calls_is_named(story: tuple[Path, dict[str, list]]) -> None:
    folder, told = story
    kinds = {
        fault["file"].split("#")[0]: fault["kind"]
        for fault in rows_of(folder / "inventory/faults.jsonl")
    }
    assert kinds == {"xuất lại/again.flac": "duplicate", "xuất lại/dead.wav": "dead_channel"}
    duplicates = rows_of(folder / "unique.duplicates.jsonl")
    assert {Path(row["audio_filepath"]).name for row in duplicates} >= {"quieter, from 1 s.wav"}
    assert {row["duplicate"] for row in duplicates} == {"exact", "near"}
    assert told["dedupe"][0]["kept"] + len(duplicates) == told["dedupe"][0]["cuts"]
    silent = [fault for fault in told["check"][0]["tables"]["faults"] if fault["kind"] == "silent"]
    assert len(silent) == told["check"][0]["faults"] == 1


def test_the_outcome_is_clean_private_and_free_of_leaks(
    story: tuple[Path, dict[str, list]],
) -> None:
    folder, told = story
    manifest = load_manifest(folder / "private/manifest.jsonl")
    assert leaks(manifest, ["call_id", "phone"]) == []
    assert {cut.split for cut in manifest} == {"train", "dev", "test"}
    labelled, bare = (
        load_manifest(folder / name) for name in ("split.jsonl", "speech-split.jsonl")
    )
    of_call = {cut.call_id: cut.split for cut in labelled}
    assert all(of_call.get(cut.call_id, cut.split) == cut.split for cut in bare)
    aside = rows_of(folder / "private/manifest.quarantine.jsonl")
    assert {row["reason"] for row in aside} == {
        f"the line holds {kind} number" for kind in ("a phone", "a card", "an account")
    }
    assert told["pseudonymise"][0]["keys_left_out"] == ["call_name"]
    assert told["pseudonymise"][0]["cuts"] + len(aside) == told["filter"][0]["kept"]
    shown = "".join(path.read_text("utf-8") for path in (folder / "private").glob("*.json*"))
    assert PHONE not in shown and "call-00" not in shown and "customer-0" not in shown
    assert "Nguyễn" not in shown and "tháng 11" not in shown
    for cut in manifest:
        assert len(cut.load(8000)) > 0 and cut.extra["licence"] == "internal, contract 17"
    again = sorted(row["id"] for row in rows_of(folder / "again.jsonl"))
    assert again == sorted(cut.id for cut in manifest)
    assert "<h2>Findings" in (folder / "audit.html").read_text("utf-8")


def test_every_step_left_its_line_of_provenance(story: tuple[Path, dict[str, list]]) -> None:
    folder, _ = story
    steps = [record["command"] for record in provenance.history(folder)]
    assert steps == ["import", "import", "dedupe", "check", "segment", "normalise", "tag", "split", "split",
                     "licence", "filter", "audit", "merge"]  # fmt: skip
    for record in provenance.history(folder):
        assert all(
            len(digest) == 64 for digest in {**record["inputs"], **record["outputs"]}.values()
        )
        assert record["counts"]


def test_the_python_of_the_pages_runs(story: tuple[Path, dict[str, list]], monkeypatch) -> None:
    folder, _ = story
    monkeypatch.chdir(folder)
    shutil.copy(folder / "demo/audio/call-0001.wav", "call.wav")
    if not Path("configs").exists():
        Path("configs").symlink_to(ROOT / "configs")
    found: dict = {}
    for page in ("prepare", "augmentation"):
        text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
        (block,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        exec(compile(block, page, "exec"), found)  # noqa: S102
    assert len(found["names"]) == len(found["manifest"]) and found["tables"]
    assert "noise" in found["item"].applied and len(found["item"].clean) > 8000


def test_the_page_names_every_fault_and_tag() -> None:
    for name in (*KINDS, *TAGS):
        assert f"`{name}`" in PAGE, name
