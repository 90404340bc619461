"""The configuration of a checkpoint of the public package `chunkformer`, in both of its spellings.

The first release (with which `chunkformer-large-vie` was published) and the package 1.x call the same things by
other names. A setting that would change the computation and is not built here is refused by name, and so is a key
that neither knows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from encoder.config import BackboneConfig, FeatureConfig
from trunkline.errors import CheckpointError, ConfigError, nearest

SIZES = {
    "output_size": ("dim", 256),
    "attention_heads": ("heads", 4),
    "linear_units": ("feed_forward", 2048),
    "num_blocks": ("layers", 6),
    "cnn_module_kernel": ("kernel", 15),
    "dropout_rate": ("dropout", 0.1),
}
"""Their name -> ours and the package's default."""

# Setting -> what it must be, in either spelling; the first value is the package's default.
REQUIRED: dict[str, tuple[Any, ...]] = {
    "input_layer": ("dw_striding", "depthwise"),
    "pos_enc_layer_type": ("chunk_rel_pos", "stream_rel_pos"),
    "selfattention_layer_type": ("chunk_rel_seflattn", "stream_rel_selfattn"),
    "normalize_before": (True,),
    "macaron_style": (True,),
    "use_cnn_module": (True,),
    "causal": (False,),
    "activation_type": ("swish",),
    "layer_norm_type": ("layer_norm",),
    "final_norm": (True,),
    "norm_eps": (1e-5,),
}

# Of training, or without effect on what the weights compute. `dynamic_conv` only ever chose which context the
# convolution was trained with; a `Context` says that here.
WITHOUT_EFFECT = {
    "positional_dropout_rate",
    "attention_dropout_rate",
    "dynamic_conv",
    "use_dynamic_conv",
    "use_dynamic_chunk",
    "use_dynamic_left_chunk",
    "use_limited_chunk",
    "use_context_hint_chunk",
    "static_chunk_size",
    "dynamic_chunk_sizes",
    "dynamic_left_context_sizes",
    "dynamic_right_context_sizes",
    "right_context_probs",
    "right_context_sizes",
    "limited_decoding_chunk_sizes",
    "limited_left_chunk_sizes",
    "freeze_subsampling_layer",
    "gradient_checkpointing",
    "use_sdpa",
    "streaming",
}

FBANK = {
    "num_mel_bins": "num_mels",
    "frame_length": "frame_length_ms",
    "frame_shift": "frame_shift_ms",
    "low_freq": "low_hz",
    "high_freq": "high_hz",
}
FBANK_WITHOUT_EFFECT = {"dither"}
"""Of training: the package decodes without dither too."""


class Source(NamedTuple):
    """What a checkpoint's configuration says."""

    backbone: BackboneConfig
    vocabulary: int
    """Number of outputs of its CTC."""
    blank: int
    sos: int
    eos: int
    decoder: str | None
    """`transformer`, `bitransformer`, or None where the configuration (as the published one) names none."""
    decoder_conf: dict[str, Any]
    has_cmvn: bool
    json_cmvn: bool
    spelling: str
    """`first release` or `1.x`."""
    encoder_conf: dict[str, Any]


