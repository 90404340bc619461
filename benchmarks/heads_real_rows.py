"""The rows of `benchmarks.heads_real`: which head on which trunk, with how many labels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

Trunk = Literal["pretrained, frozen", "random, frozen", "pretrained, adapted", "pretrained, learning",
                "from scratch", "none"]  # fmt: skip

STREAM = "8,40,0"
DRAWS = 5
FULL = "full"
FROZEN_INTENT = "intent-frozen-100"
"""The row that adapters go on from."""

FROZEN = (
    "contexts.full=1.0", "data.batch_seconds=64", "train.steps=800", "train.warmup_steps=50", "train.lr=0.01",
    "train.weight_decay=0.05", "train.evaluate_every=100", "train.checkpoint_every=500", "train.log_every=100",
    "choose.patience=5",
)  # fmt: skip
LEARNING = (
    "contexts.full=0.5", "contexts.limited=[[8, 40, 0]]", "data.batch_seconds=32", "train.warmup_steps=50",
    "train.schedule=linear", "train.weight_decay=0.01", "train.checkpoint_every=200", "train.log_every=50",
    "augment.speed.probability=0.67", "augment.masking.time_masks=2", "augment.masking.time_width=25",
    "augment.masking.band_masks=2", "augment.masking.band_width=15",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One training, and what is asked of it on test."""

    name: str
    group: str
    trunk: Trunk
    heads: dict[str, str]
    """The set each head is judged on; empty for a floor without an encoder."""
    settings: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    fraction: float = 1.0
    contexts: tuple[str, ...] = (FULL,)
    search: bool = False
    note: str = ""
    start: str = ""
    """The row whose head it goes on from."""
    draws: int = 1
    """Untrained trunks, each with a head of its own; the score is their mean."""
    after: str = ""
    """The row whose trunk it goes on from, which learnt there."""
    lm_of: str = ""
    """The row whose head is judged again, with a language model of the training transcripts in its search."""

    @property
    def pretrained(self) -> bool:
        """Whether the trunk is the pretrained one."""
        return self.trunk.startswith("pretrained")


@dataclass(frozen=True)
class Task:
    """A head with its options, and the set it learns."""

    head: str
    data: str
    options: tuple[str, ...]
    metric: str
    more: tuple[str, ...] = field(default=())

    def settings(self) -> tuple[str, ...]:
        """Return the head's settings."""
        # A head that has no settings of its own is named all the same.
        options = ("weight=1.0", *self.options)
        return tuple(f"heads.{self.head}.{option}" for option in options)


POOLED = ("options.hidden=128", "options.dropout=0.3", "options.label_smoothing=0.1")
INTENT = Task("intent", "vi_diadiem", POOLED, "intent/loss")
DIGIT = Task(
    "digit", "en_fsdd_digits", ("kind=intent", "options.label=digit", *POOLED), "digit/loss"
)
EMOTION = Task(
    "emotion", "en_ravdess_emotion", ("kind=sentiment", "options.label=emotion", *POOLED), "emotion/accuracy"
)  # fmt: skip
SLOTS = Task(
    "slots", "en_s2i_barista",
    ("kind=intent", "options.label=slots", "options.task=slots", "options.attend=each", "options.context=9",
     "options.hidden=128", "options.dropout=0.3"),
    "slots/micro_f1",
    ("data.batch_seconds=256", "train.steps=400", "train.lr=0.003"),
)  # fmt: skip
SPEAKER = Task(
    "speaker", "en_librispeech_mini",
    ("options.hidden=128", "options.dropout=0.2", "options.margin_start=0.2", "options.margin_end=0.6"),
    "speaker/eer",
)  # fmt: skip
SYLLABLES = Task("ctc", "vi_syllables", (), "ctc/cer")
COMMANDS = Task("ctc", "vi_diadiem", (), "ctc/cer")
FIVE = (INTENT, DIGIT, EMOTION, SPEAKER, SYLLABLES)
"""The five heads that are trained jointly: classes, digits, emotion, voices and text."""


