"""Models of many heads: one pass, the answers each head gives alone, live lines; directories that are refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
from encoder_backbones import noise, strong_backbone
from heads_contract import bend, make_head, same, tensors

from encoder import Context, Encoded
from heads import (
    Head,
    HeadOptions,
    MultiHeadModel,
    TrunkSpec,
    load_head,
    load_model,
    save_head,
)
from heads.pieces import join_encoded
from trunkline.errors import CheckpointError, ConfigError, DataError, UsageError

LIMITS = Context(4, 6, 2)
KINDS = ("ctc", "intent", "speaker", "vad", "regression")


def five(backbone):
    """Five heads, of which two bend the trunk and one reads a layer by itself."""
    changes = {
        "intent": {"adapter": {"kind": "last", "layers": 1}},
        "speaker": {"adapter": {"kind": "lora", "rank": 2, "layers": 1}},
        "vad": {"layers": "last"},
        "regression": {"layers": (1,)},
    }
    heads = {kind: make_head(kind, backbone, **changes.get(kind, {})) for kind in KINDS}
    bend(heads["intent"])
    bend(heads["speaker"])
    return heads


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A trunk and five head directories."""
    folder, backbone = tmp_path_factory.mktemp("models"), strong_backbone()
    backbone.save(folder / "trunk")
    for name, head in five(backbone).items():
        if head.adapter is not None:
            head.adapter.mark_called()
        save_head(head, folder / name, backbone)
    return folder


def test_each_head_of_a_model_answers_as_it_does_alone():
    backbone = strong_backbone()
    heads = five(backbone)
    model = MultiHeadModel(backbone, heads)
    assert model.saved_layer_passes == 10 - 4
    waveform = 0.1 * noise(20_000).numpy()
    together = model.outputs(waveform, context=LIMITS)
    for name, head in heads.items():
        alone = MultiHeadModel(backbone, {name: head}).outputs(waveform, context=LIMITS)[name]
        for key, tensor in tensors(alone).items():
            torch.testing.assert_close(tensors(together[name])[key], tensor, atol=1e-6, rtol=1e-6)


def test_a_file_a_list_and_a_live_line_give_the_same_answers(saved, tmp_path):
    model = load_model(saved / "trunk", [saved / kind for kind in KINDS])
    call = (0.1 * noise(24_000, 2).clamp(-9, 9)).numpy()
    soundfile.write(tmp_path / "call.wav", call, 8000, subtype="FLOAT")
    path, customer = tmp_path / "call.wav", call[:, 1]
    results = model.run(path, channel="customer", context=LIMITS)
    assert list(results) == list(KINDS)
    text = model.transcribe(path, channel=1, context=LIMITS)
    assert same(text, results["ctc"]) and isinstance(text.text, str)
    assert set(model.classify(customer, context=LIMITS)) == {"intent", "regression"}
    assert same(model.track(customer, context=LIMITS)["vad"], results["vad"])
    vector = model.embed_speaker(customer, context=LIMITS)
    np.testing.assert_allclose(vector, results["speaker"], atol=1e-4)
    listed = model.run([customer, customer[:5000]], context=LIMITS)
    assert same(listed[0], results) and same(listed[1], model.run(customer[:5000], context=LIMITS))

    session = model.stream(LIMITS)
    for start in range(0, len(customer), 1_234):
        known = session.feed(customer[start : start + 1_234])
        assert set(known) <= {"ctc", "vad"}
    early = session.so_far()
    assert set(early) == set(KINDS)
    assert same(session.finish(), results)
    with pytest.raises(UsageError, match="finished"):
        session.feed(customer)


def test_a_line_at_another_rate_is_resampled(saved):
    model = load_model(saved / "trunk", [saved / "intent"])
    session = model.stream(LIMITS, sample_rate=16_000)
    session.feed((1000 * noise(16_000)).to(torch.int16).numpy().tobytes())
    assert session.finish()["intent"].label is not None


