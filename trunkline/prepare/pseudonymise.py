"""`trunkline data pseudonymise`: calls, speakers, phones and files get names that tell nothing.

The names are keyed hashes: the same person keeps one name in all data made with one key, and nobody
without the key can find out whose it is. Audio is linked or copied bit for bit under its new name.
Cuts whose text or labels hold a telephone, card or account number are set aside, and what is written
is scanned once more before it is called finished.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import soundfile

from trunkline.errors import DataError, StorageError
from trunkline.prepare import private
from trunkline.prepare.keys import pseudonym, read_key
from trunkline.rows import FIELDS, Row

if TYPE_CHECKING:
    from trunkline.manifest import Manifest

MANIFEST = "manifest.jsonl"
CACHE = ".trunkline"
# Field -> what kind of thing it names: equal values of one kind get one name.
NAMED = {
    "id": "id", "call_id": "call", "speaker": "speaker", "phone": "phone", "caller": "phone", "callee": "phone",
    "agent_id": "speaker", "customer_id": "speaker",
}  # fmt: skip
# Keys beyond the manifest's own that this toolkit writes and that name nobody.
_HARMLESS = {
    "licence", "measured", "turn", "overlap", "dual_mono", "gender", "accent", "role", "intent", "sentiment",
    "emotion", "text_written",
}  # fmt: skip


def new_row(manifest: Manifest, row: Row, key: bytes, keep: set[str]) -> Row:
    """Return what a row of `Manifest.rows` becomes, its recording not yet in place."""
    written = json.loads(row["json"])
    allowed = (set(FIELDS) | _HARMLESS | set(NAMED) | keep) - {"offset"}
    new = {name: value for name, value in written.items() if name in allowed}
    new |= {"id": row["id"], "call_id": row["call_id"]}
    new |= {name: row[name] for name in ("start", "end") if row[name] is not None}
    for name, kind in NAMED.items():
        if new.get(name) is not None:
            new[name] = f"{kind}-{pseudonym(key, kind, str(new[name]))}"
    source = os.path.normpath(row["audio_filepath"])
    suffix = Path(source).suffix.lower()
    if private.find(suffix):
        suffix = ""
    name = pseudonym(key, "file", os.path.relpath(manifest.root / source, manifest.root))
    new["audio_filepath"] = f"audio/{name[:2]}/{name}{suffix}"
    return new


def metadata_of(path: Path) -> str:
    """Return the text that a recording carries besides its sound (title, comment, artist ...)."""
    try:
        with soundfile.SoundFile(path) as file:
            return " | ".join(str(value) for value in file.copy_metadata().values())
    except soundfile.LibsndfileError as error:
        raise DataError(f"{path.name} cannot be read ({error.error_string})") from error


def place(source: Path, target: Path, how: str) -> None:
    """Link or copy a recording to its new name; what is there already and the same is left.

    Raises:
        StorageError: the disk is full, or another recording stands there.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            if os.path.samefile(source, target) or _same(source, target):
                return
            raise StorageError(f"{target} holds another recording; write into a new folder.")
        if how == "link":
            try:
                os.link(os.path.realpath(source), target)
                return
            except FileExistsError:  # another run was faster
                return place(source, target, how)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EACCES):
                    raise
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            shutil.copyfile(source, temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"Cannot write {target}: {error.strerror or error}.") from error


def _same(a: Path, b: Path) -> bool:
    digests = []
    for path in (a, b):
        with open(path, "rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").digest())
    return digests[0] == digests[1]


def scan(path: Path) -> list[Row]:
    """Return a row for each line of the text files below a path, and each file name, with a number.

    A row tells file, line (0: the name) and kind; never the number itself.
    """
    from trunkline import log

    files = [path] if path.is_file() else sorted(path.rglob("*"))
    root = path.parent if path.is_file() else path
    found = []
    for file in log.progress(files, description="scanning", unit="files"):
        if CACHE in file.relative_to(root).parts:
            continue  # made of the manifest beside it; its name holds a hash
        name = str(file.relative_to(root))
        found += [{"file": name, "line": 0, "kind": kind} for kind in private.find_in(name)]
        if not file.is_file() or not _is_text(file):
            continue
        try:
            with open(file, encoding="utf-8", errors="replace") as lines:
                for number, line in enumerate(lines, 1):
                    kinds = sorted(set(private.find_in_line(line)))
                    found += [{"file": name, "line": number, "kind": kind} for kind in kinds]
        except OSError as error:
            raise StorageError(f"Cannot read {file}: {error.strerror}.") from error
    return found