def _frozen(task: Task, name: str, trunk: Trunk, fraction: float = 1.0, *more: str) -> Row:
    settings = (*FROZEN, *task.settings(), f"choose.metric={task.metric}", *task.more, *more)
    group = task.data
    contexts = (FULL, STREAM) if task.head == "ctc" or name == FROZEN_INTENT else (FULL,)
    # Error rates of trials have no mean over cuts to test; that row has one draw.
    draws = DRAWS if trunk == "random, frozen" and task.head != "speaker" else 1
    return Row(
        name, group, trunk, {task.head: task.data}, settings, (task.data,), fraction, contexts,
        draws=draws,
    )  # fmt: skip


def _learning(
    task: Task, name: str, trunk: Trunk, steps: int, fraction: float = 1.0, *more: str
) -> Row:
    every = max(50, steps // 8)
    rates = (
        ("train.lr=0.001", "trunk.lr=0.0003")
        if trunk != "from scratch"
        else ("train.lr=0.001", "trunk.lr=0.001")
    )
    settings = (
        *LEARNING, *task.settings(), f"choose.metric={task.metric}", f"train.steps={steps}",
        f"train.evaluate_every={every}", *rates, *(() if trunk == "pretrained, adapted" else ("trunk.train=[all]",)),
        *more,
    )  # fmt: skip
    heads = {task.head: task.data}
    return Row(name, task.data, trunk, heads, settings, (task.data,), fraction, (FULL, STREAM))


def _rows() -> tuple[Row, ...]:
    rows: list[Row] = []
    frozen: tuple[tuple[Trunk, str], ...] = (
        ("pretrained, frozen", "frozen"),
        ("random, frozen", "random"),
    )
    for share in (100, 50, 10):
        # Dev asked for more decay where labels are few.
        more = ("train.weight_decay=0.5",) if share == 10 else ()
        for trunk, short in frozen:
            rows.append(_frozen(INTENT, f"intent-{short}-{share}", trunk, share / 100, *more))
    for task in (DIGIT, EMOTION, SLOTS, SPEAKER):
        rows.append(_frozen(task, f"{task.head}-frozen", "pretrained, frozen"))
        if task is not SLOTS:
            rows.append(_frozen(task, f"{task.head}-random", "random, frozen"))
    floors = (
        (EMOTION, "logistic regression on mean and deviation of 39 MFCC"),
        (SPEAKER, "mean of 39 MFCC, cosine"),
    )
    rows += [
        Row(f"{task.head}-mfcc", task.data, "none", {}, (), (task.data,), note=note)
        for task, note in floors
    ]
    rows.append(_frozen(SYLLABLES, "syllables-frozen", "pretrained, frozen"))
    rows.append(_joint())
    rows += [
        _adapted("intent-adapted-100", "houlsby", "0.002"),
        _adapted("intent-copied-100", "full", "0.0003"),
    ]
    for share, steps in ((10, 500), (50, 1000), (100, 1200)):
        rows.append(
            _learning(INTENT, f"intent-scratch-{share}", "from scratch", steps, share / 100)
        )
    rows.append(_learning(INTENT, "intent-learning-10", "pretrained, learning", 500, 0.1))
    kinds: tuple[tuple[Trunk, str], ...] = (
        ("pretrained, learning", "learning"),
        ("from scratch", "scratch"),
    )
    for trunk, short in kinds:
        rows.append(_learning(SYLLABLES, f"syllables-{short}", trunk, 1500))
        rows += _commands(trunk, short)
    return tuple(rows)


def _adapted(name: str, kind: str, rate: str) -> Row:
    """Intents, going on from the head of the frozen trunk: an adapter learns with it, mostly in full context."""
    adapter = (f"options.adapter.kind={kind}", f"adapter_lr={rate}")
    row = _learning(
        INTENT, name, "pretrained, adapted", 2400, 1.0,
        *(f"heads.{INTENT.head}.{setting}" for setting in adapter),
        "contexts.full=0.7", "train.warmup_steps=200", "train.evaluate_every=200",
        f"choose.metric={INTENT.head}/accuracy",
    )  # fmt: skip
    return replace(row, start=FROZEN_INTENT, note=f"pretrained, adapted ({kind})")


def _commands(trunk: Trunk, short: str) -> tuple[Row, ...]:
    """The words of commands: in syllables, and then, on the trunk that learnt these, in characters.

    Both mostly as a stream, the harder of the two; characters with room to catch up at the beginning of a chunk.
    """
    alike = (
        "contexts.full=0.1",
        "contexts.dev=[8, 40, 0]",
        "heads.ctc.options.tokenizer.kind=syllables",
        "train.warmup_steps=200",
        "trunk.lr=0.0005",
    )
    brief, syllables = (
        _learning(COMMANDS, f"commands-{short}-syllables{length}", trunk, steps, 1.0, *alike)
        for length, steps in (("-brief", 2000), ("", 5000))
    )
    after = (
        "contexts.full=0.1", "contexts.dev=[8, 40, 0]", "heads.ctc.options.per_frame=4",
        "train.warmup_steps=100", "train.lr=0.003", "trunk.lr=0.0002",
    )  # fmt: skip
    characters = _learning(COMMANDS, f"commands-{short}", trunk, 4000, 1.0, *after)
    note = f"{trunk}, then after syllables"
    learnt = (syllables, replace(characters, after=syllables.name, note=note))
    heard = (
        replace(row, name=f"{row.name}-lm", lm_of=row.name, note=f"{row.note or trunk}; language model")
        for row in learnt
    )  # fmt: skip
    return brief, *learnt, *heard


def _joint() -> Row:
    settings = [
        *FROZEN,
        "train.steps=3000",
        "train.evaluate_every=300",
        "choose.metric=loss",
        "choose.patience=0",
    ]
    for task in FIVE:
        settings += task.settings()
    # New voices have no loss on dev; the others decide which weights are taken.
    return Row(
        "five-joint", "five heads", "pretrained, frozen", {task.head: task.data for task in FIVE},
        tuple(settings), tuple(task.data for task in FIVE),
    )  # fmt: skip


ROWS = _rows()
SINGLE = {"intent": FROZEN_INTENT, "digit": "digit-frozen", "emotion": "emotion-frozen",
          "speaker": "speaker-frozen", "ctc": "syllables-frozen"}  # fmt: skip

Side = tuple[str, str]
COMPARISONS: tuple[tuple[Side, Side, str, str], ...] = (
    *(
        ((f"intent-frozen-{share}", FULL), (f"intent-{other}-{share}", FULL), "intent", "intent")
        for share in (10, 50, 100)
        for other in ("random", "scratch")
    ),
    (("intent-learning-10", FULL), ("intent-scratch-10", FULL), "intent", "intent"),
    *(
        ((f"intent-{kind}-100", context), (FROZEN_INTENT, context), "intent", "intent")
        for kind in ("adapted", "copied")
        for context in (FULL, STREAM)
    ),
    *(
        ((f"intent-{kind}-100", STREAM), (f"intent-{kind}-100", FULL), "intent", "intent")
        for kind in ("adapted", "copied")
    ),
    (("digit-frozen", FULL), ("digit-random", FULL), "digit", "digit"),
    (("emotion-frozen", FULL), ("emotion-mfcc", FULL), "emotion", "emotion"),
    (("emotion-frozen", FULL), ("emotion-random", FULL), "emotion", "emotion"),
    (("speaker-frozen", FULL), ("speaker-mfcc", FULL), "speaker", "speaker"),
    (("speaker-frozen", FULL), ("speaker-random", FULL), "speaker", "speaker"),
    (("syllables-learning", FULL), ("syllables-scratch", FULL), "ctc", "ctc"),
    (("syllables-learning", STREAM), ("syllables-learning", FULL), "ctc", "ctc"),
    *(
        test
        for unit in ("-syllables-brief", "-syllables", "", "-syllables-lm", "-lm")
        for test in (
            ((f"commands-learning{unit}", FULL), (f"commands-scratch{unit}", FULL), "ctc", "ctc"),
            ((f"commands-learning{unit}", STREAM), (f"commands-learning{unit}", FULL), "ctc", "ctc"),
            ((f"commands-scratch{unit}", STREAM), (f"commands-scratch{unit}", FULL), "ctc", "ctc"),
        )
    ),
    *((("five-joint", FULL), (row, FULL), head, head) for head, row in SINGLE.items()),
)  # fmt: skip
"""Pairs of rows and contexts that are tested on the same cuts: a against b, with the head's name in each."""
