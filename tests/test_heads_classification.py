"""Classification heads: labels, balance, calibration, abstaining, fusion, calls."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder import Encoded
from heads.calibration import abstain_threshold, fit_llr, fit_temperature
from heads.classification import ClassificationOptions, IntentHead, SentimentHead
from heads.head import HeadLabels, TrunkSpec
from heads.label_space import LabelSpace
from heads.predict import over_call
from trunkline.errors import ConfigError, DataError, UsageError

TRUNK = TrunkSpec(dim=12, num_layers=2, frame_shift=0.08, sample_rate=8000)
INTENTS = ["pay", "pay", "pay", "ask", "ask", "leave"]
ORDERS = [
    {"drink": "tea", "size": "big"},
    {"drink": "coffee"},
    {"drink": "tea", "size": None},
    {"size": "small"},
]


def encoded(*lengths: int, seed: int = 0) -> Encoded:
    """Made frames and layers of some turns."""
    generator = torch.Generator().manual_seed(seed)
    layers = torch.randn(3, len(lengths), max(lengths), 12, generator=generator)
    counts = torch.tensor(lengths)
    valid = torch.arange(max(lengths)) < counts[:, None]
    layers = layers * valid[None, :, :, None]
    return Encoded(layers[-1], counts, layers, torch.arange(max(lengths)) * 0.08)


def head_for(labels, seed: int = 0, cls=IntentHead, **options):
    settings_ = ClassificationOptions(**{"hidden": 8, "dropout": 0.0} | options)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return cls(settings_, TRUNK, cls.prepare(settings_, labels)).eval()


def cut_frames(whole: Encoded, low: int, high: int) -> Encoded:
    lengths = (whole.lengths - low).clamp(0, high - low)
    layers = whole.layers[:, :, low:high]
    return Encoded(whole.frames[:, low:high], lengths, layers, whole.times[low:high])


def test_classes_come_sorted_with_their_counts_and_numbers_count_by_their_text():
    labels = IntentHead.prepare(ClassificationOptions(), INTENTS)
    assert labels.names == ("ask", "leave", "pay") and labels.counts == (2, 1, 3)
    assert IntentHead.prepare(ClassificationOptions(), [0, 1, "1", True]).names == (
        "0",
        "1",
        "True",
    )


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        ("classes", [], "No cut has a label"),
        ("classes", ["pay", "pay"], "All 2 training labels are 'pay': with one class only"),
        ("labels", [["a"], ["a"]], "same labels: there is nothing to learn"),
        ("labels", [[], []], "same labels"),
        ("slots", [{"size": "big"}, {"size": "big"}], "fill the slots alike"),
        ("classes", [["pay"], "ask"], r"\['pay'\] is not a class name"),
        ("labels", ["pay"], "'pay' is not a list of labels"),
        ("slots", ["pay"], "is not {slot: value}"),
        ("classes", [float("nan"), "a"], "NaN"),
    ],
)
def test_labels_that_nothing_can_be_learnt_from_are_named(task, labels, message):
    with pytest.raises(DataError, match=message):
        IntentHead.prepare(ClassificationOptions(task=task), labels)


def test_a_label_that_was_not_in_training_is_named_with_its_count_and_the_nearest():
    head = head_for(INTENTS)
    with pytest.raises(DataError, match=r"not in the training set: 'payy' \(2 x\).*'pay'"):
        head.check_labels(["payy", "ask", "payy"])
    with pytest.raises(DataError, match="'payy'"):
        head.loss(head(encoded(3)), ["payy"])
    slots = head_for(ORDERS, task="slots")
    with pytest.raises(DataError, match="'drink=cocoa'"):
        slots.check_labels([{"drink": "cocoa"}])
    lenient = head_for(ORDERS, task="slots", unseen="ignore")
    output = lenient(encoded(3, 3))
    loss, metrics = lenient.loss(output, [{"drink": "cocoa"}, {"drink": "tea"}])
    assert loss.isfinite() and 0 <= metrics["accuracy"] <= 0.5


@pytest.mark.parametrize("task", ["classes", "labels", "slots"])
@pytest.mark.parametrize("balance", ["none", "weighted", "logit_adjusted"])
@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_every_setting_learns_made_turns(task, balance, pooling):
    labels = {
        "classes": ["a", "b", "c"] * 4,
        "labels": [["a"], ["a", "b"], []] * 4,
        "slots": [{"x": "1"}, {"x": "2", "y": "1"}, {}] * 4,
    }[task]
    head = head_for(labels, task=task, balance=balance, pooling=pooling).train()
    frames = encoded(*[4 + index % 3 for index in range(12)])
    parameters = list(head.parameters())
    for _ in range(80):
        loss, metrics = head.loss(head(frames), labels)
        with torch.no_grad():
            for parameter, slope in zip(
                parameters, torch.autograd.grad(loss, parameters), strict=True
            ):
                parameter -= (
                    0.03 * slope.sign()
                )  # sign descent: no optimiser to import, none to tune
    assert metrics["accuracy"] == 1.0 and metrics.get("micro_f1", 1.0) == 1.0
    assert ("micro_f1" in metrics) == (task != "classes")
    answers = head.eval().decode(head(frames))
    assert all(
        head.is_right(each.label, label) for each, label in zip(answers, labels, strict=True)
    )
    json.dumps([each._asdict() for each in answers])


@pytest.mark.parametrize("task", ["labels", "slots"])
def test_each_slot_or_label_can_have_an_attention_of_its_own(task):
    labels = {"labels": [["a"], ["a", "b"], []], "slots": [{"x": "1"}, {"y": "2"}, {"y": "3"}]}[
        task
    ]
    head = head_for(labels, task=task, attend="each", context=3)
    assert head.pool.views == 2 and head.pooled_dim == 2 * 2 * 8
    assert head.output.weight.shape == (len(head.space.names), 16), (
        "an output sees its own view only"
    )
    frames = encoded(9, 4)
    logits = head(frames).logits
    with torch.no_grad():
        head.pool.score[2].weight[1] += 1.0
    moved = (head(frames).logits - logits).abs().amax(0)
    second = [name in ("b",) or name.startswith("y") for name in head.space.names]
    assert torch.equal(moved > 1e-6, torch.tensor(second))
    state = head.init_state(2)
    for low, high in ((0, 1), (1, 6), (6, 9)):
        _, state = head.step(cut_frames(frames, low, high), state)
    torch.testing.assert_close(head.finish(state).logits, head(frames).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"task": "classes", "attend": "each"},
        {"task": "slots", "attend": "each", "pooling": "mean"},
        {"context": 0},
        {"context": 3, "hidden": 0},
    ],
)
def test_attentions_and_contexts_that_cannot_be_are_named(options):
    with pytest.raises(ConfigError, match="attend=each|context="):
        head_for(ORDERS if options.get("task") == "slots" else INTENTS, **options)


def test_weights_have_mean_1_over_the_training_items():
    head = head_for(INTENTS, balance="weighted")
    share = torch.tensor(head.space.counts) / head.space.items
    assert float((head.weight * share).sum()) == pytest.approx(1)
    assert head.weight.argmax() == head.space.names.index("leave")


def test_a_logit_adjusted_head_that_knows_nothing_answers_no_class_rather_than_another():
    """The prior is learnt by what is added in training, so equal logits are the best guess there."""
    labels = ["rare"] + ["often"] * 9
    adjusted, plain = (head_for(labels, balance=how) for how in ("logit_adjusted", "none"))
    for head in (adjusted, plain):
        torch.nn.init.zeros_(head.output.weight)
        torch.nn.init.zeros_(head.output.bias)
    frames = encoded(*[3] * 10)
    grads = []
    for head in (adjusted, plain):
        head.loss(head(frames), labels)[0].backward()
        grads.append(float(head.output.bias.grad.abs().max()))
    assert grads[0] == pytest.approx(0, abs=1e-6) and grads[1] > 0.3


def test_the_loss_of_an_item_does_not_depend_on_its_batch():
    head = head_for(INTENTS, balance="weighted")
    both = head.loss(head(encoded(3, 5)), ["pay", "leave"])[0]
    whole = encoded(3, 5)
    alone = [
        head.loss(
            head(Encoded(whole.frames[[i]], whole.lengths[[i]], whole.layers[:, [i]], whole.times)),
            [label],
        )[0]
        for i, label in enumerate(["pay", "leave"])
    ]
    torch.testing.assert_close(both, sum(alone) / 2)


def test_a_turn_without_frames_has_no_label():
    head = head_for(INTENTS)
    answer, other = head.decode(head(encoded(0, 4)))
    assert answer.label is None and answer.confidence == 0 and answer.abstained
    assert other.label in head.space.names and not other.abstained


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=5),
    st.sampled_from(["mean", "max", "attention"]),
)
def test_a_call_is_pooled_from_its_turns_as_if_it_were_one_recording(turns, pooling):
    head = head_for(INTENTS, cls=SentimentHead, pooling=pooling)
    total = sum(turns)
    whole = encoded(max(total, 1))._replace(lengths=torch.tensor([total]))
    ends = np.cumsum([0, *turns])
    parts = [cut_frames(whole, low, high) for low, high in zip(ends, ends[1:], strict=False)]
    over = over_call(head, parts)
    torch.testing.assert_close(over.logits, head(whole).logits, atol=1e-5, rtol=1e-5)
    assert over.lengths.tolist() == [total]


def test_calibration_makes_an_overconfident_head_believable_and_rides_with_it():
    rng = np.random.default_rng(0)
    head = head_for(["a", "b"] * 3, precision=0.8)
    truth = rng.integers(2, size=400)
    said = np.where(rng.random(400) < 0.7, truth, 1 - truth)
    logits = torch.tensor(np.where(np.arange(2) == said[:, None], 5.0, 0.0))
    logits += torch.tensor(rng.normal(size=(400, 1)) * [0.3, -0.3])
    output = head(encoded(3))._replace(logits=logits.float(), lengths=torch.ones(400))
    found = head.calibrate(output, [head.space.names[index] for index in truth])
    assert found["ece_before"] > 0.2 and found["ece_after"] < 0.06 and found["temperature"] > 3
    copy = IntentHead.from_config(json.loads(json.dumps(head.to_config())))
    copy.load_state_dict(head.state_dict())
    assert copy.decode(output)[:5] == head.decode(output)[:5]


def test_the_head_abstains_below_the_confidence_of_the_wanted_precision(caplog):
    head = head_for(["a", "b"] * 3, precision=0.9)
    logits = torch.tensor([[4.0, 0.0]] * 8 + [[0.4, 0.0]] * 8)
    output = head(encoded(3))._replace(logits=logits, lengths=torch.ones(16))
    found = head.calibrate(output, ["a"] * 8 + ["a", "b"] * 4)
    assert found["precision_on_dev"] == 1 and found["coverage_on_dev"] == 0.5
    assert [each.abstained for each in head.decode(output)] == [False] * 8 + [True] * 8
    hopeless = head.calibrate(output, ["b"] * 16)
    assert hopeless["threshold"] is None and "will not abstain" in caplog.text


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=1, max_size=30),
    st.sampled_from([0.5, 0.8, 1.0]),
)
def test_no_lower_threshold_reaches_the_wanted_precision(answers, precision):
    sure, right = np.array([a / 10 for a, _ in answers]), np.array([b for _, b in answers])
    found = abstain_threshold(sure, right, precision)
    reached = {t: right[sure >= t].mean() for t in sure}
    good = [t for t, value in reached.items() if value >= precision]
    assert (found.threshold if found else None) == (min(good) if good else None)
    if found:
        assert found.precision == pytest.approx(reached[found.threshold])
        assert found.coverage == pytest.approx(np.mean(sure >= found.threshold))


def test_the_temperature_equals_the_least_of_a_grid():
    rng = np.random.default_rng(1)
    logits = torch.tensor(rng.normal(size=(200, 4)) * 6)
    targets = torch.where(torch.tensor(rng.random(200) < 0.6), logits.argmax(1), 0)

    def loss(inverse):
        return float(torch.nn.functional.cross_entropy(logits * inverse, targets))

    grid = np.geomspace(0.1, 20, 4000)
    best = grid[np.argmin([loss(1 / t) for t in grid])]
    assert fit_temperature(loss) == pytest.approx(best, rel=5e-3)


def test_log_likelihood_ratios_equal_a_balanced_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    targets = rng.random(500) < 0.1
    scores = rng.normal(size=500) + 1.5 * targets
    model = LogisticRegression(class_weight="balanced", C=1e4).fit(scores[:, None], targets)
    found = fit_llr(scores, targets)
    assert found.scale == pytest.approx(float(model.coef_[0, 0]), rel=0.01)
    assert found.offset == pytest.approx(float(model.intercept_[0]), abs=0.02)
    separated = fit_llr([0.0, 0.1, 0.9, 1.0], [False, False, True, True])
    assert np.isfinite(separated).all() and (separated.of([0, 1]) * [-1, 1] > 0).all()
    with pytest.raises(DataError, match="both needed"):
        fit_llr([0.1, 0.2], [True, True])


def test_a_missing_vector_leaves_exactly_the_answer_from_sound():
    head = head_for(INTENTS, vector="text_vector", vector_dim=3)
    frames = encoded(4, 5, 6)
    vectors = head.vectors([[1.0, 2.0, 3.0], None, [0.0, 0.0, 0.0]])
    sound, fused = head(frames), head(frames, vectors)
    assert torch.equal(sound.logits[1], fused.logits[1])
    assert not torch.allclose(sound.logits[0], fused.logits[0])
    # a vector of a batch mate moves nobody else
    other = head(frames, head.vectors([[9.0, 9.0, 9.0], None, [0.0, 0.0, 0.0]]))
    assert torch.equal(fused.logits[1:], other.logits[1:])


def test_both_sources_are_learnt_and_some_vectors_are_left_out_in_training():
    head = head_for(INTENTS, vector="v", vector_dim=3, vector_missing=0.5).train()
    frames = encoded(*[4] * 40)
    torch.manual_seed(0)
    output = head(frames, torch.ones(40, 3))
    same = (output.logits == head(frames).logits).all(dim=1)
    assert 5 < int(same.sum()) < 35
    head.loss(output, ["pay", "ask"] * 20)[0].backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_vectors_of_another_width_and_heads_without_fusion_are_refused():
    head = head_for(INTENTS, vector="v", vector_dim=3)
    with pytest.raises(DataError, match="vector_dim=3"):
        head.vectors([[1.0, 2.0]])
    with pytest.raises(DataError, match="no list of numbers"):
        head.vectors(["text"])
    with pytest.raises(DataError, match="no finite numbers"):
        head.vectors([[1.0, float("inf"), 0.0]])
    with pytest.raises(UsageError, match="without fusion"):
        head_for(INTENTS)(encoded(3), torch.ones(1, 3))
    with pytest.raises(ConfigError, match="belong together"):
        ClassificationOptions(vector="v")


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="precision"):
        ClassificationOptions(precision=1.5)
    with pytest.raises(ConfigError, match="needs its labels"):
        IntentHead(ClassificationOptions(), TRUNK, HeadLabels())


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), st.sampled_from(["", "1", "2"]), max_size=3),
        min_size=1,
        max_size=8,
    )
)
def test_a_label_space_reads_back_what_it_encodes(labels):
    try:
        space = LabelSpace.of_labels("slots", labels)
    except DataError:
        return
    assert LabelSpace.from_labels(HeadLabels.from_json(space.to_labels().to_json())) == space
    for label, row in zip(labels, space.targets(labels).tolist(), strict=True):
        places = [group[index] for group, index in zip(space.groups.values(), row, strict=True)]
        assert space.answer(places) == {slot: value for slot, value in label.items() if value}


def test_the_commonest_answer_is_that_of_training():
    assert LabelSpace.of_labels("classes", INTENTS).commonest() == "pay"
    assert LabelSpace.of_labels("labels", [["a", "b"], ["a"], ["c"]]).commonest() == ("a",)
    orders = [*ORDERS, {"drink": "tea"}]
    assert LabelSpace.of_labels("slots", orders).commonest() == {"drink": "tea"}