def _is_text(path: Path) -> bool:
    with open(path, "rb") as file:
        return b"\0" not in file.read(4096) and path.suffix.lower() not in _AUDIO


_AUDIO = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".amr", ".wma"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    from trunkline.prepare.options import add_max_bad, names_of

    parser.description = (
        f"Write FOLDER/{MANIFEST} and FOLDER/audio with keyed hashes for call, speaker, phone and file names. "
        "Keys of a line that the toolkit does not know are left out unless --keep names them. Cuts "
        "that hold a telephone, card or account number are set aside."
    )
    parser.epilog = (
        "Example: trunkline data pseudonymise calls.jsonl private --key-file ~/trunkline.key\n"
        "A key: (umask 077; head -c 32 /dev/urandom > ~/trunkline.key)"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("manifest", type=Path)
    parser.add_argument("folder", type=Path, help="where manifest and audio go")
    parser.add_argument("--key-file", type=Path, required=True)
    parser.add_argument("--keep", type=names_of, default=[], help="keys of your own to keep")
    parser.add_argument("--audio", choices=["link", "copy"], default="link", help="(link)")
    add_max_bad(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Pseudonymise a manifest and its recordings."""
    from trunkline import log
    from trunkline.prepare.lines import Step, dump

    inside = [args.folder, args.manifest if args.manifest.is_dir() else args.manifest.parent]
    key = read_key(args.key_file, inside)
    options = {"keep": args.keep, "audio": args.audio, "max_bad": args.max_bad}
    step = Step("pseudonymise", options, max_bad=args.max_bad)
    manifest = step.read(args.manifest)
    step.inputs = {
        "manifest": manifest.fingerprint
    }  # its path may tell what its content no longer does
    for item in step.quarantined:
        item |= {"file": "manifest", "reason": "the line is no valid cut"}
    dropped: set[str] = set()

    def lines() -> Iterator[str]:
        placed: dict[str, str] = {}
        rows = log.progress(manifest.rows(), total=len(manifest), description="naming", unit="cuts")
        for row in rows:
            new = new_row(manifest, row, key, set(args.keep))
            dropped.update(json.loads(row["json"]).keys() - new.keys() - {"offset"})
            reason = _reason(manifest, row, new, placed, args.audio, args.folder)
            if reason:
                step.set_aside(Path("manifest"), row["line"], reason)
                continue
            yield dump(new)
        step.check_limit()

    output = args.folder / MANIFEST
    cuts = step.write(output, lines())
    summary = step.finish(output, {"cuts": cuts})
    if found := scan(args.folder):
        output.unlink()
        first = found[0]
        raise DataError(
            f"{args.folder} holds {len(found)} numbers after all, the first {_one(first['kind'])} in {first['file']}, "
            f"line {first['line']}; its manifest was removed."
        )
    return summary | {"keys_left_out": sorted(dropped)}


def _one(kind: str) -> str:
    return f"an {kind}" if kind == "account" else f"a {kind}"


def _reason(
    manifest: Manifest, row: Row, new: Row, placed: dict[str, str], how: str, folder: Path
) -> str:
    """Put the recording of a row in place; return why the row cannot go out, "" when it can.

    Reasons name no file and no number, for they lie beside the output.
    """
    if kinds := private.find_in(new):
        return f"the line holds {_one(kinds[0])} number"
    source = manifest.root / row["audio_filepath"]
    target = new["audio_filepath"]
    if target not in placed:
        try:
            held = private.find(metadata_of(source))
        except (DataError, OSError):
            placed[target] = "the recording cannot be read"
        else:
            placed[target] = (
                f"the recording's metadata hold {_one(held[0].kind)} number" if held else ""
            )
            if not held:
                place(source, folder / target, how)
    return placed[target]