def test_heads_are_asked_for_what_they_can_do(saved):
    model = load_model(saved / "trunk", {"first": saved / "ctc", "second": saved / "ctc"})
    silence = np.zeros(4000, np.float32)
    with pytest.raises(UsageError, match="Several heads transcribe: first, second"):
        model.transcribe(silence)
    with pytest.raises(UsageError, match="Did you mean 'second'"):
        model.transcribe(silence, head="secnd")
    with pytest.raises(UsageError, match="No head of this model can embed_speaker"):
        model.embed_speaker(silence)
    with pytest.raises(DataError, match="NaN"):
        model.run(np.full(4000, np.nan, np.float32))
    assert model.transcribe(silence, head="first").words is not None


def test_a_model_needs_heads_of_its_trunk():
    with pytest.raises(UsageError, match="at least one head"):
        MultiHeadModel(strong_backbone(), {})
    with pytest.raises(ConfigError, match="Head 'a' needs a trunk of"):
        MultiHeadModel(strong_backbone(dim=32), {"a": make_head("intent")})


def test_two_directories_of_one_name_need_names(saved, tmp_path):
    shutil.copytree(saved / "intent", tmp_path / "intent")
    with pytest.raises(UsageError, match="same name"):
        load_model(saved / "trunk", [saved / "intent", tmp_path / "intent"])


def test_a_head_of_another_trunk_is_refused_unless_told_otherwise(saved, tmp_path):
    other = strong_backbone(seed=1)
    with pytest.raises(CheckpointError, match="was trained on the trunk .*any_trunk=True"):
        load_model(other, [saved / "speaker"])
    load_model(other, [saved / "speaker"], any_trunk=True)
    with pytest.raises(CheckpointError, match="needs a trunk of"):
        load_head(saved / "speaker", strong_backbone(layers=3), any_trunk=True)


