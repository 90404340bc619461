"""`python -m embstore.export`: stored vectors are those of the backbone, each cut once in each space."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from embedding_stores import column, run_export, save_backbone, write_recordings

from embstore import EmbeddingStore, export
from embstore.cut_sinks import CutSinks
from embstore.forget import main as forget
from embstore.runner import order, parse_shard
from embstore.schema import round_mantissa
from embstore.verify import verify
from encoder import Context, load_backbone
from trunkline.errors import StorageError, UsageError
from trunkline.manifest import load_manifest

ROOT = Path(__file__).parent.parent
LIMITS = Context(4, 6, 2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A backbone and a manifest of a long call, turns, and a word."""
    folder = tmp_path_factory.mktemp("made")
    return save_backbone(folder / "backbone"), write_recordings(folder / "recordings")


def words(made, out: Path, *more: object) -> list[object]:
    backbone, manifest = made
    return ["--manifest", manifest, "--backbone", backbone, "--out", out, *more]


def test_stored_vectors_are_those_of_the_backbone(made, tmp_path, capsys):
    poolings = "mean,std,mean+std,max"
    more = ["--pooled", poolings, "--frames", "--npy", "--keep-meta", "agent"]
    status, summary, _ = run_export(capsys, *words(made, tmp_path / "store", *more))
    assert status == 0 and summary["encoded"] == 7 and summary["added"] == 7 * 5
    store = EmbeddingStore.open(tmp_path / "store")
    model = load_backbone(made[0])
    for cut in load_manifest(made[1]):
        waveform = cut.load(8000)
        expected = model.encode(waveform, context=LIMITS).frames[0].numpy()
        frames = store.frames(cut.call_id, channel=cut.channel or 0)
        np.testing.assert_allclose(frames, expected, rtol=2**-10, atol=1e-5)
        np.testing.assert_array_equal(frames, round_mantissa(frames))
        vectors = {
            "mean": expected.mean(0),
            "std": expected.std(0),
            "max": expected.max(0),
        }
        vectors["mean+std"] = np.concatenate([vectors["mean"], vectors["std"]])
        for pooling, vector in vectors.items():
            space = store.space(pooling=pooling)
            row = store.fetch(cut.call_id, space=space, channel=cut.channel or 0).to_pylist()[0]
            np.testing.assert_allclose(row["v"], vector, atol=1e-4)
            assert row["cut_id"] == cut.id and row["n_frames"] == len(expected)
            assert row["meta_agent"] == cut.label("agent")
        segments = store.fetch(
            cut.call_id, table="segments", space=store.space(pooling="mean"), channel=cut.channel or 0
        ).to_pylist()  # fmt: skip
        seconds = len(waveform) / 8000
        assert len(segments) == max(1, np.ceil(seconds / 10))
        times = model.times(len(expected)).numpy()
        for segment in segments:
            inside = (times >= segment["start_ms"] / 1000) & (times < segment["end_ms"] / 1000)
            np.testing.assert_allclose(segment["v"], expected[inside].mean(0), atol=1e-4)
    npy = [file for file in store.state.files.values() if file.table == "npy"]
    assert len(npy) == 7
    arrays = [np.load(store.path / file.path, allow_pickle=False) for file in npy]
    assert {array.dtype for array in arrays} == {np.dtype(np.float16)}
    assert sorted(map(len, arrays)) == sorted(file.rows for file in npy)
    assert verify(store) == []


def test_running_again_encodes_only_what_is_new(made, tmp_path, capsys):
    out = tmp_path / "store"
    assert run_export(capsys, *words(made, out))[1]["encoded"] == 7
    version = EmbeddingStore.open(out).state.version
    status, summary, _ = run_export(capsys, *words(made, out))
    assert (status, summary["encoded"], summary["log_version"]) == (0, 0, version)
    status, summary, _ = run_export(capsys, *words(made, out, "--pooled", "mean,max"))
    assert (summary["encoded"], summary["added"]) == (7, 7), "only the new space lacks them"
    store = EmbeddingStore.open(out)
    for space in store.spaces().values():
        ids = store.pooled(space).keys.column("cut_id").to_pylist()
        assert len(ids) == len(set(ids)) == 7


