"""Networks as Hugging Face's transformers has them: there, and back."""

from __future__ import annotations

import json
import re

import pytest
import torch

from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.run_directory import RunDirectory
from tests.support.command_line import one_line, succeeded
from tests.support.interchange import (
    MOST_PIECES,
    Pairs,
    assert_same_but_for_ties,
    assert_same_parameters,
    our_scores,
)
from tests.support.opus import TAGS, save_like_opus
from tests.support.toy import TOY_FLAGS

pytestmark = pytest.mark.slow

FITTING = {
    "relu": {"norm": "post"},
    "marian's": {"norm": "post", "activation": "swish", "zero_start": True},
    "gelu, paper's positions": {
        "norm": "post",
        "activation": "gelu",
        "positions": "sinusoidal-paper",
        "encoder_layers": 3,
        "decoder_layers": 1,
    },
    "learned positions": {"norm": "post", "positions": "learned", "max_positions": 90},
    "two vocabularies": {"norm": "post", "tied_embeddings": "target", "zero_start": True},
    "three matrices": {"norm": "post", "tied_embeddings": "none"},
}


@pytest.fixture
def loaded():
    """Load a directory with transformers: tokenizer and model."""
    transformers = pytest.importorskip("transformers")

    def load(out):
        tokenizer = transformers.AutoTokenizer.from_pretrained(out)
        return tokenizer, transformers.AutoModelForSeq2SeqLM.from_pretrained(out).eval()

    return load


@torch.no_grad()
def piece_scores(tokenizer, model, source, target):
    """Log probabilities of the pieces of each target, by forced decoding."""
    for one, other in zip(source, target, strict=True):
        batch = tokenizer([one], text_target=[other], return_tensors="pt")
        labels = batch["labels"]
        logits = model(**batch).logits.log_softmax(-1)
        yield logits.gather(2, labels[..., None]).flatten().tolist()


@pytest.mark.processes
@pytest.mark.parametrize("options", FITTING.values(), ids=FITTING)
def test_transformers_scores_and_translates_alike(
    options, make_run, pairs, tmp_path, nmtasync, loaded
):
    run, out = make_run(**options), tmp_path / "hf"
    succeeded(nmtasync("export", run.root, "--format", "huggingface", "-o", out))
    tokenizer, model = loaded(out)
    assert type(model).__name__ == "MarianMTModel"
    theirs = piece_scores(tokenizer, model, pairs.source, pairs.target)
    for ours, scores in zip(our_scores(run, pairs), theirs, strict=True):
        assert scores == pytest.approx(ours.piece_scores, abs=1e-4)
    batch = tokenizer(pairs.source, return_tensors="pt", padding=True)
    found = model.generate(**batch, num_beams=1, max_new_tokens=MOST_PIECES + 1)
    texts = tokenizer.batch_decode(found, skip_special_tokens=True)
    assert not any(name in text for text in texts for name in ("<zero>", "<s>", "<pad>", "</s>"))
    tokenizer._switch_to_target_mode()
    pieces = [
        [p for p in tokenizer.convert_ids_to_tokens(row[1 : 1 + MOST_PIECES]) if p != "<pad>"]
        for row in found
    ]
    assert_same_but_for_ties(run, pairs.source, pieces)


def test_the_pipeline_of_transformers_4_translates(make_run, pairs, tmp_path, nmtasync, loaded):
    pipelines = pytest.importorskip("transformers.pipelines")
    if "translation" not in pipelines.SUPPORTED_TASKS:
        pytest.skip("transformers 5 has no such task")
    run, out = make_run(norm="post"), tmp_path / "hf"
    succeeded(nmtasync("export", run.root, "--format", "huggingface", "-o", out))
    flags = {"num_beams": 1, "max_new_tokens": MOST_PIECES}
    found = pipelines.pipeline("translation", model=str(out), device="cpu")(pairs.source, **flags)
    tokenizer, model = loaded(out)
    batch = tokenizer(pairs.source, return_tensors="pt", padding=True)
    expected = tokenizer.batch_decode(model.generate(**batch, **flags), skip_special_tokens=True)
    same = [one["translation_text"] == text for one, text in zip(found, expected, strict=True)]
    assert sum(same) >= 0.98 * len(same)