def test_edited_weights_and_settings_are_refused(saved, tmp_path):
    trunk = strong_backbone()
    folder = tmp_path / "intent"
    shutil.copytree(saved / "intent", folder)
    path = folder / "head.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["output.bias"] += 1
    path.write_bytes(safetensors.torch.save(tensors))
    with pytest.raises(CheckpointError, match="was altered: its SHA-256"):
        load_head(folder, trunk)
    tensors["extra"] = tensors.pop("output.bias")
    path.write_bytes(safetensors.torch.save(tensors))
    with pytest.raises(CheckpointError, match="missing output.bias; unknown extra"):
        load_head(folder, trunk)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="head.safetensors cannot be read"):
        load_head(folder, trunk)
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_head(folder, trunk)

    config = json.loads((saved / "intent" / "head.json").read_text())
    config["head"]["labels"]["names"].reverse()
    (folder / "head.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="head.json was altered"):
        load_head(folder, trunk)
    for change, message in (
        ({"schema": 99}, "upgrade trunkline"),
        ({"kind": "else"}, "does not describe a Trunkline head"),
    ):
        (folder / "head.json").write_text(json.dumps(config | change))
        with pytest.raises(CheckpointError, match=message):
            load_head(folder, trunk)
    del config["head"]
    (folder / "head.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="lacks 'head'"):
        load_head(folder, trunk)
    with pytest.raises(CheckpointError, match="is not a directory"):
        load_head(tmp_path / "nowhere", trunk)


OWN = """
from typing import NamedTuple

from torch import Tensor, nn

from heads import PooledHead, register_head


class Scores(NamedTuple):
    scores: Tensor
    lengths: Tensor


@register_head("own")
class OwnHead(PooledHead):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.out = nn.Linear(self.pooled_dim, 1)

    def classify(self, pooled, lengths):
        return Scores(self.out(pooled), lengths)

    def decode(self, output):
        return output.scores[:, 0].tolist()
"""

MAKE = """
import sys
from encoder import load_backbone
from heads import TrunkSpec, find_head, save_head

trunk = load_backbone(sys.argv[1])
cls = find_head("own_head:OwnHead")
save_head(cls(cls.Options(), TrunkSpec.of(trunk)), "own", trunk)
"""

USE = """
import sys
import numpy as np
from heads import load_model

kinds = {"own": sys.argv[2]} if len(sys.argv) > 2 else None
try:
    model = load_model(sys.argv[1], ["own"], kinds=kinds)
    print(type(model.classify(np.zeros(8000, np.float32))["own"]).__name__)
except ValueError as error:
    print(error)
print("own_head" in sys.modules)
"""


def test_a_kind_that_is_not_known_is_never_imported_from_a_directory(saved, tmp_path):
    (tmp_path / "own_head.py").write_text(OWN)

    def run(code: str, *arguments: str) -> str:
        command = [sys.executable, "-c", code, str(saved / "trunk"), *arguments]
        path = os.pathsep.join([str(Path(__file__).parents[1]), str(tmp_path)])
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(MAKE)
    refused = run(USE)
    assert "is not known here" in refused and "own_head:OwnHead" in refused
    assert refused.endswith("False\n")
    assert run(USE, "own_head:OwnHead") == "float\nTrue\n"


def test_options_of_a_head_are_plain_settings(saved):
    config = json.loads((saved / "intent" / "head.json").read_text())
    assert config["head"]["options"]["adapter"]["kind"] == "last"
    assert HeadOptions().layers == "all"


class Whole(Head):
    """A head that says nothing of streams: its frames are kept until the end."""

    def forward(self, encoded):
        frames = self.inputs(encoded)
        return Kept(frames.cumsum(1), encoded.lengths, encoded.times)

    def decode(self, output):
        return [float(output.frames[n, : output.lengths[n]].sum()) for n in range(len(output[1]))]


class Kept(NamedTuple):
    frames: torch.Tensor
    lengths: torch.Tensor
    times: torch.Tensor


@pytest.mark.parametrize("layers", ["all", "last"])
def test_a_head_that_needs_everything_at_once_is_right_in_a_stream_too(layers):
    backbone = strong_backbone()
    head = Whole(HeadOptions(layers=layers), TrunkSpec.of(backbone))
    model = MultiHeadModel(backbone, {"whole": head})
    waveform = 0.1 * noise(15_000).numpy()
    expected = model.outputs(waveform, context=LIMITS)["whole"]
    session = model.stream(LIMITS)
    for start in range(0, len(waveform), 1_111):
        assert session.feed(waveform[start : start + 1_111]) == {}
    session.finish()
    found = session._line.end()["whole"]
    torch.testing.assert_close(found.frames, expected.frames, atol=1e-4, rtol=1e-4)
    assert torch.equal(found.times, expected.times)


def test_streams_of_a_batch_are_kept_each_with_its_own_frames():
    """Steps of a batch hold frames of any number for each stream; later pieces follow without a gap."""
    pieces, expected = [], [[], []]
    for number, lengths in enumerate([(3, 0), (0, 2), (1, 4)]):
        frames = noise(2, max(lengths), 4, seed=number)
        clock = noise(2, max(lengths), seed=10 + number).double()
        for place, length in enumerate(lengths):
            expected[place].append(frames[place, :length])
        pieces.append(
            Encoded(frames, torch.tensor(lengths), frames[None].repeat(2, 1, 1, 1), clock)
        )
    whole = join_encoded(pieces, 4, 2)
    assert whole.lengths.tolist() == [4, 6] and whole.frames.shape == (2, 6, 4)
    for place in (0, 1):
        own = torch.cat(expected[place])
        assert torch.equal(whole.frames[place, : len(own)], own)
        assert torch.equal(whole.layers[1, place, : len(own)], own)
    assert not whole.frames[0, 4:].any() and whole.times.shape == (2, 6)
