"""Other people's data folders as manifest rows: a directory of audio, CSV/TSV, Kaldi, Lhotse.

Each reader yields (line, row) with checked rows; paths are as written, to be taken relative to the
source's folder. JSON lines, NeMo's among them, are read by `trunkline.manifest` itself.
"""

from __future__ import annotations

import codecs
import collections
import csv
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trunkline import audio, log
from trunkline.errors import DataError, DependencyError, StorageError
from trunkline.rows import FIELDS, Row, check_row

Rows = Iterator[tuple[int, Row]]

_logger = log.get_logger(__name__)

_ALIASES = {
    "key": "id",
    "utt": "id",
    "wav": "audio_filepath",
    "path": "audio_filepath",
    "txt": "text",
}


def detect(path: Path) -> str:
    """Return the format of a source: "directory", "kaldi", "csv", "tsv", "lhotse" or "jsonl".

    Raises:
        DataError: a file whose name and first line tell nothing.
    """
    if path.is_dir():
        return "kaldi" if (path / "wav.scp").is_file() else "directory"
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix in (".csv", ".tsv"):
        return suffix[1:]
    if suffix.lower() in audio.SUFFIXES:
        raise DataError(
            f"{path} is a recording, not a manifest; give its folder or a manifest that lists it."
        )
    for _, line in _lines(path):
        if '"recording"' in line or line.strip() == "[":
            return "lhotse"
        if not line.lstrip().startswith(("{", "[")) and suffix not in (".jsonl", ".json"):
            raise DataError(
                f"{path} is no manifest; give a folder, .jsonl, .csv, .tsv or a Kaldi data folder."
            )
        return "lhotse" if path.suffix == ".gz" else "jsonl"
    raise DataError(f"{path} is empty.")


def read_directory(path: Path, set_aside: Callable[[int, str], Any] | None = None) -> Rows:
    """Yield a row for each channel of each recording below a folder.

    A file with the same signal on both channels (dual mono) gives one row and is reported.
    The text of `call.txt` beside `call.wav` goes to its row; a channel has its own in `call.agent.txt`,
    `call.customer.txt` or `call.0.txt`, and what both said together is its `call_text`.
    A recording that cannot be read is a row as well, so that checks and runs name it instead of
    losing it. One whose name is not UTF-8 cannot be named in a row: a warning tells of it, or
    `set_aside(0, reason)` where that is given.
    """
    from trunkline.prepare.folder import list_folder

    listing = list_folder(path)
    for fault in listing.faults:
        if fault.kind in ("unreadable_folder", "link_loop", "broken_link"):
            _logger.warning("%s", fault.message)
    if not listing.recordings:
        suffixes = (Path(name).suffix or Path(name).name for name in listing.files)
        kinds = collections.Counter(suffixes).most_common(3)
        found = ", ".join(f"{count} {kind}" for kind, count in kinds) or "it is empty"
        raise DataError(
            f"{path} holds no recordings ({found}). Known: {', '.join(sorted(audio.SUFFIXES))}."
        )
    dual = 0
    for name in listing.recordings:
        file = path / name
        if not _is_utf8(name):
            message = f"{path / ascii(name)}: the name is not UTF-8; rename the file."
            _logger.warning("%s", message) if set_aside is None else set_aside(0, message)
            continue
        try:
            about = audio.info(file)
        except (DataError, StorageError, DependencyError) as error:
            _logger.warning("%s", error)
            yield 0, {"audio_filepath": name}
            continue
        same = about.channels == 2 and _is_dual_mono(file)
        dual += same
        row = {
            "audio_filepath": name,
            "duration": about.duration,
            "sampling_rate": about.sample_rate,
        }
        said = {
            channel: text
            for channel, other in listing.transcripts.get(name, {}).items()
            if (text := _said(path / other)) is not None
        }
        if about.channels == 1 or same:
            text = said.get(None, said.get(0))
            row |= {"channel": 0, "dual_mono": True} if same else {}
            yield 0, row | ({} if text is None else {"text": text})
            continue
        for channel in range(about.channels):
            key, text = (
                ("text", said[channel]) if channel in said else ("call_text", said.get(None))
            )
            yield 0, row | {"channel": channel} | ({} if text is None else {key: text})
    if dual:
        _logger.warning(
            "%s: %d of %d recordings hold one signal on both channels; one of the two is used.",
            path,
            dual,
            len(listing.recordings),
        )


