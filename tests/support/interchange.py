"""What this toolkit makes of sentences, to be compared with other programs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import takewhile

import torch

from nmtasync.checkpoints.load import load_model
from nmtasync.config.schema import Config, DecodingConfig
from nmtasync.data.vocabulary import BOS, EOS, VocabularyPair
from nmtasync.evaluation.score import PairScore, Scorer
from nmtasync.evaluation.trained_model import load_ensemble
from nmtasync.evaluation.translate import Translator
from nmtasync.models.rnn import state_size
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.run_directory import RunDirectory

LARGEST_TIE = 2e-4
"""Two pieces whose log probabilities, each of which may be wrong by half of it, differ by less."""

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


def assert_same_but_for_ties(run: RunDirectory, source: list[str], theirs: list[list[str]]) -> None:
    """Compare greedy translations; where one goes another way, both ways must be as good."""
    model, vocabularies = load_model(run)[0], VocabularyPair.load(run.vocab)
    rows = zip(source, our_translations(run, source), theirs, strict=True)
    for line, one, other in rows:
        if one != other[:MOST_PIECES]:
            assert gap(model, vocabularies, line, one, other) < LARGEST_TIE, (one, other)


@torch.no_grad()
def gap(
    model: SequenceToSequence,
    vocabularies: VocabularyPair,
    source: str,
    one: list[str],
    other: list[str],
) -> float:
    """How much better, in nats, the better one of two translations goes on where they part."""
    ids = {piece: i for i, piece in enumerate(vocabularies.target.pieces())}
    together = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    prefix = [ids[piece] for piece, _ in together]
    read = torch.tensor([[*vocabularies.source.encode([source])[0], EOS]])
    outputs = model(read, torch.ones_like(read, dtype=torch.bool), torch.tensor([[BOS, *prefix]]))
    scores = model.logits(outputs)[0, -1].log_softmax(0)
    first, second = (scores[ids[pieces[len(prefix)]]] for pieces in (one, other))
    return abs(float(first - second))


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
