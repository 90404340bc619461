"""Checkpoints of the package chunkformer for tests: the reference's, changed."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "chunkformer"
CHECKPOINT = GOLDEN / "checkpoint"

needs_reference = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"the reference vectors are not at {GOLDEN}"
)


@cache
def weights() -> dict[str, Tensor]:
    return torch.load(CHECKPOINT / "pytorch_model.bin", weights_only=True)


def made(
    folder: Path,
    *,
    config: str = "config.yaml",
    tensors: dict[str, Tensor] | None = None,
    conf: dict | None = None,
    **top,
) -> Path:
    """A checkpoint like the reference's, with other tensors, settings of the encoder, or settings at the top."""
    folder.mkdir()
    values = yaml.safe_load((CHECKPOINT / config).read_text())
    values["encoder_conf"] |= conf or {}
    (folder / "config.yaml").write_text(yaml.safe_dump(values | top))
    for name in ("global_cmvn", "vocab.txt"):
        shutil.copyfile(CHECKPOINT / name, folder / name)
    torch.save(weights() if tensors is None else tensors, folder / "pytorch_model.bin")
    return folder


def without(*names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights().items() if name not in names}