@pytest.mark.parametrize("layer", ["1", "mix"])
def test_a_layer_and_the_mean_of_layers_are_spaces_of_their_own(made, tmp_path, capsys, layer):
    out = tmp_path / "store"
    assert run_export(capsys, *words(made, out, "--layer", layer, "--segments", "none"))[0] == 0
    model = load_backbone(made[0])
    store = EmbeddingStore.open(out)
    cut = load_manifest(made[1])[2]
    layers = model.encode(cut.load(8000), context=LIMITS, layers="all").layers[:, 0].numpy()
    expected = layers[1] if layer == "1" else layers[1:].mean(0)
    found = store.fetch(cut.call_id).to_pylist()[0]["v"]
    np.testing.assert_allclose(found, expected.mean(0), atol=1e-4)
    assert column(store, "seg", "segments") == []


def test_segments_at_speech_at_turns_and_where_the_manifest_says(made, tmp_path, capsys):
    rate, rng = 8000, np.random.default_rng(1)
    samples = 1e-3 * rng.standard_normal(12 * rate)
    for start, end in ((1, 3), (3.3, 4), (7, 9)):
        place = slice(int(start * rate), int(end * rate))
        samples[place] += 0.3 * rng.standard_normal(len(samples[place]))
    soundfile.write(tmp_path / "talk.wav", samples, rate)
    own = [{"start": 2, "end": 5}, {"start": 4, "end": 99}]
    row = {"id": "talk", "audio_filepath": "talk.wav", "segments": own}
    manifest = tmp_path / "talk.jsonl"
    manifest.write_text(json.dumps(row))
    found = {}
    for method in ("vad", "turns", "manifest", "3s"):
        out = tmp_path / method
        options = ["--segments", method, "--manifest", manifest]
        assert run_export(capsys, *words(made, out), *options)[0] == 0
        rows = EmbeddingStore.open(out).fetch("talk", table="segments").to_pylist()
        found[method] = [(each["start_ms"], each["end_ms"], each["speech_ratio"]) for each in rows]
    assert found["manifest"] == [(2000, 5000, None), (4000, 12000, None)]
    assert [start for start, _, _ in found["3s"]] == [0, 3000, 6000, 9000]
    assert [share for *_, share in found["vad"]] == [1.0] * len(found["vad"])
    assert 2 <= len(found["turns"]) <= len(found["vad"]) and found["turns"][0][2] > 0.5
    assert abs(found["turns"][0][0] - 900) < 200 and abs(found["turns"][-1][1] - 9100) < 200


def test_other_segments_or_columns_in_a_space_are_refused_by_name(made, tmp_path, capsys):
    out = tmp_path / "store"
    assert run_export(capsys, *words(made, out))[0] == 0
    status, _, message = run_export(capsys, *words(made, out, "--segments", "vad"))
    assert status == 2 and "was begun with the settings segments 10s, not segments vad" in message
    status, _, message = run_export(capsys, *words(made, out, "--keep-meta", "agent"))
    assert status == 2 and "columns none, not meta_agent string" in message


def test_what_cannot_be_read_is_listed_and_harms_nothing_else(made, tmp_path, capsys):
    folder = tmp_path / "recordings"
    manifest = write_recordings(folder)
    (folder / "turn-1.wav").write_bytes(b"RIFF")
    broken = soundfile.read(folder / "call.wav")[0]
    broken[20 * 8000, 1] = np.nan  # after frames of this cut were written
    soundfile.write(folder / "call.wav", broken, 8000, subtype="FLOAT")
    out, options = tmp_path / "store", ["--manifest", manifest, "--frames", "--npy"]
    command = words(made, out)
    status, _, message = run_export(capsys, *command, *options)
    assert status == 1 and "2 of 7 cuts cannot be read" in message
    again = [*command, *options, "--max-bad-fraction", "0.5"]
    for _ in range(2):
        status, summary, _ = run_export(capsys, *again)
        assert (status, summary["quarantined"]) == (3, 2)
        assert {row["cut_id"] for row in summary["tables"]["Quarantined"]} == {"call/1", "turn-1"}
    store = EmbeddingStore.open(out)
    assert verify(store) == []
    assert set(column(store, "cut_id", "frames")) == {
        "call/0",
        "turn-0",
        "turn-2",
        "turn-3",
        "word",
    }
    errors = [file for file in store.state.files.values() if file.table == "errors"]
    rows = [row for file in errors for row in store.table(file).to_pylist()]
    assert sorted(row["cut_id"] for row in rows) == ["call/1", "turn-1"], "noted once, not twice"
    assert all(row["reason"] and row["line"] for row in rows)


