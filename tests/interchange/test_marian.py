"""Networks as Marian has them: there, and back."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from nmtasync.run_directory import RunDirectory
from tests.support.command_line import one_line, succeeded
from tests.support.interchange import (
    MOST_PIECES,
    Pairs,
    assert_same_but_for_ties,
    assert_same_parameters,
    our_scores,
)
from tests.support.opus import learn_models
from tests.support.toy import TOY_FLAGS

pytestmark = [pytest.mark.slow, pytest.mark.processes]

RECURRENT = {
    "type": "rnn",
    "heads": None,
    "feed_forward": None,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "layer_normalization": "none",
    "state_bias": False,
    "attention_width": "source",
    "scale_embeddings": False,
}
FITTING = {
    "post-norm": {"norm": "post"},
    "deep encoder": {
        "norm": "post",
        "activation": "swish",
        "encoder_layers": 3,
        "decoder_layers": 1,
    },
    "pre-norm": {"norm": "pre"},
    "pre-norm, swish": {"norm": "pre", "activation": "swish", "tied_embeddings": "none"},
    "SSRU": {"norm": "post", "decoder": "ssru", "ssru_bias": False},
    "pre-norm, SSRU": {"norm": "pre", "decoder": "ssru", "ssru_bias": False},
    "recurrent": RECURRENT,
    "recurrent, deep decoder": {
        **RECURRENT,
        "state_dimension": 24,
        "decoder_layers": 3,
        "decoder_base_cell_depth": 4,
        "tied_embeddings": "target",
    },
    "recurrent, without residuals": {
        **RECURRENT,
        "decoder_layers": 2,
        "residual_connections": False,
        "tied_embeddings": "none",
    },
    "two vocabularies": {"norm": "post", "tied_embeddings": "target"},
    "three matrices": {"norm": "post", "tied_embeddings": "none"},
}
QUIET = ("--quiet", "--cpu-threads", 1, "-w", 300)


def marian(*arguments, stdin=""):
    """Run Marian; returns what it prints."""
    pytest.importorskip("pymarian")
    command = [sys.executable, "-m", "pymarian", *map(str, [*arguments, *QUIET])]
    ended = subprocess.run(command, input=stdin.encode(), capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout.decode()


def decode(out, lines, *arguments):
    """Decode greedily; returns the pieces of each line, its end too, and log probabilities."""
    flags = ["--config", out / "decoder.yml", "--beam-size", 1, "--n-best", "--word-scores"]
    flags += ["--no-spm-decode", "--max-length", 200, "--allow-special"]
    printed = marian("decode", *flags, *arguments, stdin="".join(f"{line}\n" for line in lines))
    for line in printed.splitlines():
        _, pieces, scores, *_ = line.split(" ||| ")
        yield [*pieces.split(" "), "</s>"], [float(score) for score in scores.split()[1:]]


def assert_same_scores(out, scored, pairs, vocabularies=()):
    """Compare the scores of given translations, but for their ends, which Marian goes beyond."""
    lines = map("\t".join, zip(pairs.source, pairs.target, strict=True))
    flags = ("--force-decode", "--tsv", "--tsv-fields", 2, *vocabularies)
    for ours, (_, scores) in zip(scored, decode(out, lines, *flags), strict=True):
        known = ours.piece_scores[:-1]
        assert scores[: len(known)] == pytest.approx(known, abs=1e-4)


@pytest.mark.parametrize("options", FITTING.values(), ids=FITTING)
def test_marian_scores_and_translates_alike(options, make_run, pairs, tmp_path, nmtasync):
    run, out, back = make_run(**options, zero_start=True), tmp_path / "out", tmp_path / "back"
    succeeded(nmtasync("export", run.root, "--format", "marian", "-o", out))
    assert_same_scores(out, our_scores(run, pairs), pairs)
    theirs = [pieces for pieces, _ in decode(out, pairs.source)]
    never = {"<pad>", "<s>"}  # which Marian lets networks predict
    same = [i for i, pieces in enumerate(theirs) if not never.intersection(pieces[:MOST_PIECES])]
    assert len(same) > 100
    assert_same_but_for_ties(run, [pairs.source[i] for i in same], [theirs[i] for i in same])
    succeeded(nmtasync("import", back, out / "model.npz", "--from", "marian"))
    assert_same_parameters(run, RunDirectory(back))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"zero_start": False}, "zero_start"),
        ({"decoder": "ssru"}, "ssru_bias"),
        ({"activation": "gelu"}, "activation"),
        ({"positions": "rotary"}, "positions"),
        ({**RECURRENT, "norm": "pre", "encoder_layers": 2}, "encoder_layers"),
        ({**RECURRENT, "norm": "pre", "layer_normalization": "layers"}, "layer_normalization"),
        ({**RECURRENT, "norm": "pre", "state_bias": True}, "state_bias"),
        ({**RECURRENT, "norm": "pre", "zero_start": False}, "zero_start"),
    ],
)
def test_what_marian_has_no_place_for_is_refused(options, key, make_run, tmp_path, nmtasync):
    run, out = make_run(**{"zero_start": True, "norm": "post", **options}), tmp_path / "out"
    refused = nmtasync("export", run.root, "--format", "marian", "-o", out)
    assert refused.returncode == 2 and not out.exists()
    assert one_line(refused.stderr).startswith(f"nmtasync: error: model.{key}: is ")


@dataclass(frozen=True)
class Trained:
    """What Marian has trained, with a vocabulary as OPUS-MT has it.

    Attributes:
        out: The directory.
        texts: Source and target that it was trained on, cut up.
        log: What Marian has told.
    """

    out: Path
    texts: list[Path]
    log: str

    def cut(self, lines, side):
        """Cut lines up as the model of a side does."""
        model = str(self.out / f"{side}.spm")
        processor = sentencepiece.SentencePieceProcessor(model_file=model)
        return [" ".join(pieces) for pieces in processor.encode(list(lines), out_type=str)]


SIZES = (
    *("--transformer-heads", 4, "--transformer-dim-ffn", 48),
    *("--enc-depth", 2, "--dec-depth", 1),
)
TRANSFORMER, NEW = (("--type", kind, *SIZES) for kind in ("transformer", "transformer-new"))
S2S = ("--type", "s2s", "--dim-rnn", 24)
RELU = ("--transformer-ffn-activation", "relu")
TIED, TIED_TARGET = ("--tied-embeddings-all",), ("--tied-embeddings",)


@pytest.fixture
def train_marian(make_run, tmp_path):
    """Train a network by Marian for some batches."""

    def train(*options, lacking=3):
        out, data = tmp_path / "marian", make_run().root / "data/valid"
        out.mkdir()
        tokens = learn_models(out, [data / "source.txt", data / "target.txt"], lacking)
        spelled = (token.replace("\\", "\\\\").replace('"', '\\"') for token in tokens)
        lines = [f'"{token}": {i}\n' for i, token in enumerate(spelled)]
        (out / "opus.vocab.yml").write_text("".join(lines), "utf-8")
        trained = Trained(out, [out / "text.source", out / "text.target"], "")
        for text in trained.texts:
            side = text.suffix[1:]
            plain = (data / f"{side}.txt").read_text("utf-8").splitlines()
            text.write_text("".join(f"{line}\n" for line in trained.cut(plain, side)), "utf-8")
        vocabularies = [out / "opus.vocab.yml"] * 2
        marian(
            *(*options, "--model", out / "model.npz", "--vocabs", *vocabularies, "--dim-emb", 32),
            *("--train-sets", *trained.texts, "--valid-sets", *trained.texts),
            *("--valid-metrics", "ce-mean-words", "--valid-freq", "40u"),
            *("--valid-log", out / "valid.log", "--valid-max-length", 1000),
            *("--after-batches", 40, "--mini-batch", 4, "--max-length", 200),
            *("--seed", 1, "--learn-rate", 0.01),
        )
        return replace(trained, log=(out / "valid.log").read_text("utf-8"))

    return train


@pytest.mark.parametrize("options", [(*TRANSFORMER, *RELU), S2S], ids=["Transformer", "recurrent"])
def test_what_marian_has_trained_scores_alike(options, train_marian, pairs, tmp_path, nmtasync):
    trained, run = train_marian(*options, *TIED), tmp_path / "imported"
    succeeded(nmtasync("import", run, trained.out / "model.npz", "--from", "marian"))
    pairs = without_unknown(our_scores(RunDirectory(run), pairs), pairs)
    cut = Pairs(trained.cut(pairs.source, "source"), trained.cut(pairs.target, "target"))
    (trained.out / "decoder.yml").write_text("relative-paths: true\nmodels: [model.npz]\n", "utf-8")
    vocabularies = ["--vocabs", *[trained.out / "opus.vocab.yml"] * 2]
    assert_same_scores(trained.out, our_scores(RunDirectory(run), pairs), cut, vocabularies)
    out, again = tmp_path / "out", tmp_path / "again"
    succeeded(nmtasync("export", run, "--format", "marian", "-o", out))
    assert_same_scores(out, our_scores(RunDirectory(run), pairs), pairs)
    succeeded(nmtasync("import", again, out / "model.npz", "--from", "marian"))
    assert_same_parameters(RunDirectory(run), RunDirectory(again))


def without_unknown(scored, pairs):
    """The pairs whose targets have no piece that the network lacks, which Marian can't force."""
    rows = zip(scored, pairs.source, pairs.target, strict=True)
    kept = [
        (source, target)
        for score, source, target in rows
        if min(score.piece_scores) > -1000.0 and "<unk>" not in score.pieces
    ]
    assert len(kept) > 80
    return Pairs(*map(list, zip(*kept, strict=True)))


