"""Word vectors: what they say of a text, how they are trained, kept and imported, and that no pickle is opened."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rescoring.compounds import Compounds
from rescoring.phon2vec import (
    Gate,
    Phon2Vec,
    Swapped,
    measure_gate,
    nbest_slots,
    sound_alike_slots,
    to_token,
    to_word,
)
from rescoring.semantic import (
    SemanticModel,
    Word2VecConfig,
    find_compounds,
    import_vectors,
    imported_model,
    train_word2vec,
)
from rescoring.word_vectors import WordVectors
from trunkline.errors import CheckpointError, ConfigError, DataError, StorageError
from trunkline.nbest import Hypothesis, NBest

ROOT = Path(__file__).parent.parent
BANK = ["ngân", "hàng", "khóa", "thẻ", "tài", "khoản", "tiền"]
WEATHER = ["trời", "mưa", "nắng", "gió", "bão"]


def sentences(count: int = 400) -> list[list[str]]:
    """Two topics that share no word."""
    rng = np.random.default_rng(0)
    return [list(rng.choice(BANK if i % 2 else WEATHER, 6)) for i in range(count)]


@pytest.fixture(scope="module")
def trained() -> WordVectors:
    return train_word2vec(sentences(1500), Word2VecConfig(dim=16, epochs=20))


@pytest.fixture
def toy() -> SemanticModel:
    matrix = np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]], dtype=np.float32)
    return SemanticModel(WordVectors(["thẻ", "mưa", "tiền"], matrix))


def test_coherence_is_words_times_the_mean_cosine_of_known_pairs(toy):
    root = np.sqrt(0.5)
    texts = ["thẻ tiền", "thẻ mưa tiền", "thẻ xyz tiền", "thẻ thẻ", "thẻ", "xyz", "", "THẺ, tiền!"]
    expected = [2 * root, 3 * (0 + root + root) / 3, 3 * root, 2, 0, 0, 0, 2 * root]
    assert toy.coherence(texts) == pytest.approx(expected, abs=1e-6)


def test_context_is_words_times_the_cosine_of_the_mean_vectors(toy):
    texts = ["thẻ tiền", "mưa mưa", "thẻ mưa xyz", "thẻ", ""]
    mean = np.array([1 + np.sqrt(0.5), np.sqrt(0.5)])
    expected = [2 * mean[0] / np.linalg.norm(mean), 0, 3 * np.sqrt(0.5), 0, 0]
    assert toy.context(texts, "thẻ") == pytest.approx(expected, abs=1e-6)
    assert toy.context(texts, "").tolist() == [0.0] * 5
    assert toy.context(texts, "xyz ...").tolist() == [0.0] * 5
    assert toy.coherence([]).shape == toy.context([], "thẻ").shape == (0,)


@given(st.lists(st.sampled_from(["thẻ", "mưa", "tiền", "xyz"]), min_size=2, max_size=8))
def test_coherence_does_not_depend_on_order_and_grows_with_length(words):
    matrix = np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]], dtype=np.float32)
    model = SemanticModel(WordVectors(["thẻ", "mưa", "tiền"], matrix))
    text, turned = " ".join(words), " ".join(reversed(words))
    one, other, longer = model.coherence([text, turned, f"{text} xyz"])
    assert one == pytest.approx(other, abs=1e-9)
    assert longer == pytest.approx(one * (len(words) + 1) / len(words), abs=1e-9)
    assert abs(one) <= len(words) + 1e-9


def test_texts_of_one_topic_score_above_mixed_ones(trained):
    model = SemanticModel(trained)
    # Not the same number for every text, as the length of a normalised mean would be.
    coherent, mixed = model.coherence(["khóa thẻ ngân hàng", "khóa mưa ngân gió"])
    assert coherent > mixed + 0.5
    card, storm = model.context(["khóa thẻ", "mưa gió"], "tài khoản ngân hàng")
    assert card > storm + 0.2


def test_training_passes_over_the_text_once_for_each_epoch():
    # `Word2Vec(sentences)` trains already; a call of `train` after it would pass over it again.
    class Counted:
        passes = 0

        def __iter__(self):
            Counted.passes += 1
            return iter(sentences(60))

    epochs = []
    train_word2vec(
        Counted(), Word2VecConfig(dim=4, epochs=3), progress=lambda: epochs.append(Counted.passes)
    )
    assert Counted.passes == 1 + 3
    assert epochs == [2, 3, 4]


TRAIN = """
import sys, numpy as np
from rescoring.semantic import *
rng = np.random.default_rng(0)
text = [[f"w{x}" for x in rng.integers(0, 50, 8)] for _ in range(200)]
compounds = find_compounds(text, min_count=1, threshold=-0.5)
vectors = train_word2vec([compounds.join(x) for x in text], Word2VecConfig(dim=8, epochs=2))
SemanticModel(vectors, compounds).save(sys.argv[1])
"""


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path):
    for number in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", TRAIN, tmp_path / number],
            check=True,
            cwd=ROOT,
            env={"PYTHONHASHSEED": number, "PATH": "", "PYTHONPATH": str(ROOT)},
        )
    for name in ("vectors.npy", "index.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_settings_and_text_that_cannot_be_trained_are_refused():
    with pytest.raises(ConfigError, match="dim must be 1 or more"):
        Word2VecConfig(dim=0)
    with pytest.raises(DataError, match="No token comes 2 times"):
        train_word2vec([["a", "b"]])


def test_a_saved_model_scores_the_same_and_tells_how_it_was_made(trained, tmp_path):
    model = SemanticModel(trained, Compounds([["ngân", "hàng"]]))
    model.save(tmp_path / "v")
    again = SemanticModel.load(tmp_path / "v", dim=16)
    texts = ["khóa thẻ ngân hàng", "mưa"]
    assert np.array_equal(again.coherence(texts), model.coherence(texts))
    assert again.compounds.parts == {("ngân", "hàng")}
    about = json.loads((tmp_path / "v" / "index.json").read_text(encoding="utf-8"))
    assert (about["dim"], about["metric"]) == (16, "cosine")
    assert about["training"]["epochs"] == 20
    assert len(about["arrays"]["vectors"]["sha256"]) == 64


def test_vectors_of_another_dimension_and_altered_folders_are_refused(trained, tmp_path):
    folder = tmp_path / "v"
    trained.save(folder)
    with pytest.raises(CheckpointError, match=r"shape \(\d+, 16\), but dimension 32"):
        WordVectors.load(folder, dim=32)
    with pytest.raises(StorageError, match="exists already"):
        trained.save(folder)
    index = folder / "index.json"
    about = json.loads(index.read_text(encoding="utf-8"))
    for change, message in (
        ({"tokens": about["tokens"][:-1]}, "do not fit"),
        ({"tokens": [about["tokens"][1], *about["tokens"][1:]]}, "comes twice"),
        ({"dim": 8}, "dimension 8 is wanted"),
        ({"schema": "other/1"}, "is needed"),
        ({"compounds": 3}, "compounds must be"),
    ):
        index.write_text(json.dumps(about | change), encoding="utf-8")
        with pytest.raises(CheckpointError, match=message):
            SemanticModel.load(folder)
    index.write_text(json.dumps(about), encoding="utf-8")
    np.save(folder / "vectors.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="altered"):
        SemanticModel.load(folder)
    (folder / "vectors.npy").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        SemanticModel.load(folder)
    with pytest.raises(StorageError, match="no folder"):
        SemanticModel.load(tmp_path / "none")


def test_an_array_of_objects_is_refused_even_with_its_right_sum(trained, tmp_path):
    from trunkline.checkpoint import sha256_file

    trained.save(tmp_path / "v")
    path = tmp_path / "v" / "vectors.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    index = tmp_path / "v" / "index.json"
    about = json.loads(index.read_text(encoding="utf-8"))
    about["arrays"]["vectors"]["sha256"] = sha256_file(path)
    index.write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(CheckpointError, match="no .npy file of numbers"):
        SemanticModel.load(tmp_path / "v")


def test_compounds_are_joined_longest_first_and_found_by_their_company():
    compounds = Compounds.from_lines(["ngân hàng", "ngân hàng nhà nước", "thẻ", "nhà nước"])
    assert len(compounds) == 3
    assert compounds.join(["ngân", "hàng", "nhà", "nước", "và", "ngân", "hàng"]) == [
        "ngân_hàng_nhà_nước",
        "và",
        "ngân_hàng",
    ]
    assert compounds.join(["hàng", "ngân", "nhà"]) == ["hàng", "ngân", "nhà"]
    rng = np.random.default_rng(1)
    text = [[*rng.choice(WEATHER, 3), "tài", "khoản", *rng.choice(WEATHER, 3)] for _ in range(100)]
    assert find_compounds(text, min_count=5).parts == {("tài", "khoản")}


def test_a_compound_without_a_vector_is_read_as_its_syllables(trained):
    model = SemanticModel(trained, Compounds([["ngân", "hàng"]]))
    assert "ngân_hàng" not in trained
    assert model.tokens("ngân hàng") == ["ngân", "hàng"]


def write_text(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_word2vec_text_and_binary_and_fasttext_text_are_imported(trained, tmp_path):
    from gensim.models import KeyedVectors

    peer = KeyedVectors(trained.dim)
    peer.add_vectors(trained.tokens, np.asarray(trained.matrix))
    peer.save_word2vec_format(tmp_path / "v.txt")
    peer.save_word2vec_format(tmp_path / "v.bin", binary=True)
    for found in (
        import_vectors(tmp_path / "v.txt"),
        import_vectors(tmp_path / "v.bin", binary=True),
    ):
        assert found.tokens == trained.tokens
        assert found.matrix == pytest.approx(np.asarray(trained.matrix), abs=1e-6)
    # fastText ends its lines with a space.
    path = write_text(tmp_path / "cc.vec", ["2 2", "tài_khoản 1 0 ", "thẻ 0.5 0.5 "])
    model = imported_model(import_vectors(path))
    assert model.tokens("tài khoản thẻ") == ["tài_khoản", "thẻ"]
    assert model.coherence(["tài khoản thẻ"]) == pytest.approx([3 * np.sqrt(0.5)])
    assert import_vectors(path, limit=1).tokens == ["tài_khoản"]


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("bomb-went-off"),))


@pytest.mark.parametrize("name", ["a.kv", "a.model", "a.txt", "a.bin"])
def test_a_pickle_is_refused_under_any_name_and_never_opened(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocol in (0, 2, 4, 5) if name in ("a.kv", "a.model") else (2, 4, 5):
        Path(name).write_bytes(pickle.dumps(Bomb(), protocol=protocol))
        with pytest.raises(DataError, match=r"is a pickle .*save_word2vec_format"):
            import_vectors(name, binary=name == "a.bin")
    assert not Path("bomb-went-off").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["hello"], r":1 must have the number of vectors"),
        (["2 x"], r":1 must have the number of vectors"),
        (["2 2", "a 1 0"], r":1 says 2 vectors, but 1 follow"),
        (["1 2", "a 1 0", "b 0 1"], r":1 says 1 vectors, but 2 follow"),
        (["2 2", "a 1 0", "b 1 0 0"], r":3 has 3 numbers after its token, the header says 2"),
        (["1 2", "tài khoản 1 0"], r":2 has 3 numbers .*must not have a space"),
        (["1 2", "a 1 zero"], r":2: could not convert"),
        (["1 2", "a 1 inf"], r":2 has a number that is not finite"),
    ],
)
def test_a_faulty_vector_file_is_refused_with_its_line(lines, message, tmp_path):
    with pytest.raises(DataError, match=message):
        import_vectors(write_text(tmp_path / "v.txt", lines))


def test_other_things_that_are_no_vectors_are_refused(tmp_path):
    path = tmp_path / "v"
    for content, message in (
        (b"PK\x03\x04....", "zip archive"),
        (b"\xba\x16\x4f\x2f\x0c\x00\x00\x00", "fastText's own binary"),
        (b"1 2\nkho\xff 1 0\n", r":2 is not UTF-8"),
        (b"", r":1 must have"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            import_vectors(path)
    path.write_bytes(b"2 4\na " + np.zeros(3, np.float32).tobytes())
    with pytest.raises(DataError, match="no word2vec binary file"):
        import_vectors(path, binary=True)
    with pytest.raises(StorageError, match="no such file"):
        import_vectors(tmp_path / "none.txt")


# Phon2Vec


def test_tokens_carry_their_class_and_their_tone():
    assert [to_token(x) for x in ("mĩ", "mix", "tài", "2020")] == [
        "v:mix",
        "f:mix",
        "v:taif",
        "f:2020",
    ]
    assert to_word("v:taif") == "tài"
    assert to_word("f:mix") == "mix"


def test_slots_hold_syllables_of_the_same_code_or_of_the_same_place():
    (slots,) = sound_alike_slots([["sông", "xong", "bàn", "mix"]])
    assert slots == [
        ("v:soong", ("v:xong",)),
        ("v:xong", ("v:soong",)),
        ("v:banf", ()),
        ("f:mix", ()),
    ]
    hyps = tuple(Hypothesis(x, 0.0) for x in ("tôi khóa thẻ", "tôi khoá thể", "tôi hóa thẻ nhé"))
    (slots,) = nbest_slots([NBest("u1", hyps)])
    assert [token for token, _ in slots] == ["v:tooi", "v:khoas", "v:ther"]
    assert "v:hoas" in slots[1][1]
    assert "v:theer" in slots[2][1]
    assert nbest_slots([NBest("u2", (Hypothesis("", 0.0), Hypothesis("a", -1.0)))]) == []


@settings(max_examples=20)
@given(st.integers(0, 5), st.sampled_from([0.0, 0.5, 0.99]))
def test_swaps_stay_in_their_slot_and_repeat_with_the_seed(seed, share):
    slots = sound_alike_slots([["sông", "xong", "song", "bàn"]] * 3)
    one, other = Swapped(slots, share, seed), Swapped(slots, share, seed)
    passes = [list(one), list(one)]
    assert passes == [list(other), list(other)]
    allowed = [{token, *others} for token, others in slots[0]]
    full = [x for x in passes[0] if len(x) == 4]
    assert len(full) == 3
    assert all(token in choices for x in full for token, choices in zip(x, allowed, strict=True))
    if share == 0.0:
        assert full[0] == [token for token, _ in slots[0]]


def sounds() -> list[str]:
    """Syllables of 6 onsets, 4 rimes and 4 tones: many sound alike, many do not."""
    rimes = ("àn", "àng", "án", "áng", "ơn", "ớn", "ic", "íc", "ông", "ống", "ong", "óng")
    return [onset + rime for onset in ("s", "x", "tr", "ch", "m", "l", "n") for rime in rimes]


def test_vectors_that_know_sounds_pass_the_gate_and_random_ones_do_not(tmp_path):
    rng = np.random.default_rng(0)
    text = [list(rng.choice(sounds(), 5)) for _ in range(1500)]
    slots = sound_alike_slots(text)
    vectors = train_word2vec(Swapped(slots), Word2VecConfig(dim=32, epochs=20))
    gate = measure_gate(vectors)
    assert gate.is_open
    model = Phon2Vec(vectors, gate)
    model.save(tmp_path / "p")
    again = Phon2Vec.load(tmp_path / "p")
    assert again.gate == gate
    assert again.similarity("sông", "xong") == model.similarity("sông", "xong")
    assert again.similarity("sông", "xong") > again.similarity("sông", "mán")

    noise = WordVectors(vectors.tokens, rng.normal(size=(len(vectors), 8)).astype(np.float32))
    failed = measure_gate(noise)
    assert failed.triples >= 100
    assert 0.3 < failed.passed < 0.7
    with pytest.raises(DataError, match="sound triples right; 90% of at least 100 are needed"):
        Phon2Vec(noise, failed)
    noise.about["gate"] = failed._asdict()
    noise.save(tmp_path / "noise")
    with pytest.raises(DataError, match="sound triples right"):
        Phon2Vec.load(tmp_path / "noise")
    vectors.save(tmp_path / "plain")
    with pytest.raises(CheckpointError, match="no Phon2Vec"):
        Phon2Vec.load(tmp_path / "plain")


def test_words_without_a_vector_fall_back_to_the_cost_tables():
    vectors = WordVectors(["v:soong", "v:xong"], np.eye(2, dtype=np.float32))
    model = Phon2Vec(vectors, Gate(1.0, 1000))
    assert model.word_similarity("sông", "xong") == 0.0  # the vectors' own
    assert model.word_similarity("sàn", "xàn") > 0.9
    assert model.word_similarity("sàn", "xàn") > model.word_similarity("sàn", "mít")
    assert model.word_similarity("mix", "mix") == 1.0
    assert model.word_similarity("mix", "mĩ") == 0.0
    assert model.similarity("sàn nhà", "xàn nhà") > 0.95
    assert model.similarity("sàn", "sàn nhà") == pytest.approx(0.5)
    assert model.similarity("", "") == 1.0
    assert model.similarity("", "a") == 0.0
    assert model.score(["sàn nhà", "mít"], "sàn nhà")[0] == pytest.approx(2.0)


def test_a_text_without_syllables_has_no_triples():
    vectors = WordVectors(["f:a", "f:b"], np.eye(2, dtype=np.float32))
    assert measure_gate(vectors) == Gate(0.0, 0)