def test_every_cut_bears_the_hash_of_its_recording_in_whatever_order(made, tmp_path, capsys):
    folder = tmp_path / "recordings"
    write_recordings(folder)
    names = ["turn-0", "turn-1", "turn-0", "call", "turn-1", "call", "turn-0"]
    rows = [
        {"id": f"cut-{n}", "call_id": f"c{n}", "audio_filepath": f"{name}.wav", "channel": 0}
        | ({"start": 0.1 * n, "duration": 0.5} if name != "call" else {})
        for n, name in enumerate(names)
    ]
    manifest = folder / "mixed.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, summary, _ = run_export(
        capsys, *words(made, tmp_path / "store"), "--manifest", manifest
    )
    assert (status, summary["encoded"]) == (0, 7)
    store = EmbeddingStore.open(tmp_path / "store")
    found = dict(zip(*(column(store, name, "calls") for name in ("cut_id", "audio_sha256")), strict=True))  # fmt: skip
    for number, name in enumerate(names):
        data = (folder / f"{name}.wav").read_bytes()
        assert found[f"cut-{number}"] == hashlib.sha256(data).hexdigest()


def test_a_recording_that_changed_is_told_and_exported_again_on_request(made, tmp_path, capsys):
    manifest = write_recordings(tmp_path / "recordings")
    command = [*words(made, tmp_path / "store"), "--manifest", manifest]
    assert run_export(capsys, *command)[0] == 0
    turn = tmp_path / "recordings" / "turn-2.wav"
    os.utime(turn, (1, 1))
    assert run_export(capsys, *command)[1]["changed_recordings"] == 0, "touched, not changed"
    before = EmbeddingStore.open(tmp_path / "store").fetch("turn-2").to_pylist()[0]["v"]
    soundfile.write(turn, 0.2 * np.random.default_rng(9).standard_normal(16000), 8000)
    status, summary, message = run_export(capsys, *command)
    assert (status, summary["changed_recordings"], summary["encoded"]) == (0, 1, 0)
    assert "turn-2.wav" in message and "--refresh" in message
    assert EmbeddingStore.open(tmp_path / "store").fetch("turn-2").to_pylist()[0]["v"] == before
    status, summary, _ = run_export(capsys, *command, "--refresh")
    assert (status, summary["encoded"]) == (0, 1)
    store = EmbeddingStore.open(tmp_path / "store")
    rows = store.fetch("turn-2").to_pylist()
    assert len(rows) == 1 and rows[0]["v"] != before and verify(store) == []
    assert run_export(capsys, *command)[1]["changed_recordings"] == 0


def test_a_forgotten_call_or_speaker_does_not_come_again(made, tmp_path, capsys):
    out = tmp_path / "store"
    assert run_export(capsys, *words(made, out, "--frames", "--npy"))[0] == 0
    assert forget([str(out), "--call", "call", "--speaker", "s1", "--prove"]) == 0
    status, summary, _ = run_export(capsys, *words(made, out, "--frames", "--npy"))
    assert (status, summary["encoded"], summary["forgotten_left_out"]) == (0, 0, 4)
    assert sorted(column(EmbeddingStore.open(out))) == ["turn-0", "turn-2", "word"]


def test_processes_shards_and_ranks_do_the_same_work(made, tmp_path, capsys, monkeypatch):
    small = ["--shard-hours", "0.001", "--frames"]
    assert run_export(capsys, *words(made, tmp_path / "one", *small))[0] == 0
    assert run_export(capsys, *words(made, tmp_path / "two", *small), "--workers", "2")[0] == 0
    for part in ("1/3", "0/3", "2/3"):
        assert run_export(capsys, *words(made, tmp_path / "parts", *small), "--shard", part)[0] == 0
    monkeypatch.setenv("RANK", "0"), monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_export(capsys, *words(made, tmp_path / "rank", *small))[0] == 0
    tables = []
    for name in ("one", "two", "parts", "rank"):
        store = EmbeddingStore.open(tmp_path / name)
        assert verify(store) == []
        vectors, keys = store.pooled()
        ids = keys.column("cut_id").to_pylist()
        order_of_ids = np.argsort(ids)
        tables.append((sorted(ids), len(column(store, "frame", "frames")), vectors[order_of_ids]))
    assert len(tables[0][0]) == 7
    for ids, frames, vectors in tables[1:]:
        assert (ids, frames) == tables[0][:2]
        # Processes share the cores among them, and sums of other threads may end in other last bits.
        np.testing.assert_allclose(vectors, tables[0][2], rtol=0, atol=1e-5)


