"""What this toolkit makes of sentences, to be compared with other programs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from nmtasync.checkpoints.load import load_model
from nmtasync.config.schema import Config, DecodingConfig
from nmtasync.evaluation.score import PairScore, Scorer
from nmtasync.evaluation.trained_model import load_ensemble
from nmtasync.evaluation.translate import Translator
from nmtasync.models.rnn import state_size
from nmtasync.run_directory import RunDirectory

GREEDY = DecodingConfig(beam_size=1)
MOST_PIECES = 12
"""Of translations that are compared: random networks seldom end one before its greatest length."""


@dataclass(frozen=True)
class Pairs:
    """Sentences and their translations."""

    source: list[str]
    target: list[str]


def our_scores(run: RunDirectory, pairs: Pairs) -> list[PairScore]:
    trained = load_ensemble(run.root, "best", 1, "cpu")
    scorer = Scorer(trained.ensemble, trained.vocabularies, GREEDY)
    return scorer.score(list(zip(pairs.source, pairs.target, strict=True)))


def our_translations(run: RunDirectory, source: list[str]) -> list[list[str]]:
    """The first pieces of greedy translations."""
    trained = load_ensemble(run.root, "best", 1, "cpu")
    translator = Translator(trained.ensemble, trained.vocabularies, GREEDY)
    found = translator.translate_n_best(source, 1, details=True)
    return [(best.pieces or [])[:MOST_PIECES] for (best,) in found]


def assert_same_but_for_ties(ours: list[list[str]], theirs: list[list[str]]) -> None:
    """A tie goes either way by rounding, so that one sentence in fifty may differ."""
    pairs = [(a[:MOST_PIECES], b[:MOST_PIECES]) for a, b in zip(ours, theirs, strict=True)]
    others = [pair for pair in pairs if pair[0] != pair[1]]
    assert len(others) <= len(pairs) / 50, others


def assert_same_parameters(run: RunDirectory, other: RunDirectory) -> None:
    (model, config, _), (there, config_there, _) = load_model(run), load_model(other)
    assert describe(config) == describe(config_there)
    ours, theirs = dict(model.named_parameters()), dict(there.named_parameters())
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


def describe(config: Config) -> dict[str, object]:
    """What a network is like, widths said also where they are the usual ones."""
    about = dataclasses.asdict(config.model)
    del about["feed_forward_dropout"]
    if config.model.type == "rnn":
        about["state_dimension"] = state_size(config.model)
    return about