@pytest.mark.parametrize("options", FITTING.values(), ids=FITTING)
def test_there_and_back_is_the_same_to_the_bit(options, make_run, pairs, tmp_path, nmtasync):
    run, names = make_run(**options), ("out", "back", "out-again", "back-again")
    out, back, out_again, back_again = (tmp_path / name for name in names)
    succeeded(nmtasync("export", run.root, "--format", "huggingface", "-o", out))
    succeeded(nmtasync("import", back, out, "--from", "huggingface"))
    ours, theirs = our_scores(run, pairs), our_scores(RunDirectory(back), pairs)
    assert [each.piece_scores for each in ours] == [each.piece_scores for each in theirs]
    if options.get("positions") != "learned":  # which are kept divided by sqrt(D), rounded
        assert_same_parameters(run, RunDirectory(back))
    succeeded(nmtasync("export", back, "--format", "huggingface", "-o", out_again))
    succeeded(nmtasync("import", back_again, out_again, "--from", "huggingface"))
    assert_same_parameters(RunDirectory(back), RunDirectory(back_again))


@pytest.fixture
def opus(make_run, tmp_path):
    """A directory as those of OPUS-MT: a vocabulary of its own order, two SentencePiece models."""
    transformers = pytest.importorskip("transformers")
    out, texts = tmp_path / "opus", [make_run().root.parent / "run/data/valid"]
    out.mkdir()
    texts = [texts[0] / f"{side}.txt" for side in ("source", "target")]
    return save_like_opus(transformers, out, texts)


def test_a_model_like_those_of_opus_scores_alike(opus, pairs, tmp_path, nmtasync, loaded):
    run = RunDirectory(tmp_path / "imported")
    succeeded(nmtasync("import", run.root, opus, "--from", "huggingface"))
    theirs = piece_scores(*loaded(opus), pairs.source, pairs.target)
    assert_same_but_for_unknown(our_scores(run, pairs), theirs)
    translated = nmtasync("translate", run.root, "--device", "cpu", stdin=pairs.source[0] + "\n")
    assert len(succeeded(translated).stdout.splitlines()) == 1
    again, out = RunDirectory(tmp_path / "again"), tmp_path / "out"
    succeeded(nmtasync("export", run.root, "--format", "huggingface", "-o", out))
    succeeded(nmtasync("import", again.root, out, "--from", "huggingface"))
    assert_same_parameters(run, again)
    theirs = piece_scores(*loaded(out), pairs.source, pairs.target)
    assert_same_but_for_unknown(our_scores(run, pairs), theirs)


def test_a_tag_of_a_language_is_one_piece(opus, pairs, tmp_path, nmtasync, loaded):
    run, again = RunDirectory(tmp_path / "imported"), RunDirectory(tmp_path / "again")
    succeeded(nmtasync("import", run.root, opus, "--from", "huggingface"))
    tags = ["", *(f"{tag} " for tag in TAGS)]
    tagged = Pairs([tags[i % 3] + line for i, line in enumerate(pairs.source)], pairs.target)
    ours = our_scores(run, tagged)
    for i, (one, other) in enumerate(zip(ours, our_scores(run, pairs), strict=True)):
        same = [score for score in one.piece_scores if score > -1000.0] == pytest.approx(
            [score for score in other.piece_scores if score > -1000.0], abs=1e-4
        )
        assert same == (i % 3 == 0), "a tag changes scores, and what stands beside does not"
    assert_same_but_for_unknown(ours, piece_scores(*loaded(opus), tagged.source, tagged.target))
    vocabulary = VocabularyPair.load(run.vocab).source
    plain, with_tag = vocabulary.encode([pairs.source[0], f"{TAGS[0]} {pairs.source[0]}"])
    assert with_tag[1:] == plain and vocabulary.decode([with_tag[:1]]) == [TAGS[0]]
    succeeded(nmtasync("export", run.root, "--format", "huggingface", "-o", tmp_path / "out"))
    there = piece_scores(*loaded(tmp_path / "out"), tagged.source, tagged.target)
    assert_same_but_for_unknown(ours, there)
    succeeded(nmtasync("import", again.root, tmp_path / "out", "--from", "huggingface"))
    assert_same_parameters(run, again)
    assert VocabularyPair.load(again.vocab).digest() == VocabularyPair.load(run.vocab).digest()


