"""N-best files: what is written is read again, and what is wrong is named with its line."""

from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescoring import nbest as public
from trunkline.errors import DataError, StorageError
from trunkline.nbest import SCHEMA, Hypothesis, NBest, read_nbest, to_json, write_nbest

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
HYPOTHESES = st.builds(
    Hypothesis,
    text=st.text(),
    am=FINITE,
    lm=st.none() | FINITE,
    extra=st.dictionaries(st.text(max_size=5), FINITE, max_size=2),
)
LISTS = st.lists(
    st.builds(
        NBest,
        utt_id=st.text(min_size=1),
        hyps=st.lists(HYPOTHESES, min_size=1, max_size=4).map(tuple),
        ref=st.none() | st.text(),
        context=st.none() | st.text(),
        bias=st.lists(st.text(), max_size=3).map(tuple),
        group=st.none() | st.text(),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda nbest: nbest.utt_id,
)


@given(LISTS)
def test_what_is_written_is_read_again(tmp_path_factory, lists):
    path = tmp_path_factory.mktemp("nbest") / "lists.jsonl"
    assert write_nbest(path, lists) == len(lists)
    assert list(read_nbest(path)) == lists


def test_a_list_of_any_length_and_unknown_keys_of_an_utterance_are_kept(tmp_path):
    path = tmp_path / "lists.jsonl"
    rows = [
        {"utt_id": "a", "nbest": [{"text": "một", "am": -1}], "channel": 1},
        {"utt_id": 7, "nbest": [{"text": str(i), "am": -float(i)} for i in range(1000)]},
    ]
    path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    one, many = read_nbest(path)
    assert (one.extra, len(one), many.utt_id, len(many)) == ({"channel": 1}, 1, "7", 1000)
    assert to_json(one) == {"schema": SCHEMA, **rows[0]}


def test_text_is_kept_as_it_is_written(tmp_path):
    texts = [unicodedata.normalize("NFD", "tiền"), "chào 😀", "", "\u2028 dòng", "привет"]
    path = tmp_path / "lists.jsonl"
    write_nbest(path, [NBest("a", tuple(Hypothesis(text, 0.0) for text in texts))])
    assert next(read_nbest(path)).texts == texts


def test_scores_may_be_numpy_numbers():
    assert Hypothesis("a", np.float64(-1.5), np.float32(-2.0)).am == -1.5


GOOD = '{"utt_id": "good", "nbest": [{"text": "a", "am": -1}]}'
BAD = {
    "not JSON": ("{", "not valid JSON"),
    "no object": ("[1]", "must be a JSON object"),
    "other schema": ('{"schema": "x/9", "utt_id": "b", "nbest": []}', "schema 'x/9'"),
    "no id": ('{"uttid": "b", "nbest": [{"text": "a", "am": 0}]}', "Did you mean 'uttid'?"),
    "empty id": ('{"utt_id": "", "nbest": [{"text": "a", "am": 0}]}', "utt_id must be a string"),
    "no list": ('{"utt_id": "b"}', "has no 'nbest'"),
    "empty list": ('{"utt_id": "b", "nbest": []}', "one hypothesis or more"),
    "no object in list": ('{"utt_id": "b", "nbest": ["a"]}', "nbest[0] must be an object"),
    "no text": ('{"utt_id": "b", "nbest": [{"am": 0}]}', "nbest[0] has no 'text'"),
    "no am": ('{"utt_id": "b", "nbest": [{"text": "a"}]}', "nbest[0] has no 'am'"),
    "text": ('{"utt_id": "b", "nbest": [{"text": null, "am": 0}]}', "text must be a string"),
    "NaN": ('{"utt_id": "b", "nbest": [{"text": "a", "am": NaN}]}', "am must be a finite number"),
    "infinite": (
        '{"utt_id": "b", "nbest": [{"text": "a", "am": 0}, {"text": "b", "am": -Infinity}]}',
        "nbest[1]: am must be a finite number",
    ),
    "huge": (f'{{"utt_id": "b", "nbest": [{{"text": "a", "am": {"9" * 400}}}]}}', "am must be"),
    "digits": (
        f'{{"utt_id": "b", "nbest": [{{"text": "a", "am": {"9" * 9999}}}]}}',
        "not valid JSON",
    ),
    "half a character": (
        '{"utt_id": "b", "nbest": [{"text": "a", "am": 0}], "ref": "\\ud83d"}',
        "has half a character",
    ),
    "bool": ('{"utt_id": "b", "nbest": [{"text": "a", "am": true}]}', "am must be"),
    "string": ('{"utt_id": "b", "nbest": [{"text": "a", "am": "-1"}]}', "am must be"),
    "lm": ('{"utt_id": "b", "nbest": [{"text": "a", "am": 0, "lm": NaN}]}', "lm must be"),
    "misspelt": (
        '{"utt_id": "b", "nbest": [{"text": "a", "am": 0, "lmm": -1}]}',
        "Did you mean 'lm'?",
    ),
    "extra": (
        '{"utt_id": "b", "nbest": [{"text": "a", "am": 0, "extra": {"snr": null}}]}',
        "extra['snr'] must be",
    ),
    "extra list": ('{"utt_id": "b", "nbest": [{"text": "a", "am": 0, "extra": []}]}', "extra must"),
    "bias": ('{"utt_id": "b", "nbest": [{"text": "a", "am": 0}], "bias": "An"}', "list of phrases"),
    "phrase": ('{"utt_id": "b", "nbest": [{"text": "a", "am": 0}], "bias": [1]}', "bias must be"),
    "ref": ('{"utt_id": "b", "nbest": [{"text": "a", "am": 0}], "ref": 1}', "ref must be a string"),
    "twice": (GOOD, "utt_id 'good' stands in line 1 already"),
}


@pytest.mark.parametrize(("line", "message"), BAD.values(), ids=BAD)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "lists.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n")
    with pytest.raises(DataError) as caught:
        list(read_nbest(path))
    assert str(caught.value).startswith(f"{path}:3")
    assert message in str(caught.value)


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "lists.jsonl"
    path.write_bytes(GOOD.encode() + b'\n{"utt_id": "\xff\xfe"}\n')
    with pytest.raises(DataError, match=r"lists.jsonl:2 is not UTF-8"):
        list(read_nbest(path))


def test_an_empty_file_and_a_missing_one_are_told_apart(tmp_path):
    path = tmp_path / "lists.jsonl"
    with pytest.raises(StorageError, match="No such file"):
        list(read_nbest(path))
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no N-best list"):
        list(read_nbest(path))


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    def broken():
        yield NBest("a", (Hypothesis("x", 0.0),))
        raise DataError("the decoder stopped")

    with pytest.raises(DataError, match="the decoder stopped"):
        write_nbest(tmp_path / "lists.jsonl", broken())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("hyps", [(), []])
def test_an_empty_list_cannot_be_made(hyps):
    with pytest.raises(DataError, match="'a' is empty"):
        NBest("a", hyps)


def test_rescoring_shows_the_same_names():
    assert public.NBest is NBest
    assert public.read_nbest is read_nbest