def test_the_walk_begins_where_the_rank_says(monkeypatch):
    assert order(6, (0, 1)) == [0, 1, 2, 3, 4, 5]
    assert order(6, (1, 2)) == [1, 3, 5]
    monkeypatch.setenv("SLURM_PROCID", "1"), monkeypatch.setenv("SLURM_NTASKS", "3")
    assert order(6, (0, 1)) == [2, 3, 4, 5, 0, 1]
    monkeypatch.setenv("SLURM_PROCID", "3")
    with pytest.raises(UsageError, match="no place among processes"):
        order(6, (0, 1))
    for text in ("2/2", "a/b", "1", "-1/2"):
        with pytest.raises(UsageError, match="write k/n"):
            parse_shard(text)


def test_a_killed_export_goes_on_where_it_was(made, tmp_path, capsys):
    out = tmp_path / "store"
    options = words(made, out, "--shard-hours", "0.0005", "--context", "4,6,2")
    command = [sys.executable, "-m", "embstore.export", *map(str, options)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "EMBSTORE_FAIL_AT": "committed"}
    process = subprocess.run(command, env=environment, capture_output=True)
    assert process.returncode == -signal.SIGKILL
    status, summary, _ = run_export(capsys, *options)
    assert status == 0 and 0 < summary["encoded"] < 7
    store = EmbeddingStore.open(out)
    assert sorted(column(store, "cut_id")) == sorted(load_manifest(made[1]).ids)
    assert verify(store) == []


@pytest.mark.parametrize("failing", [0, 2, 5])
def test_a_disk_that_refuses_while_writing_stops_the_export_and_is_no_fault_of_a_cut(
    made, tmp_path, capsys, monkeypatch, failing
):
    out = tmp_path / "store"
    options = words(made, out, "--frames", "--npy", "--context", "4,6,2")
    calls = itertools.count()
    write = CutSinks.write

    def refuse(sinks: CutSinks, frames: np.ndarray) -> None:
        if next(calls) == failing:
            raise StorageError("Cannot write: no space left on the disk.")
        write(sinks, frames)

    with monkeypatch.context() as patched:
        patched.setattr(CutSinks, "write", refuse)
        status, _, said = run_export(capsys, *options)
    assert status == 1 and "no space left on the disk" in said
    store = EmbeddingStore.open(out)
    assert not store.state.live(store.space(pooling="mean").name)
    assert not list((out / "_staging").rglob("*.part"))
    status, summary, _ = run_export(capsys, *options)
    assert status == 0 and summary["encoded"] == 7
    assert verify(EmbeddingStore.open(out)) == []


def test_dry_run_tells_and_writes_no_vector(made, tmp_path, capsys):
    status, summary, _ = run_export(
        capsys, *words(made, tmp_path / "store", "--dry-run", "--frames")
    )
    assert status == 0 and summary["to_encode"] == 7
    assert all(size > 0 for size in summary["megabytes_estimated"].values())
    assert EmbeddingStore.open(tmp_path / "store").state.version == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--pooled", "mena"], "Unknown pooling 'mena'. Did you mean 'mean'?"),
        (["--pooled", "none"], "Nothing to export"),
        (["--segments", "10"], "a length such as 10s"),
        (["--layer", "9"], "the layers are 0 to 2"),
        (["--layer", "top"], "give the number of a layer, or mix"),
        (["--context", "0,1,1"], "chunk must be at least 1"),
        (["--keep-meta", "agnt"], "no cut of the manifest states it. Did you mean 'agent'?"),
        (["--heads", "intent"], "write NAME=DIR"),
        (["--shard", "3/3"], "write k/n"),
        (["--workers", "0"], "--workers takes 1 or more"),
        (["--shard-hours", "0"], "must be above 0"),
    ],
)
def test_what_cannot_be_asked_is_answered_in_a_sentence(made, tmp_path, capsys, more, message):
    capsys.readouterr()
    status = export.main([*map(str, words(made, tmp_path / "s")), *more])
    assert status == 2 and message in capsys.readouterr().err


def test_the_licence_of_recordings_goes_with_their_vectors(made, tmp_path, capsys):
    manifest = made[1].with_name("licensed.jsonl")
    rows = [json.loads(line) for line in made[1].read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps({**row, "licence": "CC BY 4.0"}, ensure_ascii=False) for row in rows]
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    given = ["--manifest", manifest, "--backbone", made[0], "--out", tmp_path / "store"]
    assert run_export(capsys, *given)[0] == 0
    store = EmbeddingStore.open(tmp_path / "store")
    assert column(store, "meta_licence", "calls") == ["CC BY 4.0"] * 7
