"""`trunkline import-chunkformer SRC OUT`: turn a published ChunkFormer checkpoint into a backbone directory."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trunkline.command import run


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="trunkline import-chunkformer",
        description="Read a checkpoint directory of the package chunkformer (config.yaml, global_cmvn, vocab.txt, "
        "pytorch_model.bin; first release or 1.x) and write it as a backbone directory. Its CTC and attention decoder "
        "go to OUT/heads. Nothing is unpickled but plain tensors, and every tensor has to be known.",
        epilog="Example: trunkline import-chunkformer chunkformer-large-vie backbones/large-vie --licence CC-BY-NC-4.0",
    )
    parser.add_argument("source", type=Path, metavar="SRC", help="the checkpoint directory")
    parser.add_argument("out", type=Path, metavar="OUT", help="the backbone directory to write")
    parser.add_argument(
        "--licence",
        metavar="TEXT",
        help="licence of the weights, for the model card; without it the card says that it must be checked",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    return parser


def convert(arguments: argparse.Namespace) -> dict[str, Any]:
    """Import, and tell what was found."""
    from encoder.chunkformer import LICENCE, import_chunkformer
    from encoder.conformer import count_parameters

    licence = arguments.licence or LICENCE
    imported = import_chunkformer(
        arguments.source, arguments.out, licence=licence, overwrite=arguments.overwrite
    )
    config = imported.backbone.config
    return {
        "backbone": str(arguments.out),
        "fingerprint": imported.backbone.fingerprint,
        "configuration": imported.source.spelling,
        "parameters": count_parameters(imported.backbone),
        "layers": config.layers,
        "width": config.dim,
        "sample_rate": config.features.sample_rate,
        "heads": {kind: f"{len(tensors)} tensors" for kind, tensors in imported.heads.items()},
        "vocabulary": len(imported.vocabulary) if imported.vocabulary else None,
        "licence": licence,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(convert, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
