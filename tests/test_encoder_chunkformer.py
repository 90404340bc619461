"""Checkpoints of the package chunkformer: both spellings give the reference's numbers, and nothing is guessed."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import safetensors.torch
import torch
from chunkformer_checkpoints import CHECKPOINT, GOLDEN, made, needs_reference, weights, without
from torch import Tensor

from encoder import Backbone, Context, load_backbone
from encoder.chunkformer import import_chunkformer, read_chunkformer
from trunkline.errors import CheckpointError, StorageError

ROOT = Path(__file__).parents[1]
CONFIGS = ["config.yaml", "config_first_release.yaml"]
DECODED = ["c16_l32_r8", "c64_l128_r128", "c32_l40_r24", "c20_l41_r3", "c8_l64_r0"]

pytestmark = needs_reference


@cache
def vectors(name: str) -> dict[str, Tensor]:
    return safetensors.torch.load_file(GOLDEN / f"{name}.safetensors")


@pytest.fixture(scope="module", params=CONFIGS)
def imported(request, tmp_path_factory) -> Path:
    """A backbone directory made from the reference's checkpoint in either spelling."""
    folder = tmp_path_factory.mktemp("imported")
    source = made(folder / "source", config=request.param)
    import_chunkformer(source, folder / "out", licence="CC-BY-NC-4.0")
    return folder / "out"


def encode(backbone: Backbone, setting: str) -> Tensor:
    features = vectors("inputs")["fbank"][None]
    context = Context.full()
    if setting != "full":
        context = Context(*(int(part[1:]) for part in setting.split("_")))
    with torch.no_grad():
        return backbone(features, torch.tensor([features.shape[1]]), context=context).frames[0]


@pytest.mark.parametrize("setting", ["full", *DECODED])
def test_frames_and_ctc_equal_the_reference_in_both_spellings(imported, setting):
    frames = encode(load_backbone(imported), setting)
    prefix = "" if setting == "full" else "decode."
    expected = vectors("expected")
    torch.testing.assert_close(frames, expected[f"{prefix}{setting}.encoder"], atol=2e-5, rtol=0)
    ctc = safetensors.torch.load_file(imported / "heads" / "ctc.safetensors")
    logits = frames @ ctc["ctc.ctc_lo.weight"].T + ctc["ctc.ctc_lo.bias"]
    torch.testing.assert_close(
        logits.log_softmax(-1), expected[f"{prefix}{setting}.ctc_logp"], atol=1e-4, rtol=0
    )
    best = json.loads((GOLDEN / "expected.json").read_text())
    if setting in best:
        assert logits.argmax(-1).tolist() == best[setting]["greedy_ids"]


def test_the_waveform_has_the_features_of_its_16_bit_samples(imported):
    backbone = load_backbone(imported)
    waveform = vectors("inputs")["waveform_int16"]
    features = backbone.features(waveform / 32768)
    torch.testing.assert_close(features, vectors("inputs")["fbank"], atol=1e-3, rtol=0)
    assert backbone.sample_rate == 16000


def test_opening_a_checkpoint_directly_is_the_same_as_importing_it(imported):
    direct, opened = load_backbone(f"chunkformer:{CHECKPOINT}"), load_backbone(imported)
    assert direct.fingerprint == opened.fingerprint
    assert all(torch.equal(opened.state_dict()[k], v) for k, v in direct.state_dict().items())
    assert not direct.training


def test_every_tensor_is_in_the_backbone_or_in_a_head(imported):
    heads = {
        path.stem: safetensors.torch.load_file(path)
        for path in (imported / "heads").glob("*.safetensors")
    }
    assert heads.keys() == {"ctc", "aed"}
    kept = heads["ctc"] | heads["aed"]
    assert {name for name in weights() if not name.startswith("encoder.")} == kept.keys()
    assert all(torch.equal(weights()[name], tensor) for name, tensor in kept.items())
    backbone = load_backbone(imported)
    assert len(backbone.state_dict()) + len(kept) == len(weights())
    assert (imported / "heads" / "vocab.txt").read_text() == (CHECKPOINT / "vocab.txt").read_text()
    ctc, aed = (json.loads((imported / "heads" / f"{k}.json").read_text()) for k in ("ctc", "aed"))
    assert (ctc["blank"], ctc["outputs"], ctc["inputs"]) == (0, 50, 64)
    assert (aed["sos"], aed["eos"], aed["directions"]) == (49, 49, 2)
    # As the published configuration, that of the first release does not describe the decoder.
    assert aed["attention_heads"] in (None, 4)


def test_the_card_states_the_licence_or_that_it_must_be_checked(imported, tmp_path):
    assert "**Licence of the weights:** CC-BY-NC-4.0\n" in (imported / "README.md").read_text()
    import_chunkformer(CHECKPOINT, tmp_path / "out")
    assert "must be checked" in (tmp_path / "out" / "README.md").read_text()