def _is_utf8(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _said(path: Path) -> str | None:
    """Return what a transcript says, None where it is no text or may not be read."""
    from trunkline.prepare.transcripts import read_transcript

    try:
        transcript = read_transcript(path)
    except StorageError as error:
        _logger.warning("%s", error)
        return None
    if transcript.fault:
        _logger.warning("%s", transcript.message)
    return None if transcript.fault == "transcript_binary" else " ".join(transcript.text.split())


def read_table(path: Path, set_aside: Callable[[int, str], Any] | None = None) -> Rows:
    """Yield the rows of a CSV or TSV: a header of manifest fields, or `key wav txt`.

    A row that is wrong stops it, or goes to `set_aside(line, reason)` where that is given.
    """
    table = csv.reader(
        (line for _, line in _lines(path)), delimiter="\t" if ".tsv" in path.suffixes else ","
    )
    try:
        head = next(table, [])
        names = [_ALIASES.get(name.strip(), name.strip()) for name in head]
        if "audio_filepath" not in names:
            if not 2 <= len(head) <= 3 or any(name in FIELDS for name in names):
                raise DataError(
                    f"{path}:1 names no audio_filepath (or wav) column; it has: {', '.join(head)}."
                )
            names = ["id", "audio_filepath", "text"][: len(head)]
            yield 1, check_row(dict(zip(names, head, strict=True)), f"{path}:1")
        for cells in filter(None, table):
            try:
                yield table.line_num, _row_of(names, cells, f"{path}:{table.line_num}")
            except DataError as error:
                if set_aside is None:
                    raise
                set_aside(table.line_num, str(error))
    except csv.Error as error:
        raise DataError(f"{path}:{table.line_num} cannot be split into cells: {error}.") from error


def _row_of(names: list[str], cells: list[str], where: str) -> Row:
    if len(cells) != len(names):
        raise DataError(f"{where} has {len(cells)} cells, the first line {len(names)}.")
    filled = ((name, cell) for name, cell in zip(names, cells, strict=True) if cell)
    return check_row({name: _cell(name, cell, where) for name, cell in filled}, where)


def read_kaldi(path: Path) -> Rows:
    """Yield the utterances of a Kaldi data folder.

    Read are wav.scp and, where there, segments, text, utt2spk and reco2file_and_channel.

    Raises:
        DataError: wav.scp holds a command or an offset into an archive, or a file names what no
            other file has.
    """
    recordings: dict[str, tuple[int, str]] = {}
    for number, key, where in _kaldi_file(path / "wav.scp"):
        if where.endswith("|"):
            raise DataError(
                f"{path / 'wav.scp'}:{number} is a command ({where[:40]}...) and data may not run "
                "commands: write the recording to a file first and name the file here."
            )
        if ".ark:" in where:
            raise DataError(
                f"{path / 'wav.scp'}:{number} points into an archive ({where}); "
                "write each recording to a file first."
            )
        recordings[key] = number, where
    texts, speakers = _optional(path / "text"), _optional(path / "utt2spk")
    sides = {key: value.split() for key, value in _optional(path / "reco2file_and_channel").items()}
    segmented = (path / "segments").is_file()
    seen = set()
    for number, key, rest in _kaldi_file(path / ("segments" if segmented else "wav.scp")):
        at = f"{path / ('segments' if segmented else 'wav.scp')}:{number}"
        recording, *times = rest.split() if segmented else [key]
        if recording not in recordings or (segmented and len(times) < 2):
            raise DataError(
                f"{at} must be: utterance recording start end, with a recording of wav.scp."
            )
        row: Row = {"id": key, "audio_filepath": recordings[recording][1], "call_id": recording}
        if segmented:
            row |= {"start": times[0], "end": None if times[1] == "-1" else times[1]}
        if side := sides.get(recording):
            row |= {
                "call_id": side[0],
                "channel": {"A": 0, "B": 1, "1": 0, "2": 1}.get(side[-1], side[-1]),
            }
        row |= {"text": texts.get(key), "speaker": speakers.get(key)}
        seen.add(key)
        yield number, check_row(row, at)
    for name, values in (("text", texts), ("utt2spk", speakers)):
        if lost := sorted(set(values) - seen):
            raise DataError(
                f"{path / name} has {len(lost)} utterance(s) without audio, the first {lost[0]!r}."
            )


def read_lhotse(path: Path) -> Rows:
    """Yield the MonoCuts, and each channel of the MultiCuts, of a Lhotse .jsonl or .json (.gz).

    Raises:
        DataError: another kind of cut, audio that lies in no file, or transforms that were to be
            applied on the fly.
    """
    for number, cut in _lhotse_cuts(path):
        where = f"{path}:{number}"
        try:
            yield from ((number, row) for row in _lhotse_rows(cut, where))
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"{where} is no Lhotse cut ({error!r} is missing or ill-formed)."
            ) from error


