"""`python -m heads.compare A B`: is A better than B on the same cuts, or can it be chance."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trunkline.command import Summary, run
from trunkline.errors import DataError, UsageError, nearest

if TYPE_CHECKING:
    from heads.predictions import Prediction
    from heads.scorers import ClassScorer
    from heads.scoring import ScoreOptions, Scorer


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_compare, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m heads.compare",
        description="Compare two evaluations (folders that heads.evaluate wrote) cut by cut, by a paired test over "
        "speakers or calls: A is better than B, worse, or not distinguishable. Shows what improved and what worsened.",
        epilog="example: python -m heads.compare runs/adapted/evaluation runs/frozen/evaluation --examples 5",
    )
    option = parser.add_argument
    option("a", help="folder of an evaluation, or its predictions.jsonl")
    option("b", help="the one to compare with")
    option("settings", nargs="*", metavar="key=value", help="as score.* of heads.evaluate: by=call")
    option("--head", help="compare this head; needed where there are several")
    option("--head-b", help="its name in B, where that is another")
    option("--context", help="compare this context; default: the first of A that B has too")
    option("--context-b", help="the context of B, where it is to be another")
    option("--examples", type=int, default=10, metavar="N", help="of each direction; default 10")
    option("--out", metavar="FILE", help="also write the comparison as JSON")
    return parser


def _compare(arguments: argparse.Namespace) -> Summary:
    from heads.predictions import read_predictions, read_scored_trials
    from heads.scoring import ScoreOptions
    from trunkline.checkpoint import write_json
    from trunkline.settings import load_settings

    options = load_settings(ScoreOptions, None, arguments.settings)
    rows = [
        [*read_predictions(folder), *read_scored_trials(folder)]
        for folder in (arguments.a, arguments.b)
    ]
    names = _heads(rows, arguments)
    rows = [
        [row for row in side if row.head == name] for side, name in zip(rows, names, strict=True)
    ]
    contexts = _contexts(rows, arguments)
    rows = [
        [row for row in side if row.context == context]
        for side, context in zip(rows, contexts, strict=True)
    ]
    report = {
        "a": f"{arguments.a}: {names[0]}, {contexts[0]}",
        "b": f"{arguments.b}: {names[1]}, {contexts[1]}",
    } | compare(rows[0], rows[1], options, arguments.examples)
    if arguments.out:
        write_json(Path(arguments.out), report)
    return report


def compare(
    rows_a: Sequence[Any], rows_b: Sequence[Any], options: ScoreOptions, examples: int = 10
) -> Summary:
    """Return the paired comparison of two systems' predictions, or scored trials.

    Raises:
        DataError: no cut in common, other references for the same cut, or answers of another kind.
    """
    from heads.predictions import ScoredTrial
    from heads.scorers import SCORERS
    from heads.trial_scoring import TrialScorer

    trials = isinstance(rows_a[0], ScoredTrial)
    if trials != isinstance(rows_b[0], ScoredTrial) or (
        not trials and rows_a[0].kind != rows_b[0].kind
    ):
        raise DataError("A and B answer different kinds of questions and cannot be compared.")
    left, right, alone = _common(rows_a, rows_b, trials)
    if trials:
        one, other = TrialScorer(left, options), TrialScorer(right, options)
        found = {one.main: one.compare(other)}
        values = {one.main: [scorer.scores()[0].value for scorer in (one, other)]}
        tables: dict[str, Any] = {}
    else:
        scorer = SCORERS[left[0].kind]
        first, second = scorer(left, options), scorer(right, options)
        found = {first.main: first.compare(second)} | _more(first, second)
        values = {name: [_value(system, name) for system in (first, second)] for name in found}
        tables = _examples(first, second, examples)
    main = next(iter(found))
    sentence = f"A is {found[main].verdict} {'from' if 'not' in found[main].verdict else 'than'} B"
    report: Summary = {"verdict": f"{sentence} ({main}, p = {found[main].p:.3g})"}
    if alone:
        report["note"] = f"{alone} that only one of the two answered are left out"
    table = [
        {"score": name, "a": values[name][0], "b": values[name][1]} | difference._asdict()
        for name, difference in found.items()
    ]
    return report | {"tables": {"Comparison (difference a - b, 95 % interval)": table} | tables}


def _heads(rows: Sequence[Sequence[Any]], arguments: argparse.Namespace) -> tuple[str, str]:
    there = [list(dict.fromkeys(row.head for row in side)) for side in rows]
    wanted_a = arguments.head or (there[0][0] if len(there[0]) == 1 else None)
    wanted_b = arguments.head_b or arguments.head
    wanted_b = wanted_b or (there[1][0] if len(there[1]) == 1 else wanted_a)
    if wanted_a is None or wanted_b is None:
        raise UsageError(f"A has the heads {', '.join(there[0])}; say which with --head.")
    for folder, name, known in (
        (arguments.a, wanted_a, there[0]),
        (arguments.b, wanted_b, there[1]),
    ):
        if name not in known:
            raise UsageError(f"{folder} has no head {name!r}.{nearest(name, known)}")
    return wanted_a, wanted_b


def _contexts(rows: Sequence[Sequence[Any]], arguments: argparse.Namespace) -> tuple[str, str]:
    there = [list(dict.fromkeys(row.context for row in side)) for side in rows]
    common = [name for name in there[0] if name in there[1]]
    wanted_a = arguments.context or (common[0] if common else there[0][0])
    wanted_b = arguments.context_b or wanted_a
    for folder, name, known in (
        (arguments.a, wanted_a, there[0]),
        (arguments.b, wanted_b, there[1]),
    ):
        if name not in known:
            raise UsageError(
                f"{folder} was not evaluated in context {name!r}.{nearest(name, known)}"
            )
    return wanted_a, wanted_b


def _common(
    rows_a: Sequence[Any], rows_b: Sequence[Any], trials: bool
) -> tuple[list[Any], list[Any], int]:
    """Return the rows of both for the same cuts, in the same order, and how many stand alone."""

    def key(row: Any) -> Any:
        return (row.enrolled, row.test) if trials else row.id

    def truth(row: Any) -> Any:
        return row.same if trials else row.reference

    others = {key(row): row for row in rows_b}
    left = [row for row in rows_a if key(row) in others]
    right = [others[key(row)] for row in left]
    if not left:
        raise DataError(
            "A and B have no cut in common: they were evaluated on different manifests."
        )
    for one, other in zip(left, right, strict=True):
        if truth(one) != truth(other):
            raise DataError(
                f"{key(one)!r} has the label {truth(one)!r} in A but {truth(other)!r} in B; evaluate both on the same "
                "manifest."
            )
    return left, right, len(rows_a) + len(rows_b) - 2 * len(left)


def _more(first: Scorer, second: Scorer) -> dict[str, Any]:
    """Return paired comparisons of further scores: macro-F1 of classes."""
    from heads.scorers import ClassScorer
    from trunkline import metrics

    if not isinstance(first, ClassScorer) or not isinstance(second, ClassScorer):
        return {}

    def score(system: ClassScorer, rows: Any) -> float:
        return metrics.macro_f1_of(system.drawn_matrix(rows))

    return {
        "macro_f1": metrics.statistic_difference(
            lambda rows: score(first, rows) - score(second, rows),
            len(first.rows),
            first.groups,
            seed=first.options.seed,
            unit=first.unit,
            resamples=first.options.resamples,
        )
    }


def _value(system: Scorer, name: str) -> float | None:
    return next((score.value for score in system.scores() if score.metric == name), None)


def _examples(first: Scorer, second: Scorer, count: int) -> dict[str, list[dict[str, Any]]]:
    """Return the cuts on which A is much better than B, and much worse."""
    sign = 1 if first.higher_is_better else -1
    gain = sign * (first.values - second.values)

    def shown(row: int) -> dict[str, Any]:
        one, other = _row(first, row), _row(second, row)
        return {"id": one.id, "reference": one.reference, "a": one.answer, "b": other.answer}

    order = sorted(range(len(gain)), key=lambda row: -abs(gain[row]))
    better = [shown(row) for row in order if gain[row] > 0]
    worse = [shown(row) for row in order if gain[row] < 0]
    return {
        f"Better in A ({len(better)} cuts)": better[:count],
        f"Worse in A ({len(worse)} cuts)": worse[:count],
    }


def _row(system: Scorer, row: int) -> Prediction:
    return system.rows[row]


if __name__ == "__main__":
    raise SystemExit(main())