def assert_same_but_for_unknown(ours, theirs):
    """A target's piece that the network lacks has no probability here, and UNK's there."""
    number = 0
    for each, scores in zip(ours, theirs, strict=True):
        known = [place for place, score in enumerate(each.piece_scores) if score > -1000.0]
        assert [scores[place] for place in known] == pytest.approx(
            [each.piece_scores[place] for place in known], abs=1e-4
        )
        number += len(known)
    assert number > 4000


def test_an_imported_model_is_fine_tuned(opus, tmp_path, nmtasync, toy_corpus):
    imported, run = tmp_path / "imported", tmp_path / "tuned"
    succeeded(nmtasync("import", imported, opus, "--from", "huggingface"))
    corpora = [
        [f"--{part}", toy_corpus / f"{part}.src", toy_corpus / f"{part}.tgt"]
        for part in ("train", "valid")
    ]
    succeeded(nmtasync("preprocess", run, "--vocab-from", imported, *corpora[0], *corpora[1]))
    flags = [flag for flag in TOY_FLAGS if "model." not in flag]
    flags += ["--max-updates", 2, "--init-from", imported]
    tuned = succeeded(nmtasync("train", run, *flags))
    assert "all embeddings kept" in tuned.stdout + tuned.stderr
    succeeded(nmtasync("export", run, "--format", "huggingface", "-o", tmp_path / "out"))


@pytest.mark.parametrize("command", [["train"], ["inspect"], ["profile", "--batches", "1"]])
def test_an_imported_model_has_no_corpus(command, opus, tmp_path, nmtasync):
    run = tmp_path / "imported"
    succeeded(nmtasync("import", run, opus, "--from", "huggingface"))
    refused = nmtasync(command[0], run, *command[1:])
    assert refused.returncode == 2 and f"--init-from {run}" in one_line(refused.stderr)
    assert (run / "checkpoints/0/model.safetensors").exists()


@pytest.mark.processes
def test_the_doctor_finds_nothing_wrong_with_an_imported_model(opus, tmp_path, nmtasync):
    succeeded(nmtasync("import", tmp_path / "imported", opus, "--from", "huggingface"))
    assert "0 problem(s)" in nmtasync("doctor", tmp_path / "imported").stdout


def test_a_pickled_model_is_not_read(opus, tmp_path, nmtasync):
    (opus / "model.safetensors").rename(opus / "pytorch_model.bin")
    refused = nmtasync("import", tmp_path / "imported", opus, "--from", "huggingface")
    assert refused.returncode == 2 and "is pickled" in one_line(refused.stderr)
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "bart"),
        ("scale_embedding", False),
        ("activation_function", "tanh"),
        ("activation_function", ["relu"]),
        ("encoder_layers", 3),
        ("encoder_layers", 999),
        ("d_model", 99998),
        ("encoder_ffn_dim", 7),
        ("decoder_start_token_id", 10**7),
        ("eos_token_id", -1),
        ("normalize_before", True),
    ],
)
def test_another_network_is_refused_in_one_line(key, value, opus, tmp_path, nmtasync):
    path = opus / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), key: value}), "utf-8")
    refused = nmtasync("import", tmp_path / "imported", opus, "--from", "huggingface")
    assert refused.returncode == 2 and one_line(refused.stderr)
    assert not (tmp_path / "imported").exists()


def test_the_card_tells_data_and_scores(make_run, pairs, tmp_path, nmtasync):
    run, out = make_run(norm="post"), tmp_path / "out"
    texts = [tmp_path / "test.de", tmp_path / "test.en"]
    for path, side in zip(texts, (pairs.source[:3], pairs.target[:3]), strict=True):
        path.write_text("".join(f"{line}\n" for line in side), "utf-8")
    flags = ["--device", "cpu", "--beam-size", 1]
    succeeded(nmtasync("evaluate", run.root, "--test", "flickr", *texts, *flags))
    succeeded(nmtasync("export", run.root, "--format", "huggingface", "-o", out))
    card = (out / "README.md").read_text("utf-8")
    assert card.startswith("---\n") and '- "de"' in card
    assert "| train.de | source | train.de | 980 |" in card
    assert "| train.de | target | train.en | 980 |" in card
    (row,) = re.findall(r"\| flickr \| bleu \| ([0-9.]+) \| `nrefs:1\\\|", card)
    result = json.loads((run.evaluation / "flickr.json").read_text("utf-8"))
    assert float(row) == pytest.approx(result["bleu"]["score"], abs=0.006)
