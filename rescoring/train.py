"""`python -m rescoring.train lm | word2vec | phon2vec | costs`: language models, vectors, distances of sound."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rescoring.options import refuse_inputs_as_output
from trunkline import log
from trunkline.command import Summary, run
from trunkline.errors import StorageError, UsageError

if TYPE_CHECKING:
    from rescoring.compounds import Compounds
    from rescoring.kneser_ney import Trained
    from rescoring.lm import LanguageModel
    from rescoring.word_vectors import WordVectors

logger = log.get_logger(__name__)

_SHOWN = 8  # tokens whose neighbours are shown


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(lambda arguments: arguments.function(arguments), _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rescoring.train",
        description="Train what rescores N-best lists: an n-gram language model (lm), word vectors (word2vec), "
        "vectors of syllables by their sound (phon2vec), distances of sound (costs). Text: one sentence a line; of "
        '.tsv the last column, of .jsonl "text"; .gz, .xz and .bz2 are unpacked.',
        epilog="example: python -m rescoring.train lm --text calls.txt --dev dev.txt --out calls.arpa.gz",
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    _add_lm(kinds)
    _add_word2vec(kinds)
    _add_phon2vec(kinds)
    _add_costs(kinds)
    return parser


def _add(
    kinds: Any,
    name: str,
    function: Callable[[argparse.Namespace], Summary],
    what: str,
    example: str,
) -> Callable[..., Any]:
    parser = kinds.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=f"example: {example}"
    )
    parser.set_defaults(function=function)
    option = parser.add_argument
    option("--text", nargs="+", action="extend", default=[], type=Path, metavar="FILE")
    option("--out", required=True, type=Path, metavar="PATH")
    option("--overwrite", action="store_true", help="replace what is at --out")
    return option


def _add_lm(kinds: Any) -> None:
    option = _add(
        kinds,
        "lm",
        _train_lm,
        "train an n-gram model by modified Kneser-Ney, as KenLM's lmplz does",
        "python -m rescoring.train lm --text calls.txt --dev dev.txt --out calls.arpa.gz "
        "--mix news.arpa.gz --mixture mixed.json",
    )
    option("--order", type=int, default=4, help="words in the longest n-gram (default 4)")
    option(
        "--prune",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="leave out n-grams that occur at most N times, for each length from 1 on: 0 0 1",
    )
    option(
        "--strict-discounts",
        action="store_true",
        help="fail, as lmplz does, where the text is too small to estimate discounts",
    )
    option(
        "--dev", nargs="+", type=Path, default=[], metavar="FILE", help="report perplexity on it"
    )
    option("--mix", type=Path, metavar="LM", help="another model, to be mixed with this one")
    option("--mixture", type=Path, metavar="FILE.json", help="where the mixture is written")


def _add_word2vec(kinds: Any) -> None:
    option = _add(
        kinds,
        "word2vec",
        _train_word2vec,
        "train word vectors with gensim, or import them",
        "python -m rescoring.train word2vec --text calls.txt --out vectors",
    )
    _add_settings(option, dim=100, epochs=5)
    option("--cbow", action="store_true", help="continuous bag of words instead of skip-gram")
    option(
        "--compounds",
        default="pmi",
        metavar="pmi|none|FILE",
        help="syllables to join: those that keep together (default), none, or a word list",
    )
    option("--import", dest="source", type=Path, metavar="FILE", help="vectors in word2vec format")
    option("--binary", action="store_true", help="--import is word2vec's binary format")


def _add_phon2vec(kinds: Any) -> None:
    option = _add(
        kinds,
        "phon2vec",
        _train_phon2vec,
        "train vectors of syllables that sound-alikes share, from text or N-best lists",
        "python -m rescoring.train phon2vec --nbest dev.nbest.jsonl --text calls.txt --out sounds",
    )
    _add_settings(option, dim=64, epochs=15)
    option("--nbest", nargs="+", type=Path, default=[], metavar="FILE", help="a recogniser's lists")
    option("--swap", type=float, default=0.3, help="share of syllables swapped (default 0.3)")


def _add_costs(kinds: Any) -> None:
    parser = kinds.add_parser(
        "costs",
        help="learn phonetic distances from what a recogniser confuses",
        description="Learn phonetic distances from what a recogniser confuses: each list's first text against its ref. "
        "The file serves as --dialect.",
        epilog="example: python -m rescoring.train costs --nbest dev.nbest.jsonl --out costs.json",
    )
    parser.set_defaults(function=_train_costs)
    option = parser.add_argument
    option("--nbest", nargs="+", required=True, type=Path, metavar="FILE", help="lists with ref")
    option("--out", required=True, type=Path, metavar="FILE")
    option("--overwrite", action="store_true", help="replace what is at --out")
    option("--prior", default="any", metavar="NAME", help="start from: any, north, centre, south")
    option(
        "--strength",
        type=float,
        default=20.0,
        metavar="N",
        help="confusions of a pair that weigh as much as the prior (default 20)",
    )


def _add_settings(option: Callable[..., Any], *, dim: int, epochs: int) -> None:
    option("--dim", type=int, default=dim, help=f"numbers in a vector (default {dim})")
    option("--window", type=int, default=5, help="words on each side (default 5)")
    option("--min-count", type=int, default=2, help="leave out rarer tokens (default 2)")
    option("--epochs", type=int, default=epochs, help=f"passes over the text (default {epochs})")
    option("--seed", type=int, default=1)


def _check_out(path: Path, overwrite: bool, inputs: Iterable[Path]) -> None:
    refuse_inputs_as_output(path, inputs)
    if path.exists() and not overwrite:
        raise StorageError(f"{path} exists already; choose another name or give --overwrite.")


def _read(paths: Sequence[Path], what: str = "--text") -> list[list[str]]:
    from rescoring.corpus import read_sentences

    if not paths:
        raise UsageError(f"{what} FILE is needed: there is nothing to train on.")
    bar = log.progress(read_sentences(paths), description="reading", unit="sentences")
    return list(bar)


def _train_lm(arguments: argparse.Namespace) -> Summary:
    from rescoring.arpa import write_arpa
    from rescoring.kneser_ney import FALLBACK, train
    from rescoring.lm import ArpaLM, load_lm

    out, mix, mixture = arguments.out, arguments.mix, arguments.mixture
    if (mix is None) != (mixture is None) or (mix and not arguments.dev):
        raise UsageError("A mixture needs --mix LM, --mixture FILE.json and --dev FILE together.")
    if mixture and mixture.suffix != ".json":
        raise UsageError(f"--mixture must end in .json, not {mixture.name!r}.")
    for path in filter(None, (out, mixture)):
        _check_out(path, arguments.overwrite, filter(None, (*arguments.text, *arguments.dev, mix)))
    other = load_lm(mix) if mix else None
    dev = _read(arguments.dev, "--dev") if arguments.dev else []
    start = time.perf_counter()
    sentences = _read(arguments.text)
    logger.info("estimating %d-grams of %d sentences", arguments.order, len(sentences))
    trained = train(
        sentences,
        arguments.order,
        prune=arguments.prune,
        fallback=None if arguments.strict_discounts else FALLBACK,
    )
    model = ArpaLM(trained.ngrams)
    logger.info("writing %s", out)
    if _is_arpa(out):
        write_arpa(trained.ngrams, out)
    else:
        about = {"training": {"order": arguments.order, "prune": arguments.prune}}
        model.save(out, overwrite=arguments.overwrite, **about)
    seconds = time.perf_counter() - start
    summary: Summary = {
        "out": out,
        "sentences": trained.sentences,
        "words": trained.words,
        "vocabulary": len(trained.ngrams.vocabulary),
        "seconds": seconds,
        "words_per_second": round(trained.words / seconds),
    }
    tables = {"N-grams": _ngram_rows(trained)}
    if dev:
        models: dict[str, LanguageModel] = {out.name: model}
        if other is not None:
            models |= _mix(model, other, dev, arguments)
            summary["mixture"] = mixture
            summary["weight_of_first"] = getattr(models["mixture"], "weight")  # noqa: B009
        tables["Perplexity on --dev"] = [
            {"model": name} | found.perplexity(dev)._asdict() for name, found in models.items()
        ]
    return summary | {"tables": tables}


def _is_arpa(path: Path) -> bool:
    return path.name.endswith((".arpa", ".arpa.gz"))


def _mix(
    model: LanguageModel, other: LanguageModel, dev: list[list[str]], arguments: argparse.Namespace
) -> dict[str, LanguageModel]:
    """Write the mixture of the new model and another one, its weight tuned on dev; return both."""
    from rescoring.mixture import Interpolated, write_mixture

    mixed = Interpolated(model, other).tuned(dev)
    write_mixture(arguments.mixture, (arguments.out, arguments.mix), mixed.weight)
    return {arguments.mix.name: other, "mixture": mixed}


def _ngram_rows(trained: Trained) -> list[dict[str, Any]]:
    rows = []
    for n, (order, discounts) in enumerate(
        zip(trained.ngrams.orders, trained.discounts, strict=True), start=1
    ):
        named = dict(zip(("D1", "D2", "D3+"), discounts, strict=True))
        kind = "fallback" if n in trained.fallbacks else "estimated"
        rows.append({"order": n, "n_grams": len(order.word)} | named | {"discounts": kind})
    return rows


def _train_word2vec(arguments: argparse.Namespace) -> Summary:
    from rescoring.semantic import SemanticModel, import_vectors, imported_model, train_word2vec

    inputs = [*arguments.text, *([arguments.source] if arguments.source else [])]
    _check_out(arguments.out, arguments.overwrite, inputs)
    if arguments.source is not None:
        if arguments.text:
            raise UsageError("--import and --text exclude each other.")
        model = imported_model(import_vectors(arguments.source, binary=arguments.binary))
        model.save(arguments.out, overwrite=arguments.overwrite)
        return {
            "out": arguments.out,
            "tokens": len(model.vectors),
            "dim": model.vectors.dim,
            "compounds": len(model.compounds),
        }
    config = _config(arguments, skip_gram=not arguments.cbow)
    start = time.perf_counter()
    sentences = _read(arguments.text)
    compounds = _compounds(arguments.compounds, sentences)
    joined = [compounds.join(sentence) for sentence in sentences]
    with log.progress(total=config.epochs, description="training", unit="epochs") as bar:
        vectors = train_word2vec(joined, config, progress=bar.advance)
    SemanticModel(vectors, compounds).save(arguments.out, overwrite=arguments.overwrite)
    tokens = sum(map(len, joined))
    covered = Counter(token in vectors for sentence in joined for token in sentence)[True]
    return {
        "out": arguments.out,
        "sentences": len(sentences),
        "words": sum(map(len, sentences)),
        "compounds": len(compounds),
        "tokens": tokens,
        "vocabulary": len(vectors),
        "covered": covered / tokens,
        "seconds": time.perf_counter() - start,
        "tables": {"Nearest to frequent tokens": _neighbours(vectors)},
    }


def _compounds(choice: str, sentences: list[list[str]]) -> Compounds:
    from rescoring.compounds import Compounds
    from rescoring.corpus import read_lines
    from rescoring.semantic import find_compounds

    if choice == "none":
        return Compounds([])
    return (
        find_compounds(sentences) if choice == "pmi" else Compounds.from_lines(read_lines(choice))
    )


def _config(arguments: argparse.Namespace, *, skip_gram: bool = True) -> Any:
    from rescoring.semantic import Word2VecConfig

    return Word2VecConfig(
        dim=arguments.dim,
        window=arguments.window,
        min_count=arguments.min_count,
        epochs=arguments.epochs,
        seed=arguments.seed,
        skip_gram=skip_gram,
    )


def _neighbours(vectors: WordVectors) -> list[dict[str, str]]:
    # The most frequent tokens are function words; those that follow say more.
    start = min(len(vectors) // 10, 100)
    return [
        {"token": token, "nearest": ", ".join(near for near, _ in vectors.nearest(token))}
        for token in vectors.tokens[start : start + _SHOWN]
    ]


def _train_phon2vec(arguments: argparse.Namespace) -> Summary:
    from rescoring.phon2vec import Phon2Vec, Swapped, measure_gate, nbest_slots, sound_alike_slots
    from rescoring.semantic import train_word2vec
    from trunkline.nbest import read_nbest

    if not 0.0 <= arguments.swap < 1.0:
        raise UsageError(f"--swap must be from 0 to 1, not {arguments.swap}.")
    if not arguments.text and not arguments.nbest:
        raise UsageError("--text FILE or --nbest FILE is needed: there is nothing to train on.")
    _check_out(arguments.out, arguments.overwrite, [*arguments.text, *arguments.nbest])
    start = time.perf_counter()
    config = _config(arguments)
    slots = [slots for path in arguments.nbest for slots in nbest_slots(read_nbest(path))]
    lists = len(slots)
    if arguments.text:
        slots += sound_alike_slots(_read(arguments.text))
    swapped = Swapped(slots, arguments.swap, arguments.seed)
    with log.progress(total=config.epochs, description="training", unit="epochs") as bar:
        vectors = train_word2vec(swapped, config, progress=bar.advance)
    gate = measure_gate(vectors)
    vectors.about["training"] |= {"swap": arguments.swap, "lists": lists}
    Phon2Vec(vectors, gate).save(arguments.out, overwrite=arguments.overwrite)
    return {
        "out": arguments.out,
        "sentences": len(slots),
        "lists": lists,
        "vocabulary": len(vectors),
        "gate": gate._asdict(),
        "seconds": time.perf_counter() - start,
        "tables": {"Nearest to frequent tokens": _neighbours(vectors)},
    }


def _train_costs(arguments: argparse.Namespace) -> Summary:
    from rescoring.confusions import aligned_pairs, learn_costs, save_costs
    from rescoring.costs import default_costs
    from trunkline.nbest import read_nbest

    _check_out(arguments.out, arguments.overwrite, arguments.nbest)
    prior = default_costs(arguments.prior)
    lists = [x for path in arguments.nbest for x in read_nbest(path) if x.ref is not None]
    pairs = [pair for x in lists for pair in aligned_pairs(x.ref or "", x.texts[0], prior)]
    costs = learn_costs(pairs, arguments.strength, prior=prior)
    save_costs(arguments.out, costs)
    moved = [
        {"part": part, "a": a or "-", "b": b or "-", "before": prior.part(part, a, b), "now": cost}
        for part, table in costs.tables.items()
        for (a, b), cost in table.items()
        if a < b
    ]
    moved.sort(key=lambda row: -abs(row["now"] - row["before"]))
    return {
        "out": arguments.out,
        "lists": len(lists),
        "pairs": len(pairs),
        "unequal": sum(a != b for a, b in pairs),
        "tables": {"Costs that moved most": moved[:_SHOWN]},
    }


if __name__ == "__main__":
    raise SystemExit(main())
