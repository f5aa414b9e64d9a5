"""Validation where memory is short, and of pairs that are longer than all that are trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nmtasync.config.schema import DataConfig
from nmtasync.data.batches import collate
from nmtasync.data.corpus import PairPaths
from nmtasync.data.shards import ParallelShards
from nmtasync.data.vocabulary import BOS, EOS
from nmtasync.evaluation import translate
from nmtasync.models.loss import loss_sums
from nmtasync.preprocessing.preprocess import preprocess
from nmtasync.run_directory import RunDirectory
from nmtasync.training.validation import validator
from nmtasync.training.validation.validator import Validator
from tests.support.command_line import CommandLine
from tests.support.one_worker import toy_model
from tests.support.runs import train_toy
from tests.support.toy import TOY_FLAGS, toy_config

SPLIT = "validation has too little memory for a batch, and computes it in parts"


@pytest.fixture
def long_run(tmp_path: Path, toy_corpus: Path) -> RunDirectory:
    """A RUN with validation pairs of which one side, or both, are longer than all in training."""
    words, names = " ".join(["drei", "vier"] * 9), " ".join(["three", "four"] * 9)
    pairs = [("eins", "one"), (words, names), (words, "one"), ("eins zwei", names)]
    for side, suffix in enumerate(("src", "tgt")):
        lines = "".join(f"{pair[side]}\n" for pair in pairs)
        (tmp_path / f"valid.{suffix}").write_text(lines, "utf-8")
    train, valid = (
        PairPaths(directory / f"{part}.src", directory / f"{part}.tgt")
        for directory, part in ((toy_corpus, "train"), (tmp_path, "valid"))
    )
    run = RunDirectory(tmp_path / "run")
    preprocess(run, [train], [valid], DataConfig(vocab_size=46, byte_fallback=False))
    return run


def one_by_one(run: RunDirectory, model: torch.nn.Module) -> float:
    """Cross-entropy of single sentences, cut by hand."""
    train, valid = (ParallelShards.open(run.data / part) for part in ("train", "valid"))
    most = max(train.source_lengths), max(train.target_lengths)
    total, words = 0.0, 0
    sides = [
        (valid.source_tokens, valid.source_offsets),
        (valid.target_tokens, valid.target_offsets),
    ]
    model.eval()
    for number in range(len(valid)):
        source, target = (
            [*map(int, tokens[offsets[number] : offsets[number + 1]][:length]), EOS]
            for (tokens, offsets), length in zip(sides, most, strict=True)
        )
        row = torch.tensor([source])
        wanted = torch.tensor([target])
        with torch.no_grad():
            outputs = model(row, row > 0, torch.tensor([[BOS, *target[:-1]]]))
            total += float(loss_sums(model, outputs, wanted, torch.arange(len(target)), 0.0)[1])
        words += len(target)
    return total / words


def test_pairs_longer_than_all_in_training_are_cut_and_told_of(long_run, nmtasync: CommandLine):
    model = toy_model(toy_config())
    told: list[str] = []
    ours = Validator(long_run, model, toy_config(), "cpu", told.append)
    ours.rehearse()
    assert ours.cross_entropy() == pytest.approx(one_by_one(long_run, model), rel=1e-5)
    assert len(told) == 1 and told[0].startswith("3 validation pairs are longer than all that")
    flags = ["--max-updates=4", "--validate-every=1"]
    result = nmtasync("train", long_run.root, *TOY_FLAGS, *flags)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count(told[0]) == 1


def test_their_sources_are_cut_where_they_are_translated(long_run):
    ours = Validator(long_run, toy_model(toy_config()), toy_config(), "cpu")
    pieces = ours.vocabularies.source.encode(ours.sources)
    most = ours.longest[0]
    assert max(map(len, pieces)) > most
    cut = [ours.vocabularies.source.decode([ids[:most]])[0] for ids in pieces]
    assert [len(ids) for ids in ours.vocabularies.source.encode(cut)][1] == most
    assert ours._translate(ours.sources) == ours._translate(cut)


def test_batches_that_do_not_fit_are_validated_in_parts(toy_run, monkeypatch):
    told: list[str] = []
    ours = Validator(toy_run, toy_model(toy_config()), toy_config(), "cpu", told.append)
    cross_entropy, translations = ours.cross_entropy(), ours._translate(ours.sources)
    assert not told
    loss_of, search, sizes = validator.loss_sums, translate.beam_search, []

    def limited(size: int) -> None:
        sizes.append(size)
        if size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    def limited_loss(model, outputs, *rest, **options):
        limited(len(outputs))
        return loss_of(model, outputs, *rest, **options)

    def limited_search(model, source, *rest, **options):
        limited(len(source))
        return search(model, source, *rest, **options)

    monkeypatch.setattr(validator, "loss_sums", limited_loss)
    monkeypatch.setattr(translate, "beam_search", limited_search)
    assert ours.cross_entropy() == pytest.approx(cross_entropy, rel=1e-5)
    assert max(sizes) > 2 and told == [SPLIT]
    sizes.clear()
    assert ours._translate(ours.sources) == translations
    assert max(sizes) > 2 and told == [SPLIT], "once"


def test_the_largest_batch_is_tried_before_the_first_update(toy_run, monkeypatch):
    shapes: list[tuple[int, int]] = []
    loss_of = validator.loss_sums

    def noted(model, outputs, target, *rest, **options):
        shapes.append(tuple(target.shape))
        return loss_of(model, outputs, target, *rest, **options)

    monkeypatch.setattr(validator, "loss_sums", noted)
    train_toy(toy_run, training__max_updates=1, data__batch_tokens=20)
    (first, *rest), corpus = shapes, ParallelShards.open(toy_run.data / "valid")
    assert len(rest) > 2 and sum(count for count, _ in rest) == len(corpus)
    ours = Validator(toy_run, toy_model(toy_config()), toy_config(data__batch_tokens=20), "cpu")
    plan = [collate(corpus, sentences) for sentences in ours._plan()]
    needs = [len(b.source) * max(b.source.shape[1], b.target.shape[1]) ** 2 for b in plan]
    assert first == tuple(plan[needs.index(max(needs))].target.shape)


def test_what_does_not_fit_at_all_ends_training_before_it_begins(
    toy_run, monkeypatch, nmtasync: CommandLine
):
    def lacking(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(validator, "loss_sums", lacking)
    result = nmtasync("train", toy_run.root, *TOY_FLAGS, "--max-updates=5")
    assert result.returncode == 1
    assert "error: memory does not suffice: CUDA out of memory" in result.stderr
    assert not (toy_run.checkpoints / "latest").exists()
