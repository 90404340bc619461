"""`python -m heads.evaluate RUN_OR_HEAD --manifest test.jsonl`: what heads are worth, with doubt."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from heads.joined_search import add_search_options, join_search, search_settings
from trunkline.command import Summary, run
from trunkline.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from encoder import Backbone
    from heads.head import Head


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_evaluate, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m heads.evaluate",
        description="Score heads on labelled cuts in full, limited and streaming contexts: word, character and "
        "sentence errors; accuracy, macro-F1, unweighted average recall; slots; equal error rate. Every main score "
        "has a 95 % interval, drawn by speaker or call. Writes predictions, scores (CSV, JSON) and report.html.",
        epilog="example: python -m heads.evaluate runs/intent --manifest commands.jsonl --split test "
        "score.spelling=configs/heads/spelling_vi.txt",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option(
        "source",
        help="run folder of heads.train, a head directory, or a folder of head directories",
    )
    option("settings", nargs="*", metavar="key=value", help="such as contexts=[full] or per=call")
    option("--manifest", required=True, help="labelled manifest or its folder")
    option("--split", help="only cuts of this split")
    option("--backbone", metavar="DIR", help="the trunk; default: the run's")
    option(
        "--head", action="append", metavar="NAME", help="only this head of the run; may be repeated"
    )
    option(
        "--kind",
        action="append",
        default=[],
        metavar="NAME=module:Class",
        help="where a kind of head that is not Trunkline's own comes from",
    )
    option("--config", metavar="FILE", help="YAML file of settings")
    option(
        "--trials",
        metavar="FILE",
        help="trials of the speaker heads: '1 id id' or '0 id id' a line",
    )
    option(
        "--cohort", metavar="MANIFEST", help="cuts of other speakers, to normalise trial scores by"
    )
    add_search_options(parser)
    option("--out", metavar="DIR", help="default: evaluation in the source's folder")
    option("--device", default="cpu", help="cpu, cuda, ...")
    return parser


def _evaluate(arguments: argparse.Namespace) -> Summary:
    from heads.assess import EvaluateOptions, evaluate
    from heads.trunk import check_device
    from heads.verification import read_trials
    from trunkline.manifest import load_manifest
    from trunkline.settings import load_settings, settings_to_dict

    options = load_settings(EvaluateOptions, arguments.config, arguments.settings)
    check_device(arguments.device)
    manifest = load_manifest(arguments.manifest)
    if arguments.split:
        manifest = manifest.filter(split=arguments.split)
    trials = read_trials(arguments.trials) if arguments.trials else None
    cohort = load_manifest(arguments.cohort) if arguments.cohort else None
    source = Path(arguments.source)
    backbone, heads = open_heads(
        source, arguments.backbone, arguments.head, dict(map(_kind, arguments.kind))
    )
    _join_search(arguments, source, heads)
    backbone.to(arguments.device)
    for head in heads.values():
        head.to(arguments.device)
    evaluation = evaluate(
        backbone,
        heads,
        manifest,
        options,
        trials=trials,
        trials_path=arguments.trials or "",
        cohort=cohort,
    )
    out = Path(arguments.out) if arguments.out else source / "evaluation"
    about = {
        "source": str(source),
        "manifest": arguments.manifest,
        "manifest_fingerprint": manifest.fingerprint,
        "split": arguments.split,
        "backbone_fingerprint": backbone.fingerprint,
        "settings": settings_to_dict(options),
        **search_settings(arguments),
    }
    evaluation.write(out, f"Evaluation of {source.name} on {Path(arguments.manifest).name}", about)
    return {"report": str(out / "report.html"), **evaluation.summary()}


def _join_search(arguments: argparse.Namespace, source: Path, heads: Mapping[str, Head]) -> None:
    """Let the language model and the phrases, if any are given, join the search of the heads that write text."""
    from heads.recognition import RecognitionHead

    if arguments.lm is None and arguments.phrases is None:
        return
    writing = [head for head in heads.values() if isinstance(head, RecognitionHead)]
    if not writing:
        raise UsageError(f"--lm and --phrases are for heads that write text; {source} has none.")
    join_search(arguments, writing)


def open_heads(
    source: Path,
    backbone: str | None,
    names: Sequence[str] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> tuple[Backbone, dict[str, Head]]:
    """Return the trunk and the heads of a run folder, a head directory, or a folder of head directories.

    Raises:
        UsageError: there are no heads, none of a name, or nothing says which trunk they need.
        CheckpointError: a directory is damaged, or of another trunk.
    """
    from encoder import load_backbone
    from heads.folder import load_head
    from trunkline.errors import nearest

    folders = _head_folders(source)
    if unknown := [name for name in names or () if name not in folders]:
        raise UsageError(f"{source} has no head {unknown[0]!r}.{nearest(unknown[0], folders)}")
    chosen = {name: path for name, path in folders.items() if not names or name in names}
    trunk = load_backbone(backbone or _trunk_of(source))
    return trunk, {name: load_head(path, trunk, kinds=kinds) for name, path in chosen.items()}


def _kind(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and ":" in path):
        raise UsageError(f"--kind {text!r}: write NAME=module:Class.")
    return name, path


def _head_folders(source: Path) -> dict[str, Path]:
    """Return the head directories by name."""
    if (source / "head.json").exists():
        return {source.name: source}
    for pattern in ("heads/*/head.json", "*/head.json"):
        if found := sorted(path.parent for path in source.glob(pattern)):
            return {path.name: path for path in found}
    reason = "does not exist" if not source.exists() else "holds no head (no head.json)"
    raise UsageError(f"{source} {reason}; give the run folder of heads.train or a head directory.")


def _trunk_of(source: Path) -> str:
    """Return the backbone of a run: the one it wrote, or the one it says it was trained on."""
    from trunkline.checkpoint import read_json

    for run_folder in (source, source.parent, source.parent.parent):
        if (run_folder / "backbone" / "config.json").exists():
            return str(run_folder / "backbone")
        if (run_folder / "result.json").exists():
            try:
                return str(read_json(run_folder / "result.json")["summary"]["backbone"])
            except (KeyError, TypeError) as error:
                raise CheckpointError(
                    f"{run_folder / 'result.json'} does not say which backbone the run was on; give --backbone."
                ) from error
    raise UsageError(f"Nothing says which trunk {source} was trained on; give --backbone DIR.")


if __name__ == "__main__":
    raise SystemExit(main())
