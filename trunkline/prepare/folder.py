"""What lies below a folder: recordings, transcripts, and names and links that make trouble."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trunkline import audio
from trunkline.errors import StorageError

TRANSCRIPTS = (".txt", ".lab", ".trn")
_MOSTLY = 0.5  # from this share on, recordings of a folder are expected to have a transcript
_NOT_SPOKEN = ("readme", "license", "licence", "copying", "changelog", "notes")


class Fault(NamedTuple):
    """Something wrong with a file or folder; `kind` is one of `trunkline.prepare.inventory.KINDS`."""

    file: str
    kind: str
    message: str


class Listing(NamedTuple):
    """What a folder holds, as sorted paths relative to it, and what is wrong.

    `transcripts` tells those of a recording: under None the one of all of it, under 0, 1 ... those of
    its channels.
    """

    files: list[str]
    recordings: list[str]
    transcripts: dict[str, dict[int | None, str]]
    faults: list[Fault]


def list_folder(root: Path) -> Listing:
    """Return the recordings below a folder, each with the transcripts beside it.

    Links to folders are followed once, and not into a folder above them; hidden files are left out.
    The transcript of `call.wav` is `call.txt`, that of its channels `call.agent.txt`, `call.customer.txt`
    or `call.0.txt`; capitals and Unicode form may differ.

    Raises:
        StorageError: the folder itself is missing or may not be read.
    """
    if not root.is_dir():
        raise StorageError(f"{root} is no folder; give the folder that holds the recordings.")
    faults: list[Fault] = []
    files = sorted(_walk(root, "", [os.path.realpath(root)], faults))
    if any(fault.file == "." for fault in faults):
        raise StorageError(faults[0].message)
    recordings = [name for name in files if _suffix(name) in audio.SUFFIXES]
    texts = [name for name in files if _suffix(name) in TRANSCRIPTS]
    transcripts, alone = _pair(recordings, texts)
    faults += _clashes(recordings)
    faults += _unpaired(recordings, transcripts, alone)
    return Listing(files, recordings, transcripts, faults)


def _walk(root: Path, folder: str, above: list[str], faults: list[Fault]) -> Iterator[str]:
    """Yield the files below a folder; `above` are the real paths of it and what it lies in."""
    try:
        entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
    except OSError as error:
        name = folder or "."
        message = f"Folder {root / folder} may not be read: {error.strerror}."
        faults.append(Fault(name, "unreadable_folder", message))
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        name = os.path.join(folder, entry.name)
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_folder = is_file = False
        if is_folder:
            real = os.path.realpath(entry.path)
            if entry.is_symlink() and any(_inside(place, real) for place in above):
                message = f"{root / name} links to {real}, which it lies in; not followed."
                faults.append(Fault(name, "link_loop", message))
            elif not (entry.is_symlink() and _inside(real, above[0])):  # counted where it lies
                yield from _walk(root, name, [*above, real], faults)
        elif is_file:
            yield name
        elif entry.is_symlink():
            target = os.readlink(entry.path)
            message = f"{root / name} links to {target}, which is not there."
            faults.append(Fault(name, "broken_link", message))


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip(os.sep)}{os.sep}")


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _key(name: str) -> str:
    """Return a name as file systems that fold case and Unicode form see it."""
    return unicodedata.normalize("NFC", name).casefold()


def _pair(
    recordings: list[str], texts: list[str]
) -> tuple[dict[str, dict[int | None, str]], list[str]]:
    """Return the transcripts of each recording, and the texts that are of none."""
    stems = {name: os.path.splitext(name)[0] for name in [*recordings, *texts]}
    known = {_key(stems[name]) for name in recordings}
    by_stem = defaultdict(
        list
    )  # folded stem of a recording -> (its stem as the text spells it, ...)
    alone = []
    for text in texts:
        stem, channel = stems[text], None
        if _key(stem) not in known:
            stem, channel = _channel(stem)
        if _key(stem) in known:
            by_stem[_key(stem)].append((stem, channel, text))
        else:
            alone.append(text)
    pairs = {}
    for name in recordings:
        found = by_stem.get(_key(stems[name]), [])
        exact = [each for each in found if each[0] == stems[name]]
        if found:
            pairs[name] = {channel: text for _, channel, text in exact or found}
    return pairs, alone


def _channel(stem: str) -> tuple[str, int | None]:
    whole, _, side = stem.rpartition(".")
    if side.lower() in audio.ROLES:
        return whole, audio.ROLES[side.lower()]
    return (
        (whole, int(side)) if side.isascii() and side.isdigit() and len(side) < 3 else (stem, None)
    )


def _clashes(recordings: list[str]) -> Iterator[Fault]:
    groups = defaultdict(list)
    for name in recordings:
        groups[_key(name)].append(name)
        if not name.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in name):
            yield Fault(name, "name_encoding", f"The name {ascii(name)} is not UTF-8.")
        elif unicodedata.normalize("NFC", name) != name:
            yield Fault(name, "name_nfd", f"The name {name!r} is in decomposed Unicode (NFD).")
    for names in groups.values():
        for name in names:
            if len(names) > 1:
                others = ", ".join(repr(other) for other in names if other != name)
                message = f"{name!r} and {others} are one name on systems that fold case or form."
                yield Fault(name, "name_clash", message)


def _unpaired(
    recordings: list[str], transcripts: dict[str, dict[int | None, str]], alone: list[str]
) -> Iterator[Fault]:
    """Tell recordings and transcripts that stand alone in folders where most have the other."""
    by_folder = defaultdict(list)
    for name in recordings:
        by_folder[os.path.dirname(name)].append(name)
    paired = {
        folder
        for folder, names in by_folder.items()
        if sum(name in transcripts for name in names) > _MOSTLY * len(names)
    }
    for name in recordings:
        if name not in transcripts and os.path.dirname(name) in paired:
            yield Fault(name, "no_transcript", f"{name} has no transcript, most beside it have.")
    for name in alone:
        spoken = not os.path.basename(name).lower().startswith(_NOT_SPOKEN)
        if spoken and os.path.dirname(name) in paired:
            yield Fault(name, "no_recording", f"{name} is a transcript without a recording.")