def read_config(path: Path) -> Source:
    """Read `config.yaml`.

    Raises:
        CheckpointError: not such a configuration, or one with a setting that this encoder does not compute.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing; give the checkpoint directory of the package chunkformer."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise CheckpointError(f"{path} is not YAML that can be read safely: {error}") from error
    conf = values.get("encoder_conf") if isinstance(values, dict) else None
    if not isinstance(conf, dict):
        raise CheckpointError(f"{path} has no section 'encoder_conf'; it is of another model.")
    _check_kind(values, path)
    _check_encoder(conf, path)
    special = _section(_section(values, "tokenizer_conf", path), "special_tokens", path)
    vocabulary = _whole(values, "output_dim", path)
    sizes = {ours: conf.get(key, default) for key, (ours, default) in SIZES.items()}
    try:
        config = BackboneConfig.from_dict(
            BackboneConfig().to_dict()
            | sizes
            | {"conv_channels": sizes["dim"], "features": _features(values, path)}
        )
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return Source(
        backbone=config,
        vocabulary=vocabulary,
        blank=_symbol(_section(values, "ctc_conf", path), "ctc_blank_id", 0, vocabulary, path),
        sos=_symbol(special, "<sos>", vocabulary - 1, vocabulary, path),
        eos=_symbol(special, "<eos>", vocabulary - 1, vocabulary, path),
        decoder=values.get("decoder"),
        decoder_conf=_section(values, "decoder_conf", path),
        has_cmvn=bool(values.get("cmvn_file") or values.get("cmvn") or values.get("cmvn_conf")),
        json_cmvn=bool(
            _section(values, "cmvn_conf", path).get(
                "is_json_cmvn", values.get("is_json_cmvn", True)
            )
        ),
        spelling="first release"
        if conf.get("input_layer", "dw_striding") == "depthwise"
        else "1.x",
        encoder_conf=conf,
    )


def _check_kind(values: dict[str, Any], path: Path) -> None:
    for key, allowed in (
        ("encoder", ("chunkformer",)),
        ("model", ("asr_model",)),
        ("ctc", ("ctc",)),
        ("decoder", ("transformer", "bitransformer")),
    ):
        if values.get(key, allowed[0]) not in allowed:
            raise CheckpointError(
                f"{path}: {key} is {values[key]!r}; only {' or '.join(allowed)} can be imported."
            )


def _check_encoder(conf: dict[str, Any], path: Path) -> None:
    known = SIZES.keys() | REQUIRED.keys() | WITHOUT_EFFECT | {"cnn_module_norm"}
    for key in conf:
        if key not in known:
            raise CheckpointError(
                f"{path}: unknown setting encoder_conf.{key}.{nearest(key, known)}"
            )
    for key, allowed in REQUIRED.items():
        if conf.get(key, allowed[0]) not in allowed:
            raise CheckpointError(
                f"{path}: encoder_conf.{key} is {conf[key]!r}; this encoder computes only "
                f"{' or '.join(repr(value) for value in allowed)}."
            )
    # The package's default is batch_norm, so it has to be said.
    if conf.get("cnn_module_norm", "batch_norm") != "layer_norm":
        raise CheckpointError(
            f"{path}: encoder_conf.cnn_module_norm is {conf.get('cnn_module_norm', 'batch_norm')!r}; "
            "this encoder computes only 'layer_norm'."
        )


def _features(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the fields of a `FeatureConfig`.

    The package trains with the options under `dataset_conf` and decodes with those at the top, so that a checkpoint
    trained with others than 80 bins at 16 kHz is decoded wrongly. Both places are read here, and must agree.
    """
    data = _section(values, "dataset_conf", path)
    if data.get("feats_type", "fbank") != "fbank":
        raise CheckpointError(
            f"{path}: dataset_conf.feats_type is {data['feats_type']!r}; only 'fbank' can be imported."
        )
    fbank = _both(values, data, "fbank_conf", path)
    rate = _both(values, data, "resample_conf", path).get("resample_rate", 16000)
    features = FeatureConfig(sample_rate=16000)
    fields: dict[str, Any] = {
        "sample_rate": rate,
        "num_mels": features.num_mels,
        "frame_length_ms": features.frame_length_ms,
        "frame_shift_ms": features.frame_shift_ms,
        "low_hz": features.low_hz,
        "high_hz": features.high_hz,
        "preemphasis": features.preemphasis,
    }
    for key, value in fbank.items():
        if key in FBANK:
            fields[FBANK[key]] = value
        elif key not in FBANK_WITHOUT_EFFECT:
            raise CheckpointError(
                f"{path}: unknown feature setting fbank_conf.{key}.{nearest(key, FBANK)}"
            )
    bins = _whole(values, "input_dim", path)
    if bins != fields["num_mels"]:
        raise CheckpointError(
            f"{path}: input_dim is {bins}, but the features have {fields['num_mels']} mel bins."
        )
    return fields


def _both(values: dict[str, Any], data: dict[str, Any], section: str, path: Path) -> dict[str, Any]:
    above, below = _section(values, section, path), _section(data, section, path)
    for key in above.keys() & below.keys():
        if key not in FBANK_WITHOUT_EFFECT and above[key] != below[key]:
            raise CheckpointError(
                f"{path}: {section}.{key} is {above[key]!r}, but dataset_conf.{section}.{key} is {below[key]!r}; "
                "keep the one it was trained with."
            )
    return below | above


def _section(values: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    section = values.get(key)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise CheckpointError(f"{path}: {key} should be a section, but is {section!r}.")
    return section


def _whole(values: dict[str, Any], key: str, path: Path) -> int:
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{path}: {key} is {value!r}; a positive whole number is needed.")
    return value


def _symbol(section: dict[str, Any], key: str, default: int, vocabulary: int, path: Path) -> int:
    value = section.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < vocabulary:
        raise CheckpointError(f"{path}: {key} is {value!r}; the symbols are 0 to {vocabulary - 1}.")
    return value
