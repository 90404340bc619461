"""Transcribing cuts in memory that does not grow with the audio, and the folder that transcripts are kept in."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from encoder import Context
from encoder.longform import BLOCK_SECONDS
from heads.decoding import to_nbest
from heads.model import MultiHeadModel
from heads.recognition import RecognitionHead, Word
from heads.subtitles import FORMATS, SUFFIXES
from heads.utterances import Utterance, utterances
from trunkline import nbest as nbest_files
from trunkline.checkpoint import read_json, write_json, write_text
from trunkline.errors import StorageError, UsageError
from trunkline.nbest import NBest
from trunkline.quarantine import fault
from trunkline.rows import Cut


class Transcript(NamedTuple):
    """What was said in a cut; times count from the recording's beginning."""

    cut: Cut
    duration: float
    """Seconds of audio."""
    utterances: tuple[Utterance, ...]
    nbest: tuple[NBest, ...]

    @property
    def words(self) -> list[Word]:
        """All words, in order."""
        return [word for x in self.utterances for word in x.transcription.words]

    @property
    def text(self) -> str:
        """What was said, as one text."""
        return " ".join(x.transcription.text for x in self.utterances)

    def to_row(self) -> dict[str, Any]:
        """Return the JSON object of a line."""
        cut = self.cut
        place = {"id": cut.id, "audio_filepath": str(cut.audio_filepath), "call_id": cut.call_id}
        place |= {"channel": cut.channel, "start": cut.start, "end": cut.end}
        row: dict[str, Any] = {name: value for name, value in place.items() if value is not None}
        row |= {"duration": round(self.duration, 4), "text": self.text}
        row["utterances"] = [
            {
                "start": round(x.transcription.words[0].start, 4),
                "end": round(x.transcription.words[-1].end, 4),
                "text": x.transcription.text,
                "confidence": round(x.transcription.confidence, 4),
                "words": [
                    {
                        "word": word.word,
                        "start": round(word.start, 4),
                        "end": round(word.end, 4),
                        "confidence": round(word.confidence, 4),
                    }
                    for word in x.transcription.words
                ],
            }
            for x in self.utterances
        ]
        return row


class Transcriber:
    """Transcribes cuts by the head "text" of a model."""

    def __init__(self, model: MultiHeadModel, context: Context, lm: Any = None) -> None:
        self.model, self.context, self.lm = model, context, lm
        head = model.head("text")
        assert isinstance(head, RecognitionHead)
        self.head: RecognitionHead = head

    def transcribe(self, cut: Cut) -> Transcript:
        """Return what was said in a cut; raises as `trunkline.audio.blocks` does."""
        rate, samples = self.model.backbone.sample_rate, 0

        def blocks() -> Iterator[np.ndarray]:
            nonlocal samples
            for block in cut.blocks(rate, BLOCK_SECONDS):
                samples += len(block)
                yield block

        output = self.model.outputs(blocks(), context=self.context)["text"]
        begins = cut.start or 0.0
        if begins:
            output = output._replace(times=output.times + begins)
        found = [x for x in utterances(self.head, output) if x.transcription.words]
        return Transcript(cut, samples / rate, tuple(found), tuple(self._nbest(cut, found)))

    def _nbest(self, cut: Cut, found: Sequence[Utterance]) -> Iterator[NBest]:
        context = None
        for number, utterance in enumerate(found):
            lm = None
            if self.lm is not None:
                lm = self.lm.score([x.text for x in utterance.nbest]).tolist()
            yield to_nbest(
                cut.id if len(found) == 1 else f"{cut.id}#{number}",
                utterance.nbest,
                ref=cut.text if len(found) == 1 else None,
                group=cut.call_id,
                context=context,
                lm=lm,
            )
            context = utterance.transcription.text


class TranscriptFolder:
    """A folder of transcripts that grows line by line; a run that was stopped goes on with nothing lost or doubled.

    transcribe.json   what all transcripts have in common
    transcripts.jsonl a line a cut
    nbest.jsonl       lists of hypotheses, a line an utterance (with --nbest)
    text/*.srt ..     a file a cut (with --formats)
    quarantine.jsonl  what could not be read
    """

    def __init__(
        self, folder: Path, about: dict[str, Any], formats: Sequence[str], nbest: bool
    ) -> None:
        """Open or make a folder; a UsageError where it holds transcripts of other settings, or other files."""
        self.folder, self.formats, self.with_nbest = folder, formats, nbest
        settings = folder / "transcribe.json"
        if settings.exists():
            known = read_json(settings)
            if other := [key for key in about if known.get(key) != about[key]]:
                raise UsageError(
                    f"{folder} holds transcripts of another {other[0]} ({known.get(other[0])}, not "
                    f"{about[other[0]]}); choose another folder."
                )
        elif folder.exists() and any(path.name[0] != "." for path in folder.iterdir()):
            raise UsageError(f"{folder} holds other files; choose an empty or a new folder.")
        else:
            write_json(settings, about)
        rows = _whole_lines(folder / "transcripts.jsonl")
        self.done = {row["id"] for row in rows}
        if nbest:
            # Lists are written before the line of their cut, so some may be of a cut that is not done.
            lists = _whole_lines(folder / "nbest.jsonl")
            ids = [(x["utt_id"], x["utt_id"].rpartition("#")[0]) for x in lists]
            done = [not self.done.isdisjoint(pair) for pair in ids]
            _rewrite(folder / "nbest.jsonl", [x for x, ok in zip(lists, done, strict=True) if ok])
        _rewrite(folder / "transcripts.jsonl", rows)
        write_text(folder / "quarantine.jsonl", "")

    def write(self, found: Transcript) -> None:
        """Add a cut: its files first, its line last."""
        for name in self.formats:
            digest = hashlib.sha256(found.cut.id.encode()).hexdigest()[:8]
            plain = re.sub(r"[^A-Za-z0-9_-]+", "_", found.cut.id)[-60:]
            end = (found.cut.start or 0.0) + found.duration
            write_text(
                self.folder / "text" / f"{plain}-{digest}{SUFFIXES[name]}",
                FORMATS[name](found.words, end),
            )
        if self.with_nbest:
            for each in found.nbest:
                self._append("nbest.jsonl", nbest_files.to_json(each))
        self._append("transcripts.jsonl", found.to_row())

    def quarantine(self, cut: Cut, error: Exception) -> dict[str, Any]:
        """Note a cut that cannot be read."""
        row = fault(cut, error)
        self._append("quarantine.jsonl", row)
        return row

    def _append(self, name: str, row: dict[str, Any]) -> None:
        try:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise StorageError(f"Cannot write {self.folder / name}: {error.strerror}.") from error


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines, without one that a kill cut short."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def _rewrite(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
