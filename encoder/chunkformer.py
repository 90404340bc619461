"""Checkpoints of the public package `chunkformer`: read strictly, never unpickled, every tensor accounted for.

A directory holds `config.yaml`, `global_cmvn`, `vocab.txt` and `pytorch_model.bin` (or `.pt`, `.ckpt`), a pickle of
named tensors. The encoder becomes a `Backbone`; the CTC and the attention decoder, which this package does not
compute, are kept under the names they have, for heads to read.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from encoder.backbone import Backbone
from encoder.chunkformer_config import Source, read_config
from encoder.load import check_tensors, fingerprint_of, save_backbone
from trunkline.checkpoint import read_json
from trunkline.errors import CheckpointError
from trunkline.log import get_logger

WEIGHTS = ("pytorch_model.bin", "pytorch_model.pt", "pytorch_model.ckpt")
LICENCE = (
    "not stated; it must be checked before use. The published weights of chunkformer-large-vie are CC-BY-NC-4.0 "
    "(no commercial use)."
)
# Places of the subsampling's convolutions in the package, which counts its ReLUs too.
_EMBED = {"0": "0", "1": "2", "2": "3", "3": "5", "4": "6"}
_NORMS = ("norm1", "norm2", "norm3")

logger = get_logger(__name__)


class Imported(NamedTuple):
    """A checkpoint: the `backbone`, what else is in it by head, its vocabulary, and what its configuration says.

    `heads` maps `ctc` and, where the checkpoint has one, `aed` to tensors under the package's names.
    """

    backbone: Backbone
    heads: dict[str, dict[str, Tensor]]
    vocabulary: list[str] | None
    source: Source


def read_chunkformer(folder: str | os.PathLike[str]) -> Imported:
    """Read a checkpoint directory of the package `chunkformer`, of either spelling.

    Raises:
        CheckpointError: a file is missing, truncated or holds pickled objects; a setting is not supported; a tensor is
            missing, unknown, or of another shape.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a directory; give a checkpoint directory.")
    source = read_config(folder / "config.yaml")
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder} holds no weights; expected one of {', '.join(WEIGHTS)}.")
    tensors = read_weights(path)
    backbone = Backbone(source.backbone)
    if not tensors.keys() & {"encoder.global_cmvn.mean", "encoder.global_cmvn.istd"}:
        mean, scale = _normalisation(folder, source)
        tensors |= {"encoder.global_cmvn.mean": mean, "encoder.global_cmvn.istd": scale}
    elif source.json_cmvn and (folder / "global_cmvn").is_file():
        _compare_normalisation(folder, source, tensors)
    ours = backbone.state_dict()
    theirs = {their_name(name): name for name in ours}
    expected = {
        name: _like(*(*ours[our_name].shape, 1))
        if re.search(r"\.pointwise_conv\d\.weight$", name)
        else ours[our_name]
        for name, our_name in theirs.items()
    }
    heads = {"ctc": _expected_ctc(source), "aed": _expected_decoder(source, tensors)}
    check_tensors(tensors, expected | heads["ctc"] | heads["aed"], str(path))
    backbone.load_state_dict(
        {our_name: tensors[name].reshape(ours[our_name].shape) for name, our_name in theirs.items()}
    )
    return Imported(
        backbone.eval(),
        {
            kind: {name: tensors[name] for name in sorted(names)}
            for kind, names in heads.items()
            if names
        },
        _vocabulary(folder / "vocab.txt", source),
        source,
    )


def load_chunkformer(folder: str | os.PathLike[str]) -> Backbone:
    """Return the backbone of a checkpoint directory, with the fingerprint that its import would have."""
    backbone = read_chunkformer(folder).backbone
    backbone.fingerprint = fingerprint_of(backbone)
    return backbone


