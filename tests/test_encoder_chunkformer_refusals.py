"""What is not quite a checkpoint of the package chunkformer is refused, and the fault is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from chunkformer_checkpoints import made, needs_reference, weights, without

from encoder import load_backbone
from encoder.chunkformer import read_chunkformer
from trunkline.errors import CheckpointError

pytestmark = needs_reference

LAYER = "encoder.encoders.1.conv_module.pointwise_conv1.weight"
DECODER = "decoder.right_decoder.decoders.0.src_attn.linear_v.bias"


@pytest.mark.parametrize("name", [LAYER, DECODER, "ctc.ctc_lo.bias", "encoder.global_cmvn.istd"])
def test_a_missing_tensor_is_named(tmp_path, name):
    with pytest.raises(CheckpointError, match=f"missing {name}"):
        read_chunkformer(made(tmp_path / "a", tensors=without(name)))


@pytest.mark.parametrize(
    "name", ["encoder.encoders.3.norm_ff.weight", "decoder.extra.weight", "predictor.weight"]
)
def test_an_unknown_tensor_is_named(tmp_path, name):
    with pytest.raises(CheckpointError, match=f"unknown {name}"):
        read_chunkformer(made(tmp_path / "a", tensors=weights() | {name: torch.zeros(2)}))


@pytest.mark.parametrize("name", [LAYER, DECODER, "ctc.ctc_lo.weight"])
def test_a_tensor_of_another_shape_is_named(tmp_path, name):
    other = weights() | {name: weights()[name][1:]}
    with pytest.raises(CheckpointError, match=rf"{name} has shape .*, expected"):
        read_chunkformer(made(tmp_path / "a", tensors=other))


def test_weights_saved_inside_data_parallel_are_refused(tmp_path):
    wrapped = {f"module.{name}": tensor for name, tensor in weights().items()}
    with pytest.raises(CheckpointError, match="191 names begin with 'module.'"):
        read_chunkformer(made(tmp_path / "a", tensors=wrapped))


class Surprise:
    """Would write a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_pickled_object_is_refused_by_name_and_not_run(tmp_path):
    source = made(tmp_path / "a", tensors=weights() | {"extra": Surprise(tmp_path / "ran")})
    with pytest.raises(CheckpointError, match=r"holds an object of \w+\.mkdir"):
        read_chunkformer(source)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", [0, 10, 5000, 1_400_000])
def test_a_truncated_file_is_refused_by_name(tmp_path, kept):
    source = made(tmp_path / "a")
    path = source / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        read_chunkformer(source)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"epoch": 3}, "'epoch' is a int"),
        ({"state_dict": {"a": torch.zeros(1)}}, "'state_dict' is a dict"),
        ([torch.zeros(1)], "holds a list"),
        ({"ctc.ctc_lo.bias": torch.zeros(50, dtype=torch.int64)}, "ctc_lo.bias is of torch.int64"),
        ({"ctc.ctc_lo.bias": torch.full((50,), torch.nan)}, "ctc_lo.bias holds NaN"),
    ],
)
def test_other_contents_are_refused_by_name(tmp_path, tensors, message):
    with pytest.raises(CheckpointError, match=message):
        read_chunkformer(made(tmp_path / "a", tensors=tensors))


def test_half_precision_weights_and_the_old_file_format_are_read(tmp_path):
    halves = {name: tensor.half() for name, tensor in weights().items()}
    source = made(tmp_path / "a", tensors=halves)
    torch.save(halves, source / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    backbone = read_chunkformer(source).backbone
    assert backbone.conformer.after_norm.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("conf", "name"),
    [
        ({"cnn_module_norm": "batch_norm"}, "cnn_module_norm is 'batch_norm'"),
        ({"causal": True}, "causal is True"),
        ({"input_layer": "conv2d"}, "input_layer is 'conv2d'"),
        ({"pos_enc_layer_type": "abs_pos"}, "pos_enc_layer_type is 'abs_pos'"),
        ({"selfattention_layer_type": "selfattn"}, "selfattention_layer_type is 'selfattn'"),
        ({"activation_type": "gelu"}, "activation_type is 'gelu'"),
        ({"normalize_before": False}, "normalize_before is False"),
        ({"macaron_style": False}, "macaron_style is False"),
        ({"layer_norm_type": "rms_norm"}, "layer_norm_type is 'rms_norm'"),
        ({"norm_eps": 1e-6}, "norm_eps is 1e-06"),
        ({"cnn_module_kernal": 15}, "unknown setting encoder_conf.cnn_module_kernal.*kernel"),
        ({"output_size": "64"}, "dim cannot be '64'"),
        ({"attention_heads": 5}, "divisible by heads=5"),
    ],
)
def test_settings_that_are_not_computed_are_refused_by_name(tmp_path, conf, name):
    with pytest.raises(CheckpointError, match=rf"config\.yaml: .*{name}"):
        read_chunkformer(made(tmp_path / "a", conf=conf))