PRE_NORM = (
    *("--transformer-preprocess", "n", "--transformer-postprocess", "da"),
    *("--transformer-postprocess-top", "n"),
)
SSRU = ("--transformer-decoder-autoreg", "rnn", "--dec-cell", "ssru")
DEEP = ("--dec-depth", 2, "--dec-cell-base-depth", 4, "--skip")
TRAINED = {
    "post-norm": (*TRANSFORMER, *TIED),
    "three matrices": TRANSFORMER,
    "pre-norm": (*TRANSFORMER, *PRE_NORM, *TIED),
    "SSRU": (*TRANSFORMER, *SSRU, *TIED),
    "pre-norm, SSRU": (*TRANSFORMER, *PRE_NORM, *SSRU, *TIED_TARGET),
    "new": (*NEW, *TIED),
    "new, pre-norm, relu": (*NEW, *PRE_NORM, *RELU, *TIED),
    "recurrent": (*S2S, *TIED),
    "recurrent, deep decoder": (*S2S, *DEEP, *TIED_TARGET),
    "recurrent, three matrices": S2S,
}


@pytest.mark.parametrize("options", TRAINED.values(), ids=TRAINED)
def test_marians_own_validation_comes_to_the_same(options, train_marian, tmp_path, nmtasync):
    trained, run = train_marian(*options, lacking=0), tmp_path / "imported"
    succeeded(nmtasync("import", run, trained.out / "model.npz", "--from", "marian"))
    data = trained.out.parent / "run/data/valid"
    sides = [(data / f"{s}.txt").read_text("utf-8").splitlines() for s in ("source", "target")]
    scored = our_scores(RunDirectory(run), Pairs(*sides))
    assert min(score for each in scored for score in each.piece_scores) > -1000.0
    mean = -sum(each.score for each in scored) / sum(len(each.pieces) for each in scored)
    theirs = float(re.findall(r"ce-mean-words : ([0-9.]+)", trained.log)[-1])
    assert mean == pytest.approx(theirs, abs=1e-4)


