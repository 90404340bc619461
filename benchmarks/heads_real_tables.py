"""The part of `docs/results.md` about heads on real recordings, from `benchmarks/results/heads_real.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.heads_real_rows import ROWS, STREAM

Rows = list[dict[str, Any]]
MAIN = ("accuracy", "exact", "wer", "eer")
ALSO = ("macro_f1", "uar", "majority_accuracy", "micro_f1", "cer", "min_dcf")
TITLES = {
    "vi_diadiem": "Vietnamese commands over the telephone (`vi_diadiem`): intent of 8, and the words as text",
    "vi_syllables": "Vietnamese syllables (`vi_syllables`): text; the other speaker has those of test in train",
    "en_fsdd_digits": "Digits of a speaker who was not heard (`en_fsdd_digits`)",
    "en_ravdess_emotion": "Eight acted emotions of actors who were not heard (`en_ravdess_emotion`)",
    "en_librispeech_mini": "Voices that were not heard (`en_librispeech_mini`): all pairs of the test utterances",
    "en_s2i_barista": "Slots of drink orders (`en_s2i_barista`): all slots right, and F1",
    "five heads": "Five heads trained jointly on the frozen trunk; the rows above are each alone",
}


def heads_parts(found: Mapping[str, Any]) -> Iterator[str | Rows]:
    """Yield text and tables."""
    places = {row.name: place for place, row in enumerate(ROWS)}
    rows = {
        name: found["rows"][name]
        for name in sorted(found["rows"], key=lambda x: places.get(x, len(places)))
    }
    yield (
        "## Heads on real recordings (`benchmarks/heads_real.py`)\n\n"
        f"{len(rows)} of {len(ROWS)} rows, one thread each of {found['cpus']} cores, trunk "
        f"`{str(found['backbone'])[:12]}`; scores in % on the sets' own test splits with 95 % intervals, drawn by "
        'speaker where speakers are known. "random" is the same trunk untrained and frozen, the mean of several draws '
        "with the lowest and the highest where it says so, and then intervals and tests draw trunks as well as cuts; "
        '"from scratch" is the same trunk untrained and learning with the head. '
        'A row "-lm" is the head of the row of that name with a trigram model of the training transcripts in its '
        'search (weight 0.5, not tuned); "-brief" is 2,000 updates instead of 5,000. '
        "`cpu s` is processor time of training and judging."
    )
    for group, title in TITLES.items():
        table = [
            line
            for name, row in rows.items()
            if row["group"] == group
            for line in _lines(name, row)
        ]
        if table:
            yield f"{title}:"
            yield table
    if found.get("comparisons"):
        yield f"Paired tests on the same cuts, a against b (`{STREAM}` is the stream's context):"
        yield [
            {
                "a": test["row_a"],
                "b": test["row_b"],
                "head": test["head"],
                "score": test["score"],
                "difference": f"{100 * test['difference']:+.1f} "
                f"({100 * test['low']:+.1f} to {100 * test['high']:+.1f})",
                "p": f"{test['p']:.3g}",
                "a is": test["verdict"],
            }
            for test in found["comparisons"]
        ]


def _lines(name: str, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for head, contexts in row["scores"].items():
        for found in contexts:
            main = next(metric for metric in MAIN if metric in found)
            others = [
                f"{x.replace('_', ' ')} {100 * found[x]:.1f}"
                for x in ALSO
                if found.get(x) is not None
            ]
            interval = f" ({100 * found['low']:.1f}-{100 * found['high']:.1f})"
            if "draws" in found:
                interval += f"; {100 * found['lowest']:.1f} to {100 * found['highest']:.1f}"
            yield {
                "row": name,
                "head": head,
                "trunk": row["trunk"] if not row["note"] else row["note"],
                "labelled": row.get("labelled", ""),
                "context": found["context"],
                "score": f"{main} {100 * found[main]:.1f}{interval}",
                "also": ", ".join(others),
                "cpu s": "" if row["cpu_seconds"] is None else f"{row['cpu_seconds']:.0f}",
            }
