"""The parts of `docs/results.md` about rescoring, from `benchmarks/results/*.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Rows = list[dict[str, Any]]


def rescoring_parts(found: Mapping[str, Any]) -> Iterator[str | Rows]:
    """Yield text and tables of `benchmarks/rescoring.py`, those that were measured."""
    yield "## Rescoring N-best lists (`benchmarks/rescoring.py`)"
    if simulated := found.get("simulated"):
        yield from _simulated(simulated)
    if phrases := found.get("phrases"):
        yield from _phrases(phrases)
    if real := found.get("real"):
        yield from _real(real)
    if speed := found.get("speed"):
        yield (
            f"Time of a list of {speed['hypotheses']:g} hypotheses of {speed['words']:g} words, processor time of one "
            f"thread over {speed['lists']} lists; `import rescoring` and its first name take {speed['import_s']} s:"
        )
        yield speed["runs"]


def report_parts(title: str, report: Mapping[str, Any]) -> Iterator[str | Rows]:
    """Yield a benchmark's report: its figures as one table, then its own tables, those of its parts included."""
    yield f"## {title}"
    figures = [
        {"figure": name.replace("_", " "), "value": _short(value)}
        for name, value in _flat(report)
        if value is not None
    ]
    if figures:
        yield figures
    for name, rows in _tables(report):
        yield f"{name}:"
        yield [{column: _short(value) for column, value in row.items()} for row in rows]


def _simulated(found: Mapping[str, Any]) -> Iterator[str | Rows]:
    noise = found["false_alarms_of_noise"]
    yield (
        "**Simulated** lists (`rescoring.simulate`) of Vietnamese news sentences; the models are trained on other "
        f"documents. {found['dev_lists']} lists ({found['words']} words) under 5-fold cross-validation by document: "
        f"1-best {_percent(found['one_best'])} % WER, oracle {_percent(found['oracle'])} %. {found['test_lists']} "
        f"lists of further documents, with the weights of the first: {_percent(found['test_one_best'])} %, oracle "
        f"{_percent(found['test_oracle'])} %. Fresh noise offered as a term {noise['draws']} times was given a "
        f"weight {noise['given_a_weight']} times. With all weights 0 the lists come out as they went in: "
        f"{'yes' if found['unchanged_with_weights_0'] else 'no'}. `difference` is to the 1-best, with its 95 % "
        "interval; a term that does not help keeps the weight 0."
    )
    yield [
        {
            "terms tried": row["terms"],
            "weights": _weights(row["weights"]),
            "WER %": _percent(row["wer"]),
            "difference": _difference(row),
            "gap closed %": _percent(row["gap_closed"]),
            "better / worse": f"{row['better']} / {row['worse']}",
            "test WER %": _percent(row["test_wer"]),
            "test gap closed %": _percent(row["test_gap_closed"]),
        }
        for row in found["terms"]
    ]


def _phrases(found: Mapping[str, Any]) -> Iterator[str | Rows]:
    yield (
        f"**Simulated**: a list of {found['phrases']} names; weights tuned on {found['dev_lists']} lists, measured on "
        f"{found['test_lists']} of other documents, {found['with_a_phrase']} of them with a name. Verdicts are paired, "
        f"against `lm`. Weights: {_weights(found['weights'])}."
    )
    yield [
        {
            "system": row["system"],
            "WER %": _percent(row["wer"]),
            "biased WER %": _percent(row["biased"]),
            "biased against lm": _verdict(row, "biased"),
            "unbiased WER %": _percent(row["unbiased"]),
            "unbiased against lm": _verdict(row, "unbiased"),
        }
        for row in found["systems"]
    ]


def _real(found: Mapping[str, Any]) -> Iterator[str | Rows]:
    yield (
        f"Real outputs: the distinct texts of {found['systems']} systems on LibriSpeech test-other (en_asr_multihyp; "
        f"{found['utterances']} utterances, {found['speakers']} speakers), in place of one recogniser's list. The "
        f"baseline system has {_percent(found['baseline'])} % WER, the oracle {_percent(found['oracle'])} %. Votes: "
        "the log of the share of systems, of which many are variants of the baseline; consensus: minus the expected "
        "word distance to the others (a weight below 0 favours what the variants do not agree on); lm: a 3-gram of "
        "test-clean and of the other speakers of test-other. All by 5-fold cross-validation over speakers; the "
        "difference is to the baseline, with its 95 % interval by speaker."
    )
    yield [
        {
            "terms tried": row["terms"],
            "weights": _weights(row["weights"]),
            "WER %": _percent(row["wer"]),
            "difference": _difference(row),
            "gap closed %": _percent(row["gap_closed"]),
            "better / worse": f"{row['better']} / {row['worse']}",
        }
        for row in found["terms"]
    ]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _difference(row: Mapping[str, Any]) -> str:
    low, high = (f"{100 * row[name]:+.2f}" for name in ("low", "high"))
    return f"{100 * row['difference']:+.2f} ({low} to {high}), {row['verdict']}"


def _verdict(row: Mapping[str, Any], part: str) -> str:
    low, high = (f"{100 * row[f'{part}_{name}']:+.2f}" for name in ("low", "high"))
    return "" if row["system"] == "lm" else f"{row[f'{part}_against_lm']} ({low} to {high})"


def _weights(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items())


def _flat(report: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in report.items():
        if isinstance(value, Mapping) and name != "tables":
            yield from _flat(value, f"{prefix}{name}: ")
        elif not isinstance(value, Mapping):
            yield f"{prefix}{name}", value


def _tables(report: Mapping[str, Any]) -> Iterator[tuple[str, Rows]]:
    yield from report.get("tables", {}).items()
    for name, value in report.items():
        if isinstance(value, Mapping) and name != "tables":
            yield from _tables(value)


def _short(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(str(_short(item)) for item in value)
    return value