def test_tables_of_positions_belong_to_the_decoder(tmp_path):
    tables = {
        f"decoder.{side}_decoder.embed.1.pe": torch.ones(1, 9, 64) for side in ("left", "right")
    }
    heads = read_chunkformer(made(tmp_path / "a", tensors=weights() | tables)).heads
    assert tables.keys() <= heads["aed"].keys()


def test_a_checkpoint_without_an_attention_decoder_has_the_ctc_alone(tmp_path):
    tensors = {k: v for k, v in weights().items() if not k.startswith("decoder.")}
    source = made(tmp_path / "a", config="config_first_release.yaml", tensors=tensors)
    assert read_chunkformer(source).heads.keys() == {"ctc"}


def test_other_sizes_are_read_from_the_configuration(tmp_path):
    """Two layers, one head less, kernel 7, features of 40 bins at 8 kHz under `dataset_conf` alone."""
    tensors = {k: v for k, v in weights().items() if ".encoders.2." not in k}
    for name, tensor in tensors.items():
        if name.endswith("depthwise_conv.weight"):
            tensors[name] = tensor[..., :7]
        if ".pos_bias_" in name:
            tensors[name] = tensor.reshape(2, 32)
    tensors["encoder.embed.out.weight"] = tensors["encoder.embed.out.weight"][:, : 64 * 4]
    for part in ("mean", "istd"):
        tensors[f"encoder.global_cmvn.{part}"] = tensors[f"encoder.global_cmvn.{part}"][:40]
    source = made(
        tmp_path / "a",
        tensors=tensors,
        conf={"num_blocks": 2, "attention_heads": 2, "cnn_module_kernel": 7},
        input_dim=40,
        dataset_conf={
            "fbank_conf": {
                "num_mel_bins": 40,
                "frame_length": 32,
                "frame_shift": 16,
                "dither": 1.0,
            },
            "resample_conf": {"resample_rate": 8000},
        },
    )
    (source / "global_cmvn").unlink()
    config = read_chunkformer(source).backbone.config
    assert (config.layers, config.heads, config.kernel) == (2, 2, 7)
    assert (config.features.num_mels, config.features.sample_rate) == (40, 8000)
    assert (config.features.window, config.features.hop) == (256, 128)


def test_feature_settings_of_both_levels_must_agree(tmp_path):
    below = {"fbank_conf": {"num_mel_bins": 80, "frame_shift": 10, "dither": 1.0}}
    above = {"num_mel_bins": 80, "frame_shift": 10, "dither": 0.0}
    read_chunkformer(made(tmp_path / "same", fbank_conf=above, dataset_conf=below))
    other = made(tmp_path / "other", fbank_conf=above | {"frame_shift": 12}, dataset_conf=below)
    with pytest.raises(CheckpointError, match=r"fbank_conf.frame_shift is 12, but dataset_conf"):
        read_chunkformer(other)


def test_the_normalisation_is_read_from_json_where_the_weights_have_none(tmp_path, caplog):
    bare = made(
        tmp_path / "a", tensors=without("encoder.global_cmvn.mean", "encoder.global_cmvn.istd")
    )
    backbone = read_chunkformer(bare).backbone
    torch.testing.assert_close(backbone.feature_mean, weights()["encoder.global_cmvn.mean"])
    torch.testing.assert_close(backbone.feature_scale, weights()["encoder.global_cmvn.istd"])
    (bare / "global_cmvn").unlink()
    with pytest.raises(CheckpointError, match="global_cmvn is missing"):
        read_chunkformer(bare)


def test_the_weights_win_over_another_normalisation_with_a_warning(tmp_path, caplog):
    moved = made(tmp_path / "a", tensors=weights() | {"encoder.global_cmvn.mean": torch.zeros(80)})
    assert not read_chunkformer(moved).backbone.feature_mean.any()
    assert "differs from encoder.global_cmvn.mean" in caplog.text


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trunkline", "import-chunkformer", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_command_imports_and_tells_what_it_found(tmp_path):
    result = run(CHECKPOINT, tmp_path / "out", "--licence", "CC-BY-4.0", "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["fingerprint"] == load_backbone(tmp_path / "out").fingerprint
    assert summary["heads"] == {"ctc": "2 tensors", "aed": "62 tensors"}
    assert summary["licence"] == "CC-BY-4.0"


def test_the_command_refuses_in_one_line(tmp_path):
    source = made(tmp_path / "a", tensors=without("encoder.after_norm.bias"))
    result = run(source, tmp_path / "out")
    assert (result.returncode, result.stdout) == (1, "")
    assert "missing encoder.after_norm.bias" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_existing_directory_is_not_replaced_unasked(imported):
    with pytest.raises(StorageError, match="exists already"):
        import_chunkformer(CHECKPOINT, imported)
