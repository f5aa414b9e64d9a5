"""Translating in narrow types: what is chosen, what is replaced, and how near it stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nmtasync.config.schema import ModelConfig
from nmtasync.decoding import precision
from nmtasync.decoding.ensemble import Ensemble
from nmtasync.decoding.precision import choose_precision, reduce_precision
from nmtasync.errors import UserError
from nmtasync.models.build import build_model
from nmtasync.models.narrow_linear import NarrowLinear
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from tests.support.int8 import needs_int8

NETWORKS = {
    "transformer": ModelConfig(dimension=64, encoder_layers=2, decoder_layers=2),
    "ssru": ModelConfig(dimension=64, encoder_layers=1, decoder_layers=1, decoder="ssru"),
    "rnn": ModelConfig(type="rnn", dimension=64, encoder_layers=1, decoder_layers=1),
}
NARROW = [pytest.param("int8", marks=needs_int8), "bf16"]


def make(kind: str = "transformer") -> SequenceToSequence:
    torch.manual_seed(5)
    return build_model(NETWORKS[kind], 100, 100).eval()


def scores(model: SequenceToSequence) -> list[float]:
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(4, 100, (5, 9), generator=generator)
    targets = torch.randint(4, 100, (5, 7), generator=generator).tolist()
    found, _ = Ensemble.of(model).score(source, source > 0, targets)
    return [score for row in found for score in row]


@pytest.mark.parametrize("kind", list(NETWORKS))
@pytest.mark.parametrize("how", NARROW)
def test_all_plain_products_are_narrow_and_scores_stay_near(kind, how):
    model = make(kind)
    exact = scores(model)
    reduce_precision(model, how)
    assert not [part for part in model.modules() if type(part) is nn.Linear]
    assert isinstance(model.output_projection, NarrowLinear)
    outputs = torch.randn(3, 64)
    assert torch.equal(model.logits(outputs), model.output_projection(outputs))
    near = scores(model)
    assert near != exact
    assert near == pytest.approx(exact, abs=0.15)


def test_float32_leaves_everything_as_it_is():
    model = make()
    exact = scores(model)
    reduce_precision(model, "fp32")
    assert scores(model) == exact and model.output_projection is None


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the trial is told to have measured."""
    taken = {"fp32": 6.0, "bf16": 2.0, "int8": 1.0}

    def measured(project, rows):
        return taken[project if isinstance(project, str) else "fp32"]

    monkeypatch.setattr(precision, "_seconds", measured)
    monkeypatch.setattr(precision, "_TYPES", {n: lambda *_, n=n: n for n in ("bf16", "int8")})
    monkeypatch.setattr(precision, "cpu_flags", lambda: {"amx_bf16"})
    monkeypatch.setattr(precision, "computes_int8", lambda: True)
    return taken


def test_the_fastest_type_is_chosen_that_the_machine_has(seconds, monkeypatch):
    model = make()
    choice = choose_precision("auto", model)
    assert choice.precision == "int8" and "6 times as fast as fp32" in choice.reason
    seconds["int8"] = 2.5
    assert choose_precision("auto", model).precision == "bf16"
    monkeypatch.setattr(precision, "cpu_flags", lambda: {"avx2"})
    assert choose_precision("auto", model).precision == "int8"
    monkeypatch.setattr(precision, "computes_int8", lambda: False)
    assert choose_precision("auto", model).precision == "fp32"


def test_a_type_that_wins_little_is_not_chosen(seconds):
    seconds |= {"bf16": 5.5, "int8": 5.1}
    assert choose_precision("auto", make()).precision == "fp32"


def test_what_is_asked_for_is_taken_without_a_trial_or_refused(monkeypatch):
    monkeypatch.setattr(precision, "_seconds", None)
    monkeypatch.setattr(precision, "computes_int8", lambda: True)
    for asked in ("fp32", "bf16", "int8"):
        assert choose_precision(asked, make()).precision == asked
    monkeypatch.setattr(precision, "computes_int8", lambda: False)
    with pytest.raises(UserError, match=r"int8 can't be computed exactly here"):
        choose_precision("int8", make())


def test_the_trial_measures():
    assert choose_precision("auto", make()).precision in ("fp32", "bf16", "int8")