READERS: dict[str, Callable[[Path], Rows]] = {
    "directory": read_directory,
    "csv": read_table,
    "tsv": read_table,
    "kaldi": read_kaldi,
    "lhotse": read_lhotse,
}


def _lhotse_cuts(path: Path) -> Iterator[tuple[int, Any]]:
    lines = list(_lines(path)) if ".json" in path.suffixes else _lines(path)
    number = 1
    try:
        if isinstance(lines, list) and lines and lines[0][1].lstrip().startswith("["):
            yield from enumerate(json.loads("".join(line for _, line in lines)), 1)
            return
        for number, line in lines:
            if line.strip():
                yield number, json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno if isinstance(lines, list) else number} is not valid JSON."
        ) from error


def _lhotse_rows(cut: Row, where: str) -> Iterator[Row]:
    kind = cut.get("type", "MonoCut")
    if kind not in ("MonoCut", "MultiCut"):
        raise DataError(
            f"{where} is a {kind}; only MonoCut and MultiCut are read. Save its audio first."
        )
    recording = cut["recording"]
    if recording.get("transforms"):
        raise DataError(f"{where}: its recording carries transforms; save the changed audio first.")
    channels = cut["channel"] if isinstance(cut["channel"], list) else [cut["channel"]]
    for channel in channels:
        source = next((item for item in recording["sources"] if channel in item["channels"]), None)
        if source is None or source["type"] != "file":
            raise DataError(
                f"{where}: channel {channel} lies in no file ({source and source['type']})."
            )
        said = [item for item in cut.get("supervisions", []) if _of_channel(item, channel, kind)]
        start = cut["start"]
        row: Row = (cut.get("custom") or {}) | {
            "id": cut["id"] if len(channels) == 1 else f"{cut['id']}#{channel}",
            "audio_filepath": source["source"],
            "call_id": recording["id"],
            "channel": source["channels"].index(channel) if len(source["channels"]) > 1 else None,
            "start": start,
            "end": start + cut["duration"],
            "duration": cut["duration"],
            "sampling_rate": recording["sampling_rate"],
            "text": " ".join(item["text"] for item in sorted(said, key=_start) if item.get("text"))
            or None,
        }
        for name in ("speaker", "language", "gender"):
            values = {item.get(name) for item in said}
            row[name] = values.pop() if len(values) == 1 else None
        yield check_row(row, where)


def _of_channel(item: Row, channel: int, kind: str) -> bool:
    there = item.get("channel", channel)
    return kind == "MonoCut" or channel in (there if isinstance(there, list) else [there])


def _start(item: Row) -> float:
    return item["start"]


def _cell(name: str, cell: str, where: str) -> Any:
    if name not in ("tags", "labels"):
        return cell
    try:
        return json.loads(cell)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: {name} must be JSON, not {cell!r}.") from error


def _is_dual_mono(file: Path) -> bool:
    try:
        return audio.is_dual_mono(file)
    except (DataError, StorageError) as error:
        _logger.warning("%s", error)
        return False


def _optional(path: Path) -> dict[str, str]:
    return {key: rest for _, key, rest in _kaldi_file(path)} if path.is_file() else {}


def _kaldi_file(path: Path) -> Iterator[tuple[int, str, str]]:
    seen = set()
    for number, line in _lines(path):
        key, _, rest = (
            line.strip().partition(" ") if " " in line.strip() else line.strip().partition("\t")
        )
        if key in seen:
            raise DataError(f"{path}:{number} repeats {key!r}.")
        if not key:
            continue
        seen.add(key)
        yield number, key, rest.strip()


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a text: UTF-8, else as `trunkline.text.decode` finds out."""
    number, data = 0, b""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    data = line + file.read()
                    break
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    file.seek(0)
                    data = file.read()
                    break
                yield number, text
    except EOFError as error:
        raise DataError(f"{path} is cut short after line {number}.") from error
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror or error}.") from error
    if data:
        from trunkline.text import decode

        text, encoding = decode(data, str(path))
        _logger.warning("%s is read as %s.", path, encoding)
        lines = text.splitlines(keepends=True)
        yield from ((at, line) for at, line in enumerate(lines, 1) if at >= number)