def import_chunkformer(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    licence: str = LICENCE,
    overwrite: bool = False,
) -> Imported:
    """Write a checkpoint directory of the package `chunkformer` as a backbone directory, and return what was read.

    Beside the backbone's files it gets ``heads/ctc.safetensors`` and ``heads/aed.safetensors`` with a JSON file each
    (blank, start and end symbol, sizes), and ``heads/vocab.txt``.

    Raises:
        CheckpointError: as `read_chunkformer`.
        StorageError: `out` exists, or cannot be written.
    """
    imported = read_chunkformer(folder)
    save_backbone(
        imported.backbone,
        out,
        card=_card(imported, licence),
        training={
            "imported_from": "chunkformer",
            "spelling": imported.source.spelling,
            "licence": licence,
            "encoder_conf": imported.source.encoder_conf,
        },
        extras=_head_files(imported),
        overwrite=overwrite,
    )
    return imported


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a flat dictionary of finite floating-point tensors, as float32, without unpickling any object."""
    try:
        # Mapped, so that what is copied into the backbone is not in memory twice.
        content = torch.load(
            path, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|Unsupported (?:global|class)):? ([\w.]+)", str(error))
        what = f"an object of {named[1]}" if named else "what is not a tensor"
        raise CheckpointError(
            f"{path} holds {what}; only plain tensors are read, since unpickling can run code. "
            "Save `model.state_dict()` alone, from a machine that trusts the file."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is truncated or not a checkpoint: {reason}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not named tensors.")
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"{path}: {name!r} is a {type(tensor).__name__}, not a tensor; save `model.state_dict()` alone."
            )
    wrapped = [name for name in content if str(name).startswith("module.")]
    if wrapped:
        raise CheckpointError(
            f"{path}: {len(wrapped)} names begin with 'module.', e.g. {wrapped[0]!r}; the model was saved inside "
            "DataParallel. Save `model.module.state_dict()`."
        )
    return {str(name): _as_float32(tensor, str(name), path) for name, tensor in content.items()}


def _as_float32(tensor: Tensor, name: str, path: Path) -> Tensor:
    if not tensor.is_floating_point():
        raise CheckpointError(f"{path}: {name} is of {tensor.dtype}, not of floating point.")
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{path}: {name} holds NaN or infinite numbers.")
    return tensor.to(torch.float32)


def their_name(name: str) -> str:
    """Return the package's name of one of our weights."""
    if name.startswith("feature_"):
        return "encoder.global_cmvn." + {"feature_mean": "mean", "feature_scale": "istd"}[name]
    name = name.removeprefix("conformer.")
    name = re.sub(r"^embed\.conv\.(\d)", lambda match: f"embed.conv.{_EMBED[match[1]]}", name)
    return "encoder." + re.sub(r"^layers\.", "encoders.", name)


def _like(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _expected_ctc(source: Source) -> dict[str, Tensor]:
    size, dim = source.vocabulary, source.backbone.dim
    return {"ctc.ctc_lo.weight": _like(size, dim), "ctc.ctc_lo.bias": _like(size)}


def _expected_decoder(source: Source, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return names and shapes of the attention decoder; depth and inner width are read from the tensors."""
    names = [name for name in tensors if name.startswith("decoder.")]
    if not names and source.decoder is None:
        return {}
    two_ways = source.decoder == "bitransformer" or any("_decoder." in name for name in names)
    prefixes = ("decoder.left_decoder.", "decoder.right_decoder.") if two_ways else ("decoder.",)
    expected: dict[str, Tensor] = {}
    for prefix, key in zip(prefixes, ("num_blocks", "r_num_blocks"), strict=False):
        numbers = {
            int(match[1])
            for name in names
            if (match := re.match(re.escape(prefix) + r"decoders\.(\d+)\.", name))
        }
        blocks = max(numbers, default=-1) + 1 or int(source.decoder_conf.get(key, 0))
        first = tensors.get(f"{prefix}decoders.0.feed_forward.w_1.weight")
        inner = first.shape[0] if first is not None else source.decoder_conf.get("linear_units", 0)
        expected |= _expected_transformer(prefix, source, blocks, int(inner))
        table = tensors.get(f"{prefix}embed.1.pe")
        if table is not None:  # written by 1.2.2, computed by the others
            length = table.shape[1] if table.ndim == 3 else 0
            expected[f"{prefix}embed.1.pe"] = _like(1, length, source.backbone.dim)
    return expected


def _expected_transformer(
    prefix: str, source: Source, blocks: int, inner: int
) -> dict[str, Tensor]:
    dim, size = source.backbone.dim, source.vocabulary

    def affine(name: str, outputs: int, inputs: int) -> dict[str, Tensor]:
        return {f"{name}.weight": _like(outputs, inputs), f"{name}.bias": _like(outputs)}

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": _like(dim), f"{name}.bias": _like(dim)}

    expected = {f"{prefix}embed.0.weight": _like(size, dim)}
    expected |= norm(f"{prefix}after_norm") | affine(f"{prefix}output_layer", size, dim)
    for block in range(blocks):
        own = f"{prefix}decoders.{block}"
        for attention in ("self_attn", "src_attn"):
            for part in "q", "k", "v", "out":
                expected |= affine(f"{own}.{attention}.linear_{part}", dim, dim)
        expected |= affine(f"{own}.feed_forward.w_1", inner, dim)
        expected |= affine(f"{own}.feed_forward.w_2", dim, inner)
        for each in _NORMS:
            expected |= norm(f"{own}.{each}")
    return expected


def _normalisation(folder: Path, source: Source) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / standard deviation of the features from `global_cmvn`."""
    path = folder / "global_cmvn"
    bins = source.backbone.features.num_mels
    if not path.is_file() and not source.has_cmvn:
        return torch.zeros(bins), torch.ones(bins)
    if not source.json_cmvn:
        raise CheckpointError(
            f"{path} is in Kaldi's text format and the weights hold no encoder.global_cmvn; only JSON is read."
        )
    values = read_json(path)
    try:
        count = float(values["frame_num"])
        mean = torch.tensor(values["mean_stat"], dtype=torch.float64) / count
        square = torch.tensor(values["var_stat"], dtype=torch.float64) / count
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path} needs the keys mean_stat, var_stat and frame_num with numbers: {error!r}"
        ) from error
    if mean.shape != (bins,) or square.shape != (bins,) or not count > 0:
        raise CheckpointError(
            f"{path} has statistics of shape {tuple(mean.shape)} and {tuple(square.shape)} over {count:g} frames; "
            f"expected ({bins},) over at least one."
        )
    scale = (square - mean.square()).clamp_min(1e-20).rsqrt()
    if not bool(torch.isfinite(mean).all() & torch.isfinite(scale).all()):
        raise CheckpointError(f"{path} holds NaN or infinite numbers.")
    return mean.float(), scale.float()


