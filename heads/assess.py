"""Evaluate heads on labelled cuts: answers in every context, with rules, on trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from encoder import Backbone, Context
from heads.evaluation import Evaluation
from heads.head import Head
from heads.label_space import LabelSpace
from heads.predict import Item, Predicted, baseline_of, items_of, label_of, predict, unseen_labels
from heads.predictions import Prediction, ScoredTrial
from heads.rules import TransitionTable
from heads.scoring import ScoreOptions
from heads.speaker import SpeakerHead
from heads.trial_scoring import cohort_of, scored_trials
from heads.verification import COHORT_SIZE, Cohort, Trial, all_pairs, check_trials
from trunkline.errors import ConfigError, DataError
from trunkline.manifest import Manifest
from trunkline.rows import Cut

MOST_PAIRS = 2_000_000
REFUSALS_SHOWN = 30


@dataclass(frozen=True)
class EvaluateOptions:
    """How heads are evaluated."""

    contexts: tuple[str, ...] = ("full", "64,128,128", "8,40,0")
    """'full', or chunk,left,right in frames of 80 ms; the last of the three is a live stream's. Details are of the
    first; the others are compared with it."""
    per: Literal["turn", "call"] = "turn"
    """Answer every cut, or every channel of every call from all its cuts."""
    rules: str | None = None
    """Table of rules over the turns of a call (see heads.rules); heads with one class a turn are scored with it too."""
    cohort_top: int = COHORT_SIZE
    """With a cohort: its nearest speakers that a score is normalised by."""
    score: ScoreOptions = field(default_factory=ScoreOptions)

    def __post_init__(self) -> None:
        if not self.contexts or len(set(self.contexts)) < len(self.contexts):
            raise ConfigError(
                f"contexts: give at least one, and none twice, not {list(self.contexts)}."
            )
        for name in self.contexts:
            Context.parse(name)


def evaluate(
    backbone: Backbone,
    heads: Mapping[str, Head],
    manifest: Manifest,
    options: EvaluateOptions,
    *,
    trials: Sequence[Trial] | None = None,
    trials_path: str = "",
    cohort: Manifest | None = None,
) -> Evaluation:
    """Evaluate heads of one trunk on a manifest, in every context.

    Args:
        backbone: the trunk.
        heads: by name.
        manifest: cuts with the heads' labels.
        options: how.
        trials: of the speaker heads; all pairs of labelled cuts if not given.
        trials_path: their file, for messages.
        cohort: cuts of other speakers, to normalise the scores of trials by.

    Raises:
        DataError: labels are missing or ill-typed, trials name unknown ids, nothing can be read.
        ConfigError: rules that do not fit the labels.
    """
    where = str(manifest.path)
    items = items_of(list(manifest), options.per, heads)
    voices = [name for name, head in heads.items() if isinstance(head, SpeakerHead)]
    tables = _rule_tables(options, heads)
    known = {item.id for item in items}
    if trials is not None:
        check_trials(trials, known, trials_path)
        items = _needed(items, heads, voices, trials)
    predictions: list[Prediction] = []
    scored: list[ScoredTrial] = []
    refusals: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    for name in options.contexts:
        context = Context.parse(name)
        found = predict(
            backbone,
            heads,
            items,
            context,
            context_name=name,
            where=where,
            unlabelled=voices if trials is not None else (),
        )
        left_out = left_out or found.left_out
        predictions += found.predictions
        for head, table in tables.items():
            ruled, refused = with_rules(table, found.predictions, head)
            predictions += ruled
            if name == options.contexts[0]:
                refusals += refused
        scored += _voice_trials(
            backbone, heads, voices, found, items, name, trials, cohort, options
        )
    baselines = {name: baseline_of(head) for name, head in heads.items()}
    evaluation = Evaluation(predictions, scored, options.score, baselines)
    evaluation.notes = _notes(heads, items, where, left_out)
    if refusals:
        evaluation.more["Refused by the rules"] = refusals[:REFUSALS_SHOWN]
    if left_out:
        evaluation.more["Left out"] = left_out
    return evaluation


def with_rules(
    table: TransitionTable, predictions: Sequence[Prediction], head: str
) -> tuple[list[Prediction], list[dict[str, Any]]]:
    """Return the predictions of a head as the rules of a call decide them, and what was refused and why.

    The turns of a call are taken in the order of their start, both channels together; the result is in the order of
    `predictions`, so that both can be compared cut by cut.
    """
    rows = [row for row in predictions if row.head == head]
    calls: dict[str, list[Prediction]] = {}
    for row in rows:
        if row.probabilities and row.answer is not None:
            calls.setdefault(row.call or row.id, []).append(row)
    answers: dict[str, str] = {}
    refused = []
    for call, turns in calls.items():
        turns.sort(key=lambda row: row.start)
        try:
            decided = table.decode([row.probabilities for row in turns])
        except DataError as error:
            raise DataError(f"Call {call!r}: {error}") from error
        answers |= {row.id: label for row, label in zip(turns, decided.labels, strict=True)}
        refused += [
            {"call": call, "cut": turns[each.turn].id, "why": str(each)}
            for each in decided.refusals
        ]
    ruled = [
        replace(
            row,
            context=f"{row.context} with rules",
            answer=answers.get(row.id, row.answer),
            confidence=row.probabilities.get(answers.get(row.id, ""), row.confidence),
        )
        for row in rows
    ]
    return ruled, refused


def _rule_tables(options: EvaluateOptions, heads: Mapping[str, Head]) -> dict[str, TransitionTable]:
    if options.rules is None:
        return {}
    spaces = {name: getattr(head, "space", None) for name, head in heads.items()}
    fitting = {
        name: space.names
        for name, space in spaces.items()
        if isinstance(space, LabelSpace) and space.task == "classes"
    }
    if not fitting:
        raise ConfigError(
            f"rules={options.rules}: no head of {', '.join(heads)} gives one class for a turn."
        )
    return {name: TransitionTable.load(options.rules, names) for name, names in fitting.items()}


def _needed(
    items: Sequence[Item],
    heads: Mapping[str, Head],
    voices: Sequence[str],
    trials: Sequence[Trial],
) -> list[Item]:
    """Return the items that trials name; all, where other heads are evaluated too."""
    if len(voices) < len(heads):
        return list(items)
    named = {name for trial in trials for name in (trial.enrolled, trial.test)}
    return [item for item in items if item.id in named]


def _voice_trials(
    backbone: Backbone,
    heads: Mapping[str, Head],
    voices: Sequence[str],
    found: Predicted,
    items: Sequence[Item],
    context: str,
    trials: Sequence[Trial] | None,
    cohort: Manifest | None,
    options: EvaluateOptions,
) -> list[ScoredTrial]:
    """Return the scored trials of every speaker head."""
    rows: list[ScoredTrial] = []
    for name in voices:
        speakers = {
            item.id: _speaker(heads[name], item.turns[0])
            for item in items
            if item.id in found.voices[name]
        }
        normaliser = None
        if cohort is not None:
            normaliser = _cohort(backbone, name, heads[name], cohort, context, options)
        wanted = _readable(trials, found) if trials is not None else _pairs(speakers)
        rows += scored_trials(name, context, wanted, found.voices[name], speakers, normaliser)
    return rows


def _pairs(speakers: Mapping[str, str | None]) -> list[Trial]:
    named = {key: name for key, name in speakers.items() if name is not None}
    if len(named) ** 2 > 2 * MOST_PAIRS:
        raise DataError(
            f"All pairs of {len(named)} cuts are more than {MOST_PAIRS:,} trials; give a file of trials (--trials)."
        )
    return all_pairs(named)


def _readable(trials: Sequence[Trial], found: Predicted) -> list[Trial]:
    """Return the trials whose cuts could be read; the others are among what is left out."""
    faulty = {row["id"] for row in found.left_out}
    return [trial for trial in trials if not {trial.enrolled, trial.test} & faulty]


def _cohort(
    backbone: Backbone,
    name: str,
    head: Head,
    cohort: Manifest,
    context: str,
    options: EvaluateOptions,
) -> Cohort:
    cuts = list(cohort)
    found = predict(
        backbone,
        {name: head},
        items_of(cuts, "turn", {name: head}),
        Context.parse(context),
        where=str(cohort.path),
        unlabelled=(name,),
    )
    speakers = {cut.id: _speaker(head, cut) for cut in cuts}
    return cohort_of(found.voices[name], speakers, options.cohort_top)


def _speaker(head: Head, cut: Cut) -> str | None:
    label = cut.label(head.label_key)
    return cut.speaker if label is None else str(label)


def _notes(
    heads: Mapping[str, Head], items: Sequence[Item], where: str, left_out: Sequence[Any]
) -> list[str]:
    """Return what a reader of the scores should know."""
    notes = []
    for name, head in heads.items():
        labels = [label_of(head, item, where) for item in items]
        missing = sum(label is None for label in labels)
        if missing and not isinstance(head, SpeakerHead):
            notes.append(
                f"{name}: {missing} of {len(items)} have no {head.label_key!r} and are not judged."
            )
        unseen = unseen_labels(head, [label for label in labels if label is not None])
        if unseen:
            named = ", ".join(
                f"{label!r} ({count} x)" for label, count in sorted(unseen.items())[:5]
            )
            more = f" and {len(unseen) - 5} more" if len(unseen) > 5 else ""
            notes.append(
                f"{name}: labels that were not in training count as answered wrongly: {named}{more}."
            )
    if left_out:
        notes.append(
            f"{len(left_out)} could not be read and are left out; the first: {left_out[0]['reason']}"
        )
    return notes