def test_a_recurrent_network_of_marians_is_fine_tuned(
    train_marian, pairs, tmp_path, nmtasync, toy_corpus
):
    trained, run = train_marian(*S2S, *TIED), tmp_path / "tuned"
    imported, out = tmp_path / "imported", tmp_path / "out"
    succeeded(nmtasync("import", imported, trained.out / "model.npz", "--from", "marian"))
    train, valid = (
        (toy_corpus / f"{part}.src", toy_corpus / f"{part}.tgt") for part in ("train", "valid")
    )
    flags = ["--vocab-from", imported, "--train", *train, "--valid", *valid]
    succeeded(nmtasync("preprocess", run, *flags))
    flags = [flag for flag in TOY_FLAGS if "model." not in flag]
    succeeded(nmtasync("train", run, *flags, "--max-updates", 2, "--init-from", imported))
    succeeded(nmtasync("export", run, "--format", "marian", "-o", out))
    theirs = [pieces for pieces, _ in decode(out, pairs.source)]
    assert_same_but_for_ties(RunDirectory(run), pairs.source, theirs)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("type: transformer", "type: amun"),
        ("transformer-pool: false", "transformer-pool: true"),
        ("enc-depth: 2", "enc-depth: 99"),
        ("dim-emb: 32", "dim-emb: 99998"),
        ("dim-emb: 32", "dim-emb: [32"),
        ("transformer-ffn-activation: swish", "transformer-ffn-activation: gelu"),
        ("transformer-postprocess: dan", "transformer-postprocess: dn"),
        ("tied-embeddings-all: true", "tied-embeddings-all: false"),
    ],
)
def test_another_transformer_is_refused_in_one_line(line, instead, make_run, tmp_path, nmtasync):
    run = make_run(norm="post", activation="swish", zero_start=True)
    assert_refused_when_changed(run, line, instead, tmp_path, nmtasync)


