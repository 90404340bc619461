"""`trunkline import-heads BACKBONE OUT`: make head directories of an imported ChunkFormer's CTC and decoder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from trunkline.command import Summary, run


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="trunkline import-heads",
        description="Make head directories OUT/ctc and, where the checkpoint has an attention decoder, OUT/aed of what "
        "`trunkline import-chunkformer` left in BACKBONE/heads: to transcribe with, to evaluate, or to start training "
        "from.",
        epilog="Example: trunkline import-heads backbones/large-vie heads/large-vie",
    )
    option = parser.add_argument
    option("backbone", type=Path, metavar="BACKBONE", help="an imported backbone directory")
    option("out", type=Path, metavar="OUT", help="the folder to write head directories to")
    option(
        "--attention-heads",
        type=int,
        metavar="N",
        help="of the decoder, which its weights do not show (default: as configured there, else 4)",
    )
    option("--overwrite", action="store_true", help="replace head directories that exist")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_import, build_parser(), argv)


def _import(arguments: argparse.Namespace) -> Summary:
    from encoder import load_backbone
    from heads.chunkformer import chunkformer_heads
    from heads.folder import save_head

    backbone = load_backbone(arguments.backbone)
    found = chunkformer_heads(
        arguments.backbone, backbone, attention_heads=arguments.attention_heads
    )
    told = {"imported_from": "chunkformer"}
    written = {
        kind: save_head(
            head, arguments.out / kind, backbone, training=told, overwrite=arguments.overwrite
        )
        for kind, head in found.items()
    }
    return {
        "out": str(arguments.out),
        "heads": written,
        "tokens": len(found["ctc"].tokenizer),
    }


if __name__ == "__main__":
    raise SystemExit(main())
