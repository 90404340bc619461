"""The `trunkline` command: `trunkline <command> ...` is `python -m <module> ...`."""

import trunkline.sslpath  # noqa: F401, I001  (first: it makes `ssl.pretrain` visible where .pth files are forbidden)

import importlib
import sys
from collections.abc import Sequence

from trunkline import __version__
from trunkline.errors import nearest

COMMANDS = {
    "doctor": ("trunkline.doctor", "show versions, threads, devices, and what is missing for what"),
    "data": ("trunkline.prepare.cli", "check and import manifests"),
    "tokenizer": ("trunkline.tokenizer.cli", "train or import a tokenizer, show what texts become"),
    "pretrain": ("ssl.pretrain", "pretrain a backbone on unlabelled calls"),
    "cluster": ("ssl.cluster", "make cluster targets for pretraining"),
    "import-chunkformer": (
        "encoder.import_chunkformer",
        "turn a published ChunkFormer checkpoint into a backbone directory",
    ),
    "import-heads": (
        "heads.import_heads",
        "turn an imported ChunkFormer's CTC and attention decoder into head directories",
    ),
    "encode": ("encoder.encode", "write the frames of recordings, one .npy a cut"),
    "bench": ("encoder.bench", "measure speed, latency and memory on this machine"),
    "export": ("embstore.export", "write the vectors of calls into a store of Parquet files"),
    "index": ("embstore.index", "make a store searchable with FAISS, and keep it so"),
    "search": ("embstore.search", "find the calls or segments nearest to one of them"),
    "forget": ("embstore.forget", "remove calls or speakers from a store, and prove it"),
    "verify": ("embstore.verify", "check every file of a store, and its indexes"),
    "stats": ("embstore.stats", "tell what a store holds"),
    "drift": ("embstore.drift", "test whether the vectors of two periods or channels differ"),
    "cluster-store": (
        "embstore.cluster",
        "group a store's vectors, and name the middle of each group",
    ),
    "plot": ("embstore.plot", "draw a store's vectors on a plane"),
    "telex": ("rescoring.telex", "write Vietnamese in canonical Telex, or read it back"),
    "phonetics": ("rescoring.phonetics", "tell how alike two Vietnamese texts sound, and why"),
    "train-rescoring": ("rescoring.train", "train language models and vectors for rescoring"),
    "simulate": ("rescoring.simulate", "make N-best lists from text, to try rescoring"),
    "tune": ("rescoring.tune", "find which terms help N-best lists, and their weights"),
    "rescore": ("rescoring.rescore", "bring N-best lists into a better order"),
    "explain": ("rescoring.explain", "show every term of every hypothesis of a list"),
    "train": (
        "heads.train",
        "train heads on labelled cuts: one or several, on a frozen or learning trunk",
    ),
    "transcribe": ("heads.transcribe", "write what was said, with times, subtitles, N-best lists"),
    "align": ("heads.align", "find when each word of a manifest's texts was said"),
    "sweep": ("heads.sweep", "search the settings of heads with Optuna"),
    "evaluate": ("heads.evaluate", "score heads on labelled cuts, with intervals and a report"),
    "compare": ("heads.compare", "test whether one evaluation is better than another"),
    "probe": ("ssl.probe", "measure what frozen features know about labels"),
}


def usage() -> str:
    """Return the help text: every command with its module."""
    width = max(map(len, COMMANDS))
    lines = "".join(f"  {name:<{width}}  {what}\n" for name, (_, what) in COMMANDS.items())
    return (
        "usage: trunkline <command> [options]\n\n"
        f"Trunkline {__version__}: one streaming speech encoder, many heads, and a store of vectors.\n\n"
        f"commands:\n{lines}\n"
        "Example: trunkline pretrain configs/pretrain/small.yaml data.manifest=calls.jsonl out=runs/small\n"
        "`trunkline <command> --help` tells more about one of them.\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Hand over to the named command; return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name == "--version":
        print(f"trunkline {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"error: no command {name!r}.{nearest(name, COMMANDS)}", file=sys.stderr)
        return 2
    return importlib.import_module(COMMANDS[name][0]).main(rest)


if __name__ == "__main__":
    raise SystemExit(main())
