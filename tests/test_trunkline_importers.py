"""Folders of other toolkits become the same cuts, and what cannot be read is refused by name."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from preparing import data, rows_of

from trunkline.errors import DataError
from trunkline.manifest import load_manifest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path_factory.mktemp("cache")))


def record(path: Path, *amplitudes: float, seconds: float = 1.0, rate: int = 8000) -> Path:
    """Write a recording with one sine a channel, of the given amplitudes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sine = np.sin(np.arange(round(seconds * rate)) * 0.3)[:, None]
    soundfile.write(path, sine * np.array(amplitudes), rate)
    return path


def test_a_folder_gives_a_cut_for_each_voice_and_reports_dual_mono(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record(tmp_path / "mono.wav", 0.5)
    record(tmp_path / "deep/er/call.FLAC", 0.5, 0.25)
    record(tmp_path / "dual.wav", 0.5, 0.5)
    record(tmp_path / ".hidden/x.wav", 0.5)
    (tmp_path / "notes.txt").write_text("nothing to hear")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    manifest = load_manifest(tmp_path)
    found = [(cut.id, cut.call_id, cut.channel, cut.duration) for cut in manifest]
    assert found == [
        ("broken.wav", "broken", None, None),
        ("deep/er/call.FLAC#0", "deep/er/call", 0, 1.0),
        ("deep/er/call.FLAC#1", "deep/er/call", 1, 1.0),
        ("dual.wav#0", "dual", 0, 1.0),
        ("mono.wav", "mono", None, 1.0),
    ]
    assert np.abs(manifest[2].load()).max() == pytest.approx(0.25, abs=1e-3)
    assert manifest[3].extra == {"dual_mono": True}
    assert "1 of 4 recordings hold one signal on both channels" in caplog.text
    assert "broken.wav is not a recording" in caplog.text


def test_a_folder_without_recordings_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no recordings \(it is empty\)"):
        load_manifest(tmp_path)
    for name in ("a.txt", "b.txt", "c.pdf"):
        (tmp_path / name).write_text("words")
    with pytest.raises(DataError, match=r"holds no recordings \(2 \.txt, 1 \.pdf\).*\.flac"):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "key\twav\ttxt\nu1\ta.wav\tmột, hai\nu2\t/b.wav\t\n"),
        ("a.tsv", "u1\ta.wav\tmột, hai\nu2\t/b.wav\t\n"),
        ("a.csv", 'id,audio_filepath,text\r\nu1,a.wav,"một, hai"\r\n\r\nu2,/b.wav,\r\n'),
        ("a.csv", '\ufeffkey,wav,txt\nu1,a.wav,"một, hai"\nu2,/b.wav,\n'),
    ],
)
def test_tables_with_and_without_a_header_give_the_same_cuts(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = [(cut.id, cut.audio_filepath, cut.text) for cut in load_manifest(tmp_path / name)]
    assert found == [("u1", tmp_path / "a.wav", "một, hai"), ("u2", Path("/b.wav"), None)]


def test_a_table_with_manifest_columns_is_typed_and_keeps_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "audio_filepath,channel,start,end,sampling_rate,labels,mood\n"
        'a.wav,customer,1,2.5,8000,"{""intent"": ""card""}",calm\n'
    )
    (cut,) = load_manifest(tmp_path / "a.csv")
    assert (cut.channel, cut.start, cut.end, cut.sampling_rate) == (1, 1.0, 2.5, 8000)
    assert (cut.label("intent"), cut.label("mood"), cut.line) == ("card", "calm", 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,file,words,more\n1,2,3,4\n", r"a\.csv:1 names no audio_filepath"),
        ("key,wav\nu1,a.wav\nu2,b.wav,more\n", r"a\.csv:3 has 3 cells, the first line 2"),
        ("key,wav,start\nu1,a.wav,soon\n", r"a\.csv:2: start must be a number"),
        ("key,wav,labels\nu1,a.wav,card\n", r"a\.csv:2: labels must be JSON"),
        ("key,wav\n", r"a\.csv holds no cuts"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_manifest(tmp_path / "a.csv")


def kaldi(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("wav_scp", "wav.scp")).write_text(text, encoding="utf-8")
    return folder


def test_a_kaldi_folder_gives_its_segments_with_text_speaker_and_side(tmp_path: Path) -> None:
    folder = kaldi(
        tmp_path / "k",
        wav_scp="c1-A audio/c1.wav\nc1-B audio/c1.wav\nc2 /x/c 2.wav\n",
        segments="u1 c1-A 0.5 2\nu2 c1-B 1 3.25\nu3 c2 0 -1\n",
        text="u1 xin chào\nu2 dạ\nu3\n",
        utt2spk="u1 agent7\nu2 cust\nu3 cust\n",
        reco2file_and_channel="c1-A c1 A\nc1-B c1 B\n",
    )
    cuts = list(load_manifest(folder))
    assert [(cut.id, cut.start, cut.end, cut.channel) for cut in cuts] == [
        ("u1", 0.5, 2.0, 0), ("u2", 1.0, 3.25, 1), ("u3", 0.0, None, None),
    ]  # fmt: skip
    assert [cut.call_id for cut in cuts] == ["c1", "c1", "c2"]
    assert [cut.text for cut in cuts[:2]] == ["xin chào", "dạ"]
    assert [cut.speaker for cut in cuts] == ["agent7", "cust", "cust"]
    assert cuts[2].audio_filepath == Path("/x/c 2.wav")


def test_a_kaldi_folder_without_segments_has_an_utterance_for_each_recording(
    tmp_path: Path,
) -> None:
    folder = kaldi(tmp_path / "k", wav_scp="u1 a.wav\nu2\tb.wav\n", text="u2 dạ\n")
    found = [(cut.id, cut.audio_filepath.name, cut.text) for cut in load_manifest(folder)]
    assert found == [("u1", "a.wav", None), ("u2", "b.wav", "dạ")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"wav_scp": "u1 sox a.mp3 -t wav - |\n"}, r"wav\.scp:1 is a command .*sox"),
        ({"wav_scp": "u0 a.wav\nu1 x.ark:123\n"}, r"wav\.scp:2 points into an archive"),
        ({"wav_scp": "u1 a.wav\nu1 b.wav\n"}, r"wav\.scp:2 repeats 'u1'"),
        ({"wav_scp": "u1 a.wav\n", "segments": "s1 u2 0 1\n"}, r"segments:1 must be"),
        ({"wav_scp": "u1 a.wav\n", "segments": "s1 u1 0\n"}, r"segments:1 must be"),
        ({"wav_scp": "u1 a.wav\n", "segments": "s1 u1 3 1\n"}, r"segments:1: end 1\.0 must be"),
        ({"wav_scp": "u1 a.wav\n", "text": "u1 a\nu9 b\n"}, r"text has 1 utterance.*'u9'"),
        ({"wav_scp": ""}, "holds no cuts"),
    ],
)
def test_a_wrong_kaldi_folder_is_refused_with_file_and_line(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_manifest(kaldi(tmp_path / "k", **files))


def test_nemo_offsets_become_start_and_end(tmp_path: Path) -> None:
    rows = [
        {"audio_filepath": "a.wav", "offset": 2.5, "duration": 1.5, "text": "dạ"},
        {"audio_filepath": "a.wav", "duration": 7.0, "text": ""},
    ]
    (tmp_path / "nemo.json").write_text("\n".join(map(json.dumps, rows)))
    for format in ("auto", "nemo"):
        first, second = load_manifest(tmp_path / "nemo.json", format=format)
        assert (first.start, first.end, first.text, first.extra) == (2.5, 4.0, "dạ", {})
        assert (second.start, second.end, second.duration) == (None, None, 7.0)


def lhotse(kind: str = "MonoCut", channel: Any = 0, **changes: Any) -> dict[str, Any]:
    """A cut as `CutSet.to_file` writes it."""
    said = {
        "id": "s1", "recording_id": "r1", "start": 0.0, "duration": 1.0, "channel": channel,
        "text": "xin chào", "language": "vi", "speaker": "lan", "gender": "F",
    }  # fmt: skip
    recording = {
        "id": "r1", "sources": [{"type": "file", "channels": [0, 1], "source": "audio/r1.wav"}],
        "sampling_rate": 8000, "num_samples": 80000, "duration": 10.0, "channel_ids": [0, 1],
    }  # fmt: skip
    cut = {
        "id": "c1", "start": 2.5, "duration": 4.0, "channel": channel, "type": kind,
        "supervisions": [said], "recording": recording, "custom": {"intent": "card"},
    }  # fmt: skip
    return cut | changes


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz", "cuts.json"])
def test_lhotse_cuts_are_read_from_lines_gzip_or_a_list(tmp_path: Path, name: str) -> None:
    cuts = [lhotse(), lhotse(id="c2", channel=1, supervisions=[], custom=None)]
    text = json.dumps(cuts) if name.endswith("json") else "\n".join(map(json.dumps, cuts))
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    first, second = load_manifest(tmp_path / name)
    assert (first.id, first.call_id, first.channel, first.text) == ("c1", "r1", 0, "xin chào")
    assert (first.start, first.end, first.duration) == (2.5, 6.5, 4.0)
    assert (first.speaker, first.language, first.label("gender")) == ("lan", "vi", "F")
    assert (first.label("intent"), first.sampling_rate) == ("card", 8000)
    assert first.audio_filepath == tmp_path / "audio/r1.wav"
    assert (second.channel, second.text, second.speaker) == (1, None, None)


def test_a_lhotse_multicut_gives_a_cut_for_each_channel_with_its_own_words(tmp_path: Path) -> None:
    base = lhotse("MultiCut", [0, 1])
    said = [
        base["supervisions"][0] | {"channel": [0], "start": 2.0, "text": "sau"},
        base["supervisions"][0] | {"channel": [0], "start": 1.0, "text": "trước"},
        base["supervisions"][0] | {"channel": [1], "text": "dạ", "speaker": "an"},
    ]
    (tmp_path / "cuts.jsonl").write_text(json.dumps(base | {"supervisions": said}))
    agent, customer = load_manifest(tmp_path / "cuts.jsonl")
    assert (agent.id, agent.channel, agent.text, agent.speaker) == ("c1#0", 0, "trước sau", "lan")
    assert (customer.id, customer.channel, customer.text) == ("c1#1", 1, "dạ")


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lhotse("MixedCut"), "is a MixedCut"),
        (lhotse(recording=lhotse()["recording"] | {"transforms": [{"name": "Speed"}]}), "transforms"),
        (lhotse(recording=lhotse()["recording"] | {"sources": []}), "lies in no file"),
        (
            lhotse(recording=lhotse()["recording"] | {"sources": [
                {"type": "command", "channels": [0], "source": "rm -rf /"}]}),
            r"lies in no file \(command\)",
        ),
        ({"type": "MonoCut", "recording": {}}, "is no Lhotse cut"),
    ],
)  # fmt: skip
def test_lhotse_audio_that_is_no_plain_file_is_refused_with_its_line(
    tmp_path: Path, cut: dict[str, Any], message: str
) -> None:
    lines = [json.dumps(lhotse()), json.dumps(cut)]
    (tmp_path / "cuts.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=rf"cuts\.jsonl:2.*{message}"):
        load_manifest(tmp_path / "cuts.jsonl")


def test_a_gzip_file_cut_short_is_an_error(tmp_path: Path) -> None:
    data = gzip.compress("\n".join([json.dumps(lhotse())] * 500).encode())
    (tmp_path / "cuts.jsonl.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cuts\.jsonl\.gz is cut short"):
        load_manifest(tmp_path / "cuts.jsonl.gz")


def test_a_recording_or_a_text_is_not_taken_for_a_manifest(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", 0.5)
    (tmp_path / "a.md").write_text("# Words\n")
    (tmp_path / "a.jsonl").write_text("key wav\n")
    with pytest.raises(DataError, match=r"a\.wav is a recording, not a manifest"):
        load_manifest(tmp_path / "a.wav")
    with pytest.raises(DataError, match=r"a\.md is no manifest"):
        load_manifest(tmp_path / "a.md")
    with pytest.raises(DataError, match=r"a\.jsonl:1 is not valid JSON"):
        load_manifest(tmp_path / "a.jsonl")


QUOTED = 'key,wav,txt\na,a.wav,"dạ, em ""chào"" anh"\nb,"b, c.wav",không ạ\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "cp1258"])
def test_tables_are_read_in_the_encodings_that_there_are(tmp_path: Path, encoding: str) -> None:
    text = QUOTED
    if encoding == "utf-16-le-bom":
        raw = b"\xff\xfe" + text.encode("utf-16-le")
    elif encoding == "cp1258":
        # Windows-1258 writes the tones of its keyboard apart from the letters.
        raw = "".join(
            letter if letter.isascii() or letter in "ăâđêôơưàôé" else _apart(letter)
            for letter in text
        ).encode("cp1258")
    else:
        raw = text.encode(encoding)
    (tmp_path / "m.csv").write_bytes(raw)
    a, b = load_manifest(tmp_path / "m.csv")
    assert (a.text, a.line) == ('dạ, em "chào" anh', 2)
    assert (b.text, b.audio_filepath.name) == ("không ạ", "b, c.wav")


def _apart(letter: str) -> str:
    base = unicodedata.normalize("NFD", letter)
    return unicodedata.normalize("NFC", base[:-1]) + base[-1]


def test_bytes_in_no_known_encoding_are_named_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"key,wav,txt\na,a.wav,\xff\xfe\x81\x8d\n")
    with pytest.raises(DataError, match=r"m\.csv:2 is neither UTF-8"):
        load_manifest(tmp_path / "m.csv")


def test_transcripts_beside_recordings_become_their_text(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, channels in (
        ("mono", 1),
        ("two", 2),
        ("both", 2),
        ("blank", 1),
        ("none", 1),
        ("odd", 1),
    ):
        soundfile.write(tmp_path / f"{name}.wav", rng.normal(0, 0.1, (800, channels)), 8000)
    (tmp_path / "mono.txt").write_bytes("dạ vâng\r\n".encode("utf-16"))
    (tmp_path / "two.agent.txt").write_text("em chào anh", encoding="utf-8-sig")
    (tmp_path / "two.1.txt").write_text("chào em", encoding="utf-8")
    (tmp_path / "both.txt").write_text("em chào anh\nchào em", encoding="utf-8")
    (tmp_path / "blank.txt").write_bytes(b"")
    (tmp_path / "odd.txt").write_bytes(b"\x81\x8d\xff")
    cuts = {(cut.audio_filepath.stem, cut.channel): cut for cut in load_manifest(tmp_path)}
    texts = {key: cut.text for key, cut in cuts.items()}
    assert texts == {
        ("mono", None): "dạ vâng", ("two", 0): "em chào anh", ("two", 1): "chào em", ("both", 0): None,
        ("both", 1): None, ("blank", None): "", ("none", None): None, ("odd", None): None,
    }  # fmt: skip
    assert cuts["both", 1].extra["call_text"] == "em chào anh chào em"


def test_an_imported_folder_is_what_an_inventory_of_it_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "calls/deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("calls/One", "calls/deep/two", "elsewhere/three"):
        soundfile.write(tmp_path / f"{name}.wav", rng.normal(0, 0.1, (800, 2)), 8000)
    decomposed = unicodedata.normalize("NFD", "gọi ☎")
    soundfile.write(tmp_path / f"calls/{decomposed}.wav", rng.normal(0, 0.1, 800), 8000)
    (tmp_path / "calls/one.TXT").write_text("hai bên", encoding="utf-8")
    (tmp_path / "calls/deep/two.Customer.txt").write_text("khách", encoding="utf-8")
    (tmp_path / "calls/gọi ☎.lab").write_text("một mình", encoding="utf-8")
    (tmp_path / "calls/deep/up").symlink_to(tmp_path / "calls")  # a loop
    (tmp_path / "calls/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "calls/gone.wav").symlink_to("not there.wav")
    cuts = {
        (cut.audio_filepath.name, cut.channel): cut for cut in load_manifest(tmp_path / "calls")
    }
    assert set(cuts) == {
        ("One.wav", 0), ("One.wav", 1), ("two.wav", 0), ("two.wav", 1), ("three.wav", 0), ("three.wav", 1),
        (f"{decomposed}.wav", None),
    }  # fmt: skip
    assert cuts["One.wav", 0].extra["call_text"] == "hai bên"
    assert (cuts["two.wav", 1].text, cuts["two.wav", 0].text) == ("khách", None)
    assert cuts[f"{decomposed}.wav", None].text == "một mình"


def test_bad_rows_of_a_table_and_names_that_are_no_text_are_set_aside(tmp_path: Path) -> None:
    folder = tmp_path / "calls"
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.full(800, 0.1), 8000)
    shutil.copy(folder / "a.wav", os.fsdecode(os.fsencode(folder) + b"/b\xe3d.wav"))
    (folder / "m.csv").write_text(
        "audio_filepath,start,end,text\na.wav,0,0.1,dạ\na.wav,-1,0.1,dạ\na.wav,0,0.1\na.wav,0,soon,x\n",
        encoding="utf-8",
    )
    for source, good, reasons in (
        (folder / "m.csv", 1, ["start must be", "has 3 cells, the first line 4", "end must be"]),
        (folder, 1, ["the name is not UTF-8"]),
    ):
        refused = data("import", source, tmp_path / "out.jsonl")
        assert refused.returncode == 1 and "--max-bad" in refused.stderr
        done = data("import", source, tmp_path / "out.jsonl", "--max-bad", 0.8, "--json")
        assert done.returncode == 0, done.stderr
        shown = json.loads(done.stdout)
        assert (shown["cuts"], shown["set_aside"]) == (good, len(reasons))
        aside = rows_of(tmp_path / "out.quarantine.jsonl")
        assert all(reason in row["reason"] for reason, row in zip(reasons, aside, strict=True))
        assert [row["line"] for row in aside] == ([3, 4, 5] if len(aside) == 3 else [0])
        (tmp_path / "out.jsonl").unlink()
    with pytest.raises(DataError, match=r"m\.csv:3: start must be"):
        load_manifest(folder / "m.csv")
    assert len(load_manifest(folder)) == 1  # with a warning
