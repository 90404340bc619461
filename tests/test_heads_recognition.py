"""Heads that write text: what they learn, what they refuse, and that a repeated digit survives every path."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from encoder import Encoded
from heads.aed import AEDHead, AEDOptions
from heads.ctc import CTCHead, CTCOptions, CTCOutput
from heads.head import HeadLabels, TrunkSpec
from heads.recognition import TokenizerOptions
from trunkline.errors import ConfigError, DataError, TrainingError
from trunkline.tokenizer import train_tokenizer

TRUNK = TrunkSpec(dim=16, num_layers=2, frame_shift=0.08, sample_rate=8000)
TEXTS = ["không không chín chín", "xin chào anh", "dạ"]
PLAIN = CTCOptions(layers="last", hidden=16, dropout=0.0)


def frames(lengths: list[int], seed: int = 0) -> Encoded:
    random = torch.Generator().manual_seed(seed)
    batch = torch.randn(len(lengths), max(lengths, default=0), TRUNK.dim, generator=random)
    for row, length in zip(batch, lengths, strict=True):
        row[length:] = 0.0
    times = torch.arange(batch.shape[1], dtype=torch.float64) * TRUNK.frame_shift + 0.0825
    return Encoded(batch, torch.tensor(lengths), None, times)


def made(kind: type[CTCHead], options: CTCOptions, texts: list[str] = TEXTS) -> CTCHead:
    torch.manual_seed(0)
    return kind(options, TRUNK, kind.prepare(options, texts))


def learnt(head: CTCHead, encoded: Encoded, labels: list[str], steps: int) -> CTCHead:
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(steps):
        loss, _ = head.loss(head(encoded), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return head.eval()


def spoken(head: CTCHead, pieces: list[str]) -> CTCOutput:
    """The output of a head that is sure of a piece, or of a blank (""), at each frame."""
    ids = [head.tokenizer.pieces.index(x) if x else head.tokenizer.blank for x in pieces]
    scores = torch.full((1, len(ids), len(head.tokenizer)), -12.0)
    scores[0, range(len(ids)), ids] = 0.0
    lengths = torch.tensor([len(ids)])
    times = torch.arange(len(ids), dtype=torch.float64)[None] * TRUNK.frame_shift + 0.0825
    return CTCOutput(scores.log_softmax(-1), lengths, times)


@pytest.mark.parametrize("kind", ["characters", "syllables", "bpe"])
def test_ctc_learns_texts_by_heart_with_every_tokenizer(kind):
    options = CTCOptions(
        layers="last", dropout=0.0, tokenizer=TokenizerOptions(kind, 30 if kind == "bpe" else None)
    )
    texts = TEXTS[:2] if kind == "bpe" else TEXTS
    head, encoded = made(CTCHead, options, texts), frames([50, 40, 30][: len(texts)])
    learnt(head, encoded, texts, 80)
    assert [x.text for x in head.decode(head(encoded))] == texts


def test_ctc_and_attention_learn_texts_by_heart_together():
    options = AEDOptions(layers="last", dropout=0.0, feed_forward=32, reverse_layers=1)
    head, encoded = made(AEDHead, options), frames([50, 40, 30])
    learnt(head, encoded, TEXTS, 60)
    output = head(encoded)
    assert [x.text for x in head.decode(output)] == TEXTS
    loss, metrics = head.loss(output, TEXTS)
    assert metrics["token_accuracy"] == 1.0
    assert float(loss.detach()) == pytest.approx(0.3 * metrics["ctc"] + 0.7 * metrics["attention"])
    for found in head.search(output):
        assert {"ctc", "attention", "reverse"} <= dict(found[0].parts).keys()


def test_digits_said_twice_are_kept_with_their_times():
    head = made(CTCHead, CTCOptions(tokenizer=TokenizerOptions("syllables")))
    said = ["▁không", "", "▁không", "▁chín", "▁chín", "", "▁chín"]
    found = head.decode(spoken(head, said))[0]
    assert found.text == "không không chín chín"
    shift, first = TRUNK.frame_shift, 0.0825 - TRUNK.frame_shift / 2
    expected = [(0, 1), (2, 3), (3, 5), (6, 7)]
    assert [(x.start, x.end) for x in found.words] == [
        (pytest.approx(first + a * shift), pytest.approx(first + b * shift)) for a, b in expected
    ]
    assert all(0.9 < x.confidence <= 1 for x in found.words)
    assert json.loads(json.dumps(found))[0] == found.text


def test_a_live_text_ends_as_the_whole_recording_reads():
    head = made(CTCHead, PLAIN).eval()
    output = head(frames([60]))
    state, heard = head.begin_text(), []
    for start in range(0, 60, 8):
        part = [x[:, start : start + 8] for x in (output.log_probs, output.times)]
        step = CTCOutput(part[0], torch.tensor([part[0].shape[1]]), part[1])
        before = state
        text, state = head.step_text(step, state)
        heard.append(text)
        assert head.finish_text(before) == head.finish_text(before)
    assert head.finish_text(state) == head.search(output)[0]
    assert heard[-1] == head.search(output)[0][0].text


QUICK = CTCOptions(layers="last", hidden=16, dropout=0.0, per_frame=3)


def test_a_frame_that_writes_several_symbols_spells_what_comes_faster_than_frames():
    encoded, labels = frames([12, 9]), ["không không chín", "xin chào anh"]
    slow = made(CTCHead, PLAIN)
    assert slow.loss(slow(encoded), labels)[1]["too_long"] == 2.0
    head = learnt(made(CTCHead, QUICK), encoded, labels, 150)
    output = head(encoded)
    assert head.loss(output, labels)[1]["too_long"] == 0.0
    assert [x.text for x in head.decode(output)] == labels
    words = head.decode(output)[0].words
    first, shift = 0.0825 - TRUNK.frame_shift / 2, TRUNK.frame_shift / 3
    edges = [edge for word in words for edge in (word.start, word.end)]
    assert edges == sorted(edges) and edges[0] > first - 1e-9
    assert edges[-1] < first + 12 * TRUNK.frame_shift + 1e-9
    steps = [(edge - first) / shift for edge in edges]
    assert steps == pytest.approx([round(x) for x in steps])


def test_parts_of_a_frame_stream_as_they_are_read_whole_whatever_stands_beside_them():
    head = made(CTCHead, QUICK).eval()
    encoded = frames([20, 7])
    whole = head(encoded)
    assert whole.lengths.tolist() == [60, 21]
    assert not whole.log_probs[1, 21:].any()
    torch.testing.assert_close(whole.times[:, :60].view(2, 20, 3).mean(2)[0], encoded.times)
    given = []
    for start in range(0, 20, 8):
        piece = encoded.frames[:1, start : start + 8]
        times = encoded.times[start : start + 8]
        output, _ = head.step(Encoded(piece, torch.tensor([piece.shape[1]]), None, times), ())
        given.append(output)
    joined = head.join(given)
    torch.testing.assert_close(joined.log_probs, whole.log_probs[:1])
    assert torch.equal(joined.times, whole.times[:1]) and joined.lengths.tolist() == [60]


def test_silence_is_blank_in_every_part_of_its_frames():
    head = made(CTCHead, QUICK).eval()
    silent = torch.tensor([False, True, True, False])
    before = head(frames([4]))
    hushed = head.hush(before, silent)
    assert (hushed.log_probs[0, 3:9, head.tokenizer.blank] == 0).all()
    assert torch.equal(hushed.log_probs[0, :3], before.log_probs[0, :3])
    assert torch.equal(hushed.log_probs[0, 9:], before.log_probs[0, 9:])


def test_a_long_recording_of_parts_is_cut_where_one_of_frames_would_be():
    from heads.utterances import LONGEST_FRAMES, PAUSE_FRAMES, utterances

    said = ["▁không", *[""] * (PAUSE_FRAMES + 2), "▁chín", *[""] * (LONGEST_FRAMES - 10)]
    for parts in (1, 3):
        options = CTCOptions(tokenizer=TokenizerOptions("syllables"), per_frame=parts)
        head = made(CTCHead, options)
        output = spoken(head, [piece for piece in said for _ in range(parts)])
        found = utterances(head, output._replace(times=output.times / parts))
        middle = parts * (1 + (PAUSE_FRAMES + 2) / 2)
        assert [x.start for x in found] == [0, pytest.approx(middle, abs=1)]
        assert [x.transcription.text for x in found] == ["không", "chín"]


@pytest.mark.parametrize("number", [0, 9])
def test_a_frame_writes_at_least_one_symbol_and_not_absurdly_many(number):
    with pytest.raises(ConfigError, match="per_frame=. must be 1 to 8"):
        CTCOptions(per_frame=number)


def test_batch_mates_and_padding_change_no_transcript_and_no_loss():
    head = made(AEDHead, AEDOptions(layers="last", feed_forward=32)).eval()
    encoded = frames([30, 12, 0])
    together = head(encoded)
    for row, length in enumerate([30, 12, 0]):
        alone = Encoded(
            encoded.frames[row : row + 1, :length],
            torch.tensor([length]),
            None,
            encoded.times[:length],
        )
        output = head(alone)
        torch.testing.assert_close(output.log_probs[0], together.log_probs[row, :length])
        assert head.search(output)[0][0].text == head.search(together)[row][0].text
        if length:
            parts = [head.loss(x, ["dạ"])[0] for x in (output, _row(together, row))]
            torch.testing.assert_close(*parts)


def _row(output, row: int):
    return type(output)(*(x[row : row + 1] for x in output))


def test_a_transcript_longer_than_its_audio_is_counted_and_named_once(caplog):
    head, encoded = made(CTCHead, PLAIN), frames([40, 3])
    labels = ["xin chào", "không không"]
    output = head(encoded)
    loss, metrics = head.loss(output, labels)
    assert metrics["too_long"] == 1.0
    assert "'không không' needs 11 frames, its audio has 3" in caplog.text
    alone, _ = head.loss(head(frames([40, 3])), labels)
    assert caplog.text.count("không không") == 1
    assert float(loss.detach()) == pytest.approx(float(alone.detach()))
    # The item is left out of the mean, not counted as zero.
    single = head.loss(_row(output, 0), labels[:1])[0]
    torch.testing.assert_close(loss, single)
    assert head.too_long(output, labels) == [1]


def test_a_transcript_that_is_too_long_can_stop_the_run():
    head = made(CTCHead, CTCOptions(layers="last", too_long="error"))
    with pytest.raises(TrainingError, match="'xin chào'"):
        head.loss(head(frames([3])), ["xin chào"])


def test_a_batch_without_any_possible_item_has_a_loss_that_changes_nothing():
    for head in (made(CTCHead, PLAIN), made(AEDHead, AEDOptions(layers="last", feed_forward=32))):
        loss, metrics = head.loss(head(frames([0, 0])), ["dạ", ""])
        loss.backward()
        assert metrics["too_long"] == 1.0
        assert float(loss.detach()) == 0.0
        assert all(p.grad is None or not p.grad.any() for p in head.parameters())


def test_silence_that_was_learnt_as_silence_is_written_as_nothing():
    options = AEDOptions(layers="last", dropout=0.0, feed_forward=32)
    head = made(AEDHead, options)
    encoded = frames([40, 40])
    encoded.frames[1] = 0.0
    learnt(head, encoded, ["xin chào", ""], 60)
    assert [x.text for x in head.decode(head(encoded))] == ["xin chào", ""]
    # However sure the attention decoder is of a sentence, the CTC hears none.
    mute = head(encoded)._replace(memory=head(encoded).memory[[0, 0]])
    assert head.decode(mute)[1].text == ""


def test_the_ctc_bounds_how_long_a_text_may_be():
    head = made(AEDHead, AEDOptions(layers="last", feed_forward=32, length_slack=0.0)).eval()
    with torch.no_grad():
        head.decoder.output.bias[head.tokenizer.sos_eos] = -50.0  # never wants to end
    short = spoken(head, ["", "d", "ạ", "", "", "", "", "", "", ""])
    output = head(frames([10]))._replace(log_probs=short.log_probs)
    found = head.search(output)[0]
    longest = max(len(x.tokens) for x in CTCHead.search(head, output)[0])
    assert found
    assert all(len(x.tokens) <= longest + 2 for x in found)


def test_task_tokens_stand_before_the_text_and_change_no_shape():
    plain = made(AEDHead, AEDOptions(layers="last", feed_forward=32, dropout=0.0))
    prompted = made(AEDHead, AEDOptions(layers="last", feed_forward=32, dropout=0.0, prompt=(0, 3)))
    prompted.load_state_dict(plain.state_dict())
    output = prompted(frames([30]))
    with_prompt = plain.loss(output, [{"text": "dạ", "prompt": [0, 3]}])[0]
    torch.testing.assert_close(prompted.loss(output, ["dạ"])[0], with_prompt)
    assert not torch.isclose(plain.loss(output, ["dạ"])[0], with_prompt)
    assert prompted.search(output)[0][0].tokens == tuple(
        x for x in prompted.search(output)[0][0].tokens if x not in prompted.tokenizer.tasks
    )
    with pytest.raises(DataError, match="task token 8"):
        plain.loss(output, [{"text": "dạ", "prompt": [8]}])


def test_a_prompt_is_masked_in_the_loss_unless_it_shall_be_learnt():
    options = {"layers": "last", "feed_forward": 32, "dropout": 0.0, "prompt": (2,)}
    masked = made(AEDHead, AEDOptions(**options))
    shown = made(AEDHead, AEDOptions(**options, prompt_loss=True))
    shown.load_state_dict(masked.state_dict())
    gradients = []
    for head in (masked, shown):
        head.loss(head(frames([30])), ["dạ"])[0].backward()
        gradients.append(head.decoder.output.bias.grad[head.tokenizer.tasks[2]])
    # Only the head that learns the prompt is pulled towards writing it.
    assert gradients[1] < 0 < gradients[0]


def test_steps_of_the_decoder_equal_teacher_forcing():
    head = made(AEDHead, AEDOptions(layers="last", feed_forward=32, dropout=0.0)).eval()
    output = head(frames([20]))
    tokens = head.tokenizer.encode("xin chào")
    expected = head.token_scores(output, 0, tokens)
    memory = head.decoder.read(output.memory, output.lengths)
    state = head.decoder.begin()
    for place, token in enumerate([head.tokenizer.sos_eos, *tokens]):
        before = state
        scores, state = head.decoder.step(torch.tensor([[token]]), memory, state)
        torch.testing.assert_close(scores[0], expected[place], atol=1e-5, rtol=0)
        assert before is None or before.keys[0].shape[2] == place  # the state given is as it was


def test_unknown_letters_are_named_and_too_many_are_refused(caplog):
    head = made(CTCHead, PLAIN)
    head.check_labels(["xin chào", "xin ćhào anh"])
    assert "1 of 20 tokens" in caplog.text
    assert "xin ćhào anh" in caplog.text
    with pytest.raises(DataError, match="normalised"):
        head.check_labels(["QWERTY"])
    with pytest.raises(DataError, match="must be a string, not 7"):
        head.check_labels([7])
    metrics = head.loss(head(frames([40])), ["xin ć"])[1]
    assert metrics["unknown"] == 1.0


def test_settings_that_cannot_be_are_refused():
    for settings, told in [
        ({"ctc_weight": 0.0}, "ctc_weight"),
        ({"decode_ctc_weight": 1.0}, "decode_ctc_weight"),
        ({"decoder_layers": 0}, "decoder_layers"),
        ({"dropout": 1.0}, "dropout"),
        ({"hidden": -1}, "hidden"),
    ]:
        with pytest.raises(ConfigError, match=told):
            AEDOptions(**settings)
    with pytest.raises(ConfigError, match="tokenizer"):
        CTCHead(PLAIN, TRUNK, HeadLabels())
    with pytest.raises(ConfigError, match="heads=3"):
        made(AEDHead, AEDOptions(heads=3))


def test_a_tokenizer_file_is_taken_as_it_is(tmp_path):
    tokenizer = train_tokenizer("syllables", ["một hai ba"])
    path = tokenizer.save(tmp_path)
    options = CTCOptions(tokenizer=TokenizerOptions(path=str(path)))
    head = made(CTCHead, options)
    assert head.tokenizer.fingerprint == tokenizer.fingerprint
    again = CTCHead.from_config(json.loads(json.dumps(head.to_config())))
    assert again.tokenizer.fingerprint == tokenizer.fingerprint


def test_dev_data_calibrates_the_words_and_stays_with_the_head():
    head = made(CTCHead, CTCOptions(tokenizer=TokenizerOptions("syllables"), layers="last"))
    random = np.random.default_rng(0)
    outputs, texts = [], []
    for _ in range(60):
        word = str(random.choice(["không", "chín", "xin"]))
        output = spoken(head, ["", f"▁{word}", ""])
        noisy = output.log_probs + 4 * torch.from_numpy(random.normal(size=output.log_probs.shape))
        outputs.append(output._replace(log_probs=noisy.float().log_softmax(-1)))
        texts.append(word)
    told = head.calibrate(outputs, texts)
    assert told["words_on_dev"] >= 50
    assert told["ece_after"] <= told["ece_before"]
    again = CTCHead.from_config(json.loads(json.dumps(head.to_config())))
    again.load_state_dict(head.state_dict())
    assert again.eval().decode(outputs[0]) == head.eval().decode(outputs[0])
    assert all(0 <= x.confidence <= 1 for x in head.decode(outputs[0])[0].words)
    assert told["nce_after"] > told["nce_before"]