def _compare_normalisation(folder: Path, source: Source, tensors: dict[str, Tensor]) -> None:
    """Warn where the weights and `global_cmvn` disagree; the weights win, as in the package."""
    for name, given in zip(("mean", "istd"), _normalisation(folder, source), strict=True):
        held = tensors.get(f"encoder.global_cmvn.{name}")
        if (
            held is not None
            and held.shape == given.shape
            and not torch.allclose(held, given, rtol=1e-3)
        ):
            logger.warning(
                "%s differs from encoder.global_cmvn.%s of the weights, which is used.",
                folder / "global_cmvn",
                name,
            )


def _vocabulary(path: Path, source: Source) -> list[str] | None:
    """Return the pieces by id, or None if the checkpoint has no `vocab.txt`."""
    if not path.is_file():
        return None
    pieces: dict[int, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        piece, _, text = line.strip().rpartition(" ")
        if not piece or not text.isascii() or not text.isdigit():
            raise CheckpointError(f"{path}:{number}: {line!r} is not a piece and its number.")
        if int(text) in pieces:
            raise CheckpointError(f"{path}:{number}: the number {text} is given twice.")
        pieces[int(text)] = piece
    if sorted(pieces) != list(range(source.vocabulary)):
        raise CheckpointError(
            f"{path} numbers {len(pieces)} pieces; config.yaml has {source.vocabulary} outputs (output_dim), which "
            f"need the numbers 0 to {source.vocabulary - 1}."
        )
    return [pieces[number] for number in range(source.vocabulary)]


def _head_files(imported: Imported) -> dict[str, bytes]:
    source = imported.source
    conf = source.decoder_conf
    about: dict[str, dict[str, Any]] = {
        "ctc": {"blank": source.blank},
        "aed": {
            "sos": source.sos,
            "eos": source.eos,
            "directions": 2
            if any(".right_decoder." in n for n in imported.heads.get("aed", ()))
            else 1,
            # Weights do not show it; None where the configuration does not say (published recipes use 4).
            "attention_heads": conf.get("attention_heads"),
        },
    }
    files: dict[str, bytes] = {}
    for kind, tensors in imported.heads.items():
        described = {
            "kind": f"chunkformer.{kind}",
            "schema": 1,
            "inputs": source.backbone.dim,
            "outputs": source.vocabulary,
            "vocabulary": "vocab.txt" if imported.vocabulary else None,
            **about[kind],
        }
        files[f"heads/{kind}.safetensors"] = safetensors.torch.save(
            {name: tensor.contiguous() for name, tensor in tensors.items()}
        )
        files[f"heads/{kind}.json"] = (json.dumps(described, indent=2) + "\n").encode()
    if imported.vocabulary:
        lines = (f"{piece} {number}\n" for number, piece in enumerate(imported.vocabulary))
        files["heads/vocab.txt"] = "".join(lines).encode()
    return files


def _card(imported: Imported, licence: str) -> str:
    config = imported.source.backbone
    heads = "".join(
        f"- `heads/{kind}.safetensors`: {len(tensors)} tensors\n"
        for kind, tensors in imported.heads.items()
    )
    return (
        "# ChunkFormer backbone\n\n"
        f"Imported from a checkpoint of the package chunkformer ({imported.source.spelling} configuration): "
        f"{config.layers} layers of width {config.dim}, {config.features.sample_rate} Hz.\n\n"
        f"**Licence of the weights:** {licence}\n\n"
        "The architecture is that of ChunkFormer (ICASSP 2025, arXiv 2502.14673). What it was trained on is not in "
        f"the checkpoint.\n\nFor heads, under the names of the package:\n\n{heads}"
    )
