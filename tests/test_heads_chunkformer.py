"""The CTC layer and the attention decoder of a ChunkFormer checkpoint compute what they compute there."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest
import safetensors.torch
import torch

from encoder import Backbone, Context, Encoded, load_backbone
from encoder.chunkformer import import_chunkformer
from heads import load_model
from heads.chunkformer import chunkformer_heads
from heads.import_heads import main
from trunkline.errors import CheckpointError

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "chunkformer"
SETTINGS = ["full", "c16_l32_r8", "c64_l128_r128", "c32_l40_r24", "c20_l41_r3", "c8_l64_r0"]
pytestmark = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"the reference vectors are not at {GOLDEN}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("chunkformer") / "backbone"
    import_chunkformer(GOLDEN / "checkpoint", out)
    return out


@pytest.fixture(scope="module")
def backbone(folder) -> Backbone:
    return load_backbone(folder)


@cache
def vectors(name: str) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(GOLDEN / f"{name}.safetensors")


def encode(backbone: Backbone, setting: str) -> Encoded:
    features = vectors("inputs")["fbank"][None]
    numbers = map(int, re.findall(r"\d+", setting))
    context = Context.full() if setting == "full" else Context(*numbers)
    with torch.no_grad():
        return backbone(features, torch.tensor([features.shape[1]]), context=context)


@pytest.mark.parametrize("setting", SETTINGS)
def test_ctc_log_probabilities_and_text_are_those_of_the_package(folder, backbone, setting):
    head = chunkformer_heads(folder, backbone)["ctc"]
    with torch.no_grad():
        output = head(encode(backbone, setting))
    name = setting if setting == "full" else f"decode.{setting}"
    expected = vectors("expected")[f"{name}.ctc_logp"]
    # The vectors' own tolerance for log probabilities; those of the encoder have 2e-5.
    torch.testing.assert_close(output.log_probs[0], expected, atol=1e-4, rtol=0)
    told = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
    if setting in told:
        assert output.log_probs[0].argmax(-1).tolist() == told[setting]["greedy_ids"]


def test_both_attention_decoders_are_those_of_the_package(folder, backbone):
    head = chunkformer_heads(folder, backbone)["aed"]
    with torch.no_grad():
        output = head(encode(backbone, "full"))
    expected = vectors("expected")
    tokens = expected["attention_decoder.tokens"].tolist()
    for reverse, name in ((False, "left"), (True, "right")):
        given = tokens[::-1] if reverse else tokens
        found = head.token_scores(output, 0, given, reverse=reverse)
        wanted = expected[f"attention_decoder.{name}_logp"]
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)
        total = wanted.gather(1, torch.tensor([[*given, head.tokenizer.sos_eos]]).T).sum()
        assert head.score_tokens(output, 0, given, reverse=reverse) == pytest.approx(float(total))


def test_the_heads_become_directories_that_open_like_any_other(folder, backbone, tmp_path, capsys):
    assert main([str(folder), str(tmp_path / "heads"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 50
    model = load_model(folder, [tmp_path / "heads" / "ctc", tmp_path / "heads" / "aed"])
    waveform = vectors("inputs")["waveform_int16"][:32000].float() / 32768
    found = model.transcribe(waveform, head="ctc")
    assert found.text == " ".join(word.word for word in found.words)
    own = chunkformer_heads(folder, backbone)["aed"].state_dict()
    for name, tensor in model.head("aed").state_dict().items():
        assert torch.equal(tensor, own[name])


def test_a_damaged_or_foreign_folder_is_refused(folder, backbone, tmp_path):
    with pytest.raises(CheckpointError, match="import-chunkformer"):
        chunkformer_heads(tmp_path, backbone)
    heads = tmp_path / "backbone" / "heads"
    heads.mkdir(parents=True)
    for path in (folder / "heads").iterdir():
        (heads / path.name).write_bytes(path.read_bytes())
    tensors = safetensors.torch.load_file(heads / "aed.safetensors")
    name = "decoder.left_decoder.decoders.0.norm1.weight"
    tensors["decoder.left_decoder.decoders.0.norm9.weight"] = tensors.pop(name)
    safetensors.torch.save_file(tensors, heads / "aed.safetensors")
    with pytest.raises(CheckpointError, match="missing decoder.blocks.0.norms.0.weight"):
        chunkformer_heads(heads.parent, backbone)
    about = json.loads((heads / "aed.json").read_text())
    (heads / "aed.json").write_text(json.dumps(about | {"eos": 7}))
    with pytest.raises(CheckpointError, match="ends them with 7"):
        chunkformer_heads(heads.parent, backbone)
    (heads / "ctc.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        chunkformer_heads(heads.parent, backbone)
