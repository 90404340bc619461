"""The CTC layer and the attention decoder of an imported ChunkFormer checkpoint, as heads.

`trunkline import-chunkformer` leaves their weights beside the backbone, in `heads/*.safetensors` under the names they
have there. Here they become heads like any other: to decode with, to evaluate, to go on training from. Every tensor
must find its place.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from encoder import Backbone
from encoder.load import check_tensors
from heads.aed import AEDHead, AEDOptions
from heads.ctc import CTCHead, CTCOptions
from heads.head import HeadLabels, TrunkSpec
from trunkline.checkpoint import read_json
from trunkline.errors import CheckpointError
from trunkline.tokenizer import Tokenizer, import_vocabulary

PUBLISHED_ATTENTION_HEADS = 4
"""Of the decoder, where the checkpoint's configuration does not say: that of the published recipes."""

_BLOCK = {
    "self_attn.linear_q": "self_attention.query",
    "self_attn.linear_k": "self_attention.key",
    "self_attn.linear_v": "self_attention.value",
    "self_attn.linear_out": "self_attention.out",
    "src_attn.linear_q": "frame_attention.query",
    "src_attn.linear_k": "frame_attention.key",
    "src_attn.linear_v": "frame_attention.value",
    "src_attn.linear_out": "frame_attention.out",
    "feed_forward.w_1": "feed_forward.0",
    "feed_forward.w_2": "feed_forward.3",
    "norm1": "norms.0",
    "norm2": "norms.1",
    "norm3": "norms.2",
}
_WHOLE = {"embed.0.weight": "embed.weight", "output_layer": "output", "after_norm": "after_norm"}


def chunkformer_heads(
    folder: str | os.PathLike[str],
    backbone: Backbone,
    *,
    attention_heads: int | None = None,
) -> dict[str, CTCHead]:
    """Return the heads that lie in an imported backbone directory: "ctc", and "aed" where there is a decoder.

    They work on the encoder's output, without adapters. `aed` has the CTC layer too.

    Args:
        folder: what `trunkline import-chunkformer` wrote.
        backbone: as loaded from there.
        attention_heads: of the decoder, which its weights do not show; by default what the checkpoint's configuration
            says, else 4.

    Raises:
        CheckpointError: the folder has no such heads, or a file that is incomplete or does not fit.
        DataError: a wrong line in vocab.txt.
    """
    folder = Path(folder) / "heads"
    if not (folder / "ctc.json").is_file():
        raise CheckpointError(
            f"{folder} holds no ctc.json; give a directory that `trunkline import-chunkformer` wrote."
        )
    about = read_json(folder / "ctc.json")
    if not about.get("vocabulary"):
        raise CheckpointError(
            f"{folder} has no vocabulary: the checkpoint came without vocab.txt, so its outputs have no names. Put "
            "vocab.txt into the checkpoint and import it again."
        )
    tokenizer = import_vocabulary(folder / about["vocabulary"])
    if tokenizer.blank != about.get("blank") or len(tokenizer) != about.get("outputs"):
        raise CheckpointError(
            f"{folder / 'ctc.json'} (blank {about.get('blank')}, {about.get('outputs')} outputs) and vocab.txt (blank "
            f"{tokenizer.blank}, {len(tokenizer)} pieces) contradict each other."
        )
    spec, labels = TrunkSpec.of(backbone), HeadLabels(tokenizer=tokenizer.to_dict())
    tensors = _read(folder / "ctc.safetensors")
    ctc = CTCHead(CTCOptions(layers="last", hidden=0), spec, labels)
    _load(ctc, _ctc_names(tensors), folder / "ctc.safetensors")
    heads = {"ctc": ctc}
    if (folder / "aed.json").is_file():
        found = read_json(folder / "aed.json")
        _check_ends(found, tokenizer, folder / "aed.json")
        weights = _aed_names(_read(folder / "aed.safetensors"))
        options = _aed_options(weights, attention_heads or found.get("attention_heads"))
        heads["aed"] = AEDHead(options, spec, labels)
        _load(heads["aed"], _ctc_names(tensors) | weights, folder / "aed.safetensors")
    return heads


def _check_ends(about: dict[str, Any], tokenizer: Tokenizer, path: Path) -> None:
    if {about.get("sos"), about.get("eos")} != {tokenizer.sos_eos}:
        raise CheckpointError(
            f"{path} begins texts with {about.get('sos')} and ends them with {about.get('eos')}; only decoders that do "
            f"both with <sos/eos> ({tokenizer.sos_eos} in vocab.txt) are read."
        )


def _aed_options(weights: dict[str, Tensor], attention_heads: int | None) -> AEDOptions:
    def layers(decoder: str) -> int:
        found = [re.match(rf"{decoder}\.blocks\.(\d+)\.", name) for name in weights]
        return max((int(match[1]) + 1 for match in found if match), default=0)

    inner = weights.get("decoder.blocks.0.feed_forward.0.weight")
    return AEDOptions(
        layers="last",
        hidden=0,
        decoder_layers=max(1, layers("decoder")),
        reverse_layers=layers("reverse"),
        heads=attention_heads or PUBLISHED_ATTENTION_HEADS,
        feed_forward=1 if inner is None else len(inner),
    )


def _ctc_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("ctc.ctc_lo.", "output."): tensor for name, tensor in tensors.items()}


def _aed_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the decoders' tensors under our names; a name that is not understood stays, and is refused later."""
    renamed = {}
    for name, tensor in tensors.items():
        if name.endswith("embed.1.pe"):  # the table of positions, which is computed here
            continue
        ours = re.sub(r"^decoder\.right_decoder\.", "reverse.", name)
        ours = re.sub(r"^decoder\.left_decoder\.", "decoder.", ours)
        prefix, _, rest = ours.partition(".")
        if match := re.match(r"decoders\.(\d+)\.(.+)\.(weight|bias)$", rest):
            ours = f"{prefix}.blocks.{match[1]}.{_BLOCK.get(match[2], match[2])}.{match[3]}"
        else:
            for theirs, new in _WHOLE.items():
                if rest.startswith(theirs):
                    ours = f"{prefix}.{new}{rest.removeprefix(theirs)}"
        renamed[ours] = tensor
    return renamed


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; the directory is incomplete.") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error


def _load(head: CTCHead, tensors: dict[str, Tensor], path: Path) -> None:
    check_tensors(tensors, head.state_dict(), str(path))
    head.load_state_dict(tensors)
    head.eval()
