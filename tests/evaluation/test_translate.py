"""Text in, text out: order, blank lines, batches of any make-up, over-long lines."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from nmtasync.config.schema import DecodingConfig, ModelConfig
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.decoding import ensemble, hypothesis
from nmtasync.evaluation.batches import MAX_BATCH_PIECES, plan_batches
from nmtasync.evaluation.translate import Translator
from nmtasync.evaluation.translation import BLANK
from nmtasync.models.build import build_model
from nmtasync.run_directory import RunDirectory

WORDS = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]


@pytest.fixture
def translator(toy_run: RunDirectory) -> Translator:
    torch.manual_seed(1)
    vocabularies = VocabularyPair.load(toy_run.vocab)
    size = vocabularies.source.size
    config = ModelConfig(dimension=16, encoder_layers=1, decoder_layers=1)
    model = build_model(config, size, size).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return Translator(model, vocabularies, DecodingConfig(beam_size=2, batch_sentences=3))


def some_lines() -> list[str]:
    rng = random.Random(1)
    lines = [" ".join(rng.choices(WORDS, k=rng.randint(1, 9))) for _ in range(20)]
    lines[4], lines[9], lines[19] = "", " \t ", "\u200b"  # nothing that could be translated
    return lines


def test_each_line_is_translated_as_if_alone(translator: Translator) -> None:
    lines = some_lines()
    together = translator.translate(lines)
    assert together == [translator.translate([line])[0] for line in lines]
    assert [i for i, line in enumerate(together) if not line] == [4, 9, 19]
    assert len(set(together)) > 10


@pytest.mark.processes
@pytest.mark.parametrize("sampling", [False, True])
def test_the_number_of_threads_does_not_matter(translator: Translator, sampling: bool) -> None:
    translator.config = dataclasses.replace(translator.config, sampling=sampling)
    lines, before, found = some_lines(), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(translator.translate(lines))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_training_mode_does_not_matter(translator: Translator) -> None:
    lines = some_lines()
    expected = translator.translate(lines)
    translator.model.train()
    assert translator.translate(lines) == expected


def test_n_best_begins_with_the_translation(translator: Translator) -> None:
    translator.config = dataclasses.replace(translator.config, beam_size=4)
    lines = some_lines()
    best = translator.translate(lines)
    several = translator.translate_n_best(lines, 3)
    assert [translations[0].text for translations in several] == best
    for line, translations in zip(best, several, strict=True):
        scores = [each.normalized for each in translations]
        assert scores == sorted(scores, reverse=True)
        assert len({each.text for each in translations}) == len(translations)
        assert translations == [BLANK] if not line else 1 <= len(translations) <= 3


def test_two_segmentations_of_a_text_are_one_translation(translator: Translator) -> None:
    """Those of "nine": as it is cut usually, and in single letters."""
    pieces = translator.vocabularies.target.pieces()
    whole = translator.vocabularies.target.encode(["nine"])[0]
    letters = [pieces.index(piece) for piece in "\u2581nine"]
    assert whole != letters
    found = hypothesis.Found(translator._text_of)
    for ids, score in ((letters, -3.0), (whole, -1.0), (letters, -2.0)):
        found.add(hypothesis.Hypothesis(ids, score, score))
    assert [h.ids for h in found.best(3)] == [whole]
    assert found.num_added == 3


def test_progress_reaches_all_lines(translator: Translator) -> None:
    seen: list[tuple[int, int]] = []
    translator.translate(some_lines(), lambda done, total: seen.append((done, total)))
    assert seen[-1] == (20, 20)
    assert len(seen) == 6  # 17 lines with text, 3 at a time


@pytest.mark.parametrize("limit", ["memory", "positions"])
def test_an_over_long_line_is_cut_and_told_of(
    translator: Translator, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit == "memory":
        monkeypatch.setattr(ensemble, "MAX_PIECES", 12)
    else:
        monkeypatch.setattr(translator.model, "max_length", 13)  # the end of sentence counts
    warnings: list[tuple[int, str]] = []
    translator.on_warning = lambda line, message: warnings.append((line, message))
    long = " ".join(WORDS * 3)
    translations = translator.translate(["eins", long, "zwei"])
    assert [line for line, message in warnings if "only the first 12" in message] == [1]
    assert translator.counts["cut_sources"] == 1
    assert [translations[1]] == translator.translate([long + " vier"])
    assert translations[::2] == translator.translate(["eins", "zwei"])


def test_batches_of_long_lines_are_small() -> None:
    """Sentences and padded pieces of a batch are both bounded, and nothing is left out."""
    lengths = dict(enumerate([900, 3, 800, 5000] + [2] * 100))
    planned = list(plan_batches(lengths, 64))
    assert sorted(line for batch in planned for line in batch) == list(range(104))
    for batch in planned:
        pieces = len(batch) * max(lengths[line] for line in batch)
        assert len(batch) == 1 or (len(batch) <= 64 and pieces <= MAX_BATCH_PIECES)
    assert len(planned) == 4


def test_nothing_in_nothing_out(translator: Translator) -> None:
    assert translator.translate([]) == []
    assert translator.translate([""]) == [""]