@pytest.mark.parametrize(
    ("top", "message"),
    [
        ({"model": "transducer"}, "model is 'transducer'"),
        ({"model": "classification"}, "model is 'classification'"),
        ({"encoder": "conformer"}, "encoder is 'conformer'"),
        ({"output_dim": None}, "output_dim is None"),
        ({"output_dim": 51}, r"ctc_lo.bias has shape \(50,\), expected \(51,\)"),
        ({"input_dim": 40}, "input_dim is 40"),
        ({"encoder_conf": None}, "no section 'encoder_conf'"),
        ({"fbank_conf": {"num_ceps": 13}}, "unknown feature setting fbank_conf.num_ceps"),
        ({"dataset_conf": {"feats_type": "mfcc"}}, "feats_type is 'mfcc'"),
        ({"dataset_conf": [1]}, "dataset_conf should be a section"),
        ({"ctc_conf": {"ctc_blank_id": 50}}, "ctc_blank_id is 50"),
    ],
)
def test_models_of_other_kinds_are_refused_by_name(tmp_path, top, message):
    with pytest.raises(CheckpointError, match=message):
        read_chunkformer(made(tmp_path / "a", **top))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: lines[:-1], "numbers 49 pieces"),
        (lambda lines: [*lines[:-1], "<sos/eos> 60"], "0 to 49"),
        (lambda lines: [*lines, "x 3"], ":51: the number 3 is given twice"),
        (lambda lines: ["<blank>", *lines[1:]], ":1: '<blank>' is not a piece and its number"),
    ],
)
def test_a_bad_vocabulary_is_named(tmp_path, edit, message):
    source = made(tmp_path / "a")
    path = source / "vocab.txt"
    path.write_text("\n".join(edit(path.read_text().splitlines())) + "\n")
    with pytest.raises(CheckpointError, match=rf"vocab\.txt.*{message}"):
        read_chunkformer(source)


def test_what_is_not_a_checkpoint_directory_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not a directory"):
        load_backbone(f"chunkformer:{tmp_path / 'nothing'}")
    with pytest.raises(CheckpointError, match="config.yaml is missing"):
        load_backbone(f"chunkformer:{tmp_path}")
    (tmp_path / "config.yaml").write_text("encoder_conf: !!python/object/apply:os.getcwd []")
    with pytest.raises(CheckpointError, match="not YAML that can be read safely"):
        load_backbone(f"chunkformer:{tmp_path}")
    source = made(tmp_path / "a")
    (source / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="no weights; expected one of pytorch_model.bin"):
        load_backbone(f"chunkformer:{source}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ('{"mean_stat": [1], "frame_num": 1}', "var_stat"),
        ('{"mean_stat": [1], "var_stat": [1], "frame_num": 1}', r"shape \(1,\)"),
        (
            json.dumps({"mean_stat": [0] * 80, "var_stat": [1] * 80, "frame_num": 0}),
            "over 0 frames",
        ),
    ],
)
def test_a_bad_normalisation_is_named(tmp_path, content, message):
    names = ("encoder.global_cmvn.mean", "encoder.global_cmvn.istd")
    source = made(tmp_path / "a", tensors=without(*names))
    (source / "global_cmvn").write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_chunkformer(source)
    assert "global_cmvn" in str(caught.value)