def test_an_ssru_of_the_second_implementation_is_refused(make_run, tmp_path, nmtasync):
    run = make_run(norm="post", decoder="ssru", ssru_bias=False, zero_start=True)
    lines = "type: transformer", "type: transformer-new"
    assert_refused_when_changed(run, *lines, tmp_path, nmtasync)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("enc-depth: 1", "enc-depth: 2"),
        ("enc-cell-depth: 1", "enc-cell-depth: 2"),
        ("dec-cell: gru", "dec-cell: lstm"),
        ("dec-depth: 1", "dec-depth: 999"),
        ("dec-cell-base-depth: 2", "dec-cell-base-depth: 1"),
        ("dec-cell-base-depth: 2", "dec-cell-base-depth: 9"),
        ("dim-rnn: 32", "dim-rnn: 99998"),
        ("layer-normalization: false", "layer-normalization: true"),
        ("type: s2s", "type: transformer"),
    ],
)
def test_another_recurrent_network_is_refused_in_one_line(
    line, instead, make_run, tmp_path, nmtasync
):
    run = make_run(**RECURRENT, zero_start=True)
    assert_refused_when_changed(run, line, instead, tmp_path, nmtasync)


def assert_refused_when_changed(run, line, instead, tmp_path, nmtasync):
    out = tmp_path / "out"
    succeeded(nmtasync("export", run.root, "--format", "marian", "-o", out))
    with np.load(out / "model.npz") as file:
        arrays = dict(file)
    text = arrays["special:model.yml"].tobytes().decode()
    assert line in text
    changed = text.replace(line, instead).encode()
    arrays["special:model.yml"] = np.frombuffer(changed, np.int8)
    np.savez(out / "model.npz", **arrays)
    refused = nmtasync("import", tmp_path / "back", out / "model.npz", "--from", "marian")
    assert refused.returncode == 2 and str(out / "model.npz") in one_line(refused.stderr)
    assert not (tmp_path / "back").exists()
