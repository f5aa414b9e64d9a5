"""The same text means the same, whoever reads it: preprocessing, translation, test sets."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cli.translate import read_chunks
from nmtasync.config.schema import DataConfig, DecodingConfig, ModelConfig
from nmtasync.data.corpus import PairPaths, read_lines
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.evaluation.test_sets import read_test_set
from nmtasync.evaluation.translate import Translator
from nmtasync.machine.ordered_pool import OrderedPool
from nmtasync.models.build import build_model
from nmtasync.preprocessing.clean_block import BlockCleaner
from nmtasync.preprocessing.learn_vocabulary import learn_vocabulary
from nmtasync.preprocessing.preprocess import preprocess
from nmtasync.preprocessing.staged_texts import SOURCE
from nmtasync.preprocessing.staging import stage_corpus
from nmtasync.run_directory import RunDirectory
from tests.support.command_line import CommandLine
from tests.support.toy import TOY_FLAGS

ODD = "\r\u3000\u2028\u2029\x85\x0b\x0c\x1c\x1f\xa0\u200b\ufeff\t\x01\x7f\u200e\u00ad▁"
LINES = st.text(
    st.sampled_from("ab " + ODD)
    | st.characters(exclude_categories=["Cs"], exclude_characters="\n\0")
)


def translator_with(normalization: str) -> Translator:
    options = DataConfig(vocab_size=266, normalization=normalization)
    vocabulary = learn_vocabulary(["ab ba aab", "bab abba ab"] * 20, options)
    model = ModelConfig(dimension=16, encoder_layers=1, decoder_layers=1)
    vocabularies = VocabularyPair(vocabulary, vocabulary, joint=True)
    network = build_model(model, vocabulary.size, vocabulary.size)
    return Translator(network, vocabularies, DecodingConfig())


@pytest.fixture(scope="module")
def translators() -> list[Translator]:
    return [translator_with(name) for name in ("identity", "nmt_nfkc")]


def pieces_to_translate(translator: Translator, lines: list[str]) -> dict[int, list[int]]:
    return {line: ids[:-1] for line, ids in translator._segment(lines).items()}


@example(lines=[" \ufeffa", "\u3000a\rb\u3000", "a\r\r", "\x85", ""])
@given(lines=st.lists(LINES, min_size=1, max_size=6))
def test_pieces_are_those_of_preprocessing(
    translators: list[Translator], tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    directory = tmp_path_factory.mktemp("text")
    source, target = directory / "src", directory / "tgt"
    source.write_bytes("".join(line + "\n" for line in lines).encode("utf-8"))
    target.write_text("a\n" * len(lines))
    cleaner = BlockCleaner(DataConfig(), filters=False, side_keys=False, keep_rejected=False)
    paths = [PairPaths(source, target)]
    corpus = stage_corpus("valid", paths, directory, cleaner, OrderedPool(1), lambda *_: None)
    kept: dict[int, str] = {}
    for piece in corpus.texts.pieces():
        wheres = (corpus.where(piece, i) for i in range(len(piece.pairs)))
        places = (int(where.rpartition(":")[2]) - 1 for where in wheres)
        kept |= zip(places, corpus.texts.read(piece)[0], strict=True)
    (read,) = read_chunks(io.BytesIO(source.read_bytes()))
    for translator in translators:
        ids = translator.vocabularies.source.encode(list(kept.values()))
        preprocessed = {line: pieces for line, pieces in zip(kept, ids, strict=True) if pieces}
        for given_lines in (
            read,  # `translate`
            lines,  # Python
            read_test_set("test", source, target).sources,  # `evaluate`
            [kept.get(line, "") for line in range(len(lines))],
        ):
            assert pieces_to_translate(translator, given_lines) == preprocessed
        staged = read_lines(directory / "valid" / SOURCE)  # the validator, once they are there
        assert list(pieces_to_translate(translator, staged).values()) == [*preprocessed.values()]


def test_odd_space_is_the_same_to_all_commands(
    tmp_path: Path, toy_corpus: Path, nmtasync: CommandLine
) -> None:
    """Through the command line, with a vocabulary that leaves every character as it is."""
    plain, odd = "eins zwei\ndrei vier\n", "\u3000eins\rzwei\u2028\n\ufeffdrei vier\x85\r\n"
    for name, text in (("plain", plain), ("odd", odd)):
        (tmp_path / f"{name}.src").write_bytes(text.encode("utf-8"))
        (tmp_path / f"{name}.tgt").write_bytes(b"two one\nfour three\n")
    runs = {}
    for name in ("plain", "odd"):
        pairs = {part: tmp_path / f"{name}.{part}" for part in ("src", "tgt")}
        runs[name] = RunDirectory(tmp_path / name)
        train = PairPaths(toy_corpus / "train.src", toy_corpus / "train.tgt")
        options = DataConfig(vocab_size=300, normalization="identity")
        preprocess(runs[name], [train], [PairPaths(*pairs.values())], options)
    tokens = [(run.data / "valid" / "source.tokens").read_bytes() for run in runs.values()]
    assert tokens[0] == tokens[1]
    run = runs["odd"].root
    assert nmtasync("train", run, *TOY_FLAGS, "--max-updates=1").returncode == 0
    outputs = [
        nmtasync("translate", run, "--n-best", 2, stdin=text).stdout for text in (plain, odd)
    ]
    assert outputs[0] == outputs[1] and outputs[0].count("|||") >= 4
    scored = {}
    for name in runs:
        test = ("--test", name, tmp_path / f"{name}.src", tmp_path / f"{name}.tgt")
        assert nmtasync("evaluate", run, *test).returncode == 0
        scored[name] = (run / "evaluation" / f"{name}.hyp").read_bytes()
    assert scored["plain"] == scored["odd"]


def test_text_that_no_corpus_may_hold_is_not_translated(
    tmp_path: Path, toy_run: RunDirectory, nmtasync: CommandLine
) -> None:
    assert nmtasync("train", toy_run.root, *TOY_FLAGS, "--max-updates=1").returncode == 0
    result = nmtasync("translate", toy_run.root, stdin=b"eins\nz\0w\0e\0i\0\n")
    assert result.returncode == 2 and result.stdout.count("\n") == 1
    assert "stdin:2: the line holds a NUL character" in result.stderr
