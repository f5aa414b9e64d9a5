"""Computing in 16 bits: how near its gradients are, what `auto` chooses, the loss scale."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nmtasync.config.load import resolve
from nmtasync.config.schema import Config, ModelConfig, TrainingConfig
from nmtasync.config.sections.data import DataConfig
from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.shards import ParallelShards
from nmtasync.errors import UserError
from nmtasync.models.build import build_model
from nmtasync.models.embeddings import look_up
from nmtasync.optim.flat import FlatModel
from nmtasync.training import divergence
from nmtasync.worker import loss_scale, precision
from nmtasync.worker.batch_gradient import BatchGradient
from nmtasync.worker.gradient import GradientFunction, WindowGradient, batch_seed
from nmtasync.worker.loss_scale import MIN_EXPONENT, WINDOWS_TO_GROW, LossScale
from nmtasync.worker.precision import choose_precision, has_bf16_units
from tests.support.one_worker import VOCABULARY, assigned_batches
from tests.support.runs import events, final_state, train_toy
from tests.support.toy import TOY_MODEL, toy_batch, toy_config

NARROW = ["bf16", "fp16"]


def gradient_function(model_type: str, how: str) -> GradientFunction:
    """Of a toy model, the same each time."""
    torch.manual_seed(1)
    config = ModelConfig(type=model_type, dimension=32, encoder_layers=2, decoder_layers=2)
    flat = FlatModel(build_model(config, 46, 46))
    return GradientFunction(flat, TrainingConfig(precision=how))


def gradient(model_type: str, how: str, exponent: int = 7) -> tuple[torch.Tensor, float]:
    """The gradient of a toy model, and the cross-entropy."""
    function = gradient_function(model_type, how)
    if function.scale is not None:
        function.scale.exponent = exponent
    figures = function.add(toy_batch(), seed=3)
    return function.flat.gradients, float(figures.cross_entropy)


@pytest.mark.parametrize("model_type", ["transformer", "rnn"])
@pytest.mark.parametrize("how", NARROW)
def test_a_gradient_in_16_bits_points_where_that_in_float32_does(model_type, how):
    exact, exact_loss = gradient(model_type, "fp32")
    near, near_loss = gradient(model_type, how)
    assert near.dtype == torch.float32
    assert near_loss == pytest.approx(exact_loss, rel=0.01)
    assert torch.cosine_similarity(near, exact, dim=0) > (0.9999 if how == "fp16" else 0.995)
    assert float(near.norm() / exact.norm()) == pytest.approx(1.0, abs=0.02)


def test_gradients_are_added_in_float32():
    """What one batch adds to a large sum must not be lost, as it would be in 16 bits."""
    function = gradient_function("transformer", "bf16")
    gradients = function.flat.gradients
    function.add(toy_batch(), seed=3)
    alone = gradients.clone()
    gradients.fill_(1000.0)
    function.add(toy_batch(), seed=3)
    torch.testing.assert_close(gradients - 1000.0, alone, rtol=0, atol=1e-4)


def test_the_gradient_of_a_frequent_piece_is_summed_in_float32():
    for dtype in (torch.bfloat16, torch.float16):
        matrix = torch.zeros(3, 4, dtype=dtype, requires_grad=True)
        look_up(torch.ones(64, 64, dtype=torch.int64), matrix).sum().backward()
        assert matrix.grad is not None
        assert matrix.grad.tolist() == [[0.0] * 4, [4096.0] * 4, [0.0] * 4]


def test_the_loss_scale_changes_nothing_but_what_would_vanish():
    for exponent in (3, 10):
        scaled, _ = gradient("transformer", "fp16", exponent)
        reference, _ = gradient("transformer", "fp16")
        assert torch.cosine_similarity(scaled, reference, dim=0) > 0.99999
        assert float(scaled.norm() / reference.norm()) == pytest.approx(1.0, abs=1e-3)


class Waits(TorchDispatchMode):
    """Notes operations whose result's size, or whose value, the host would have to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        name = function.overloadpacket.__name__
        waits = name in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")
        indices = arguments[1] if name in ("index", "index_put", "index_put_") else ()
        if waits or any(i is not None and i.dtype == torch.bool for i in indices):
            self.seen.append(name)
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("model_type", ["transformer", "rnn"])
@pytest.mark.parametrize("how", ["fp32", *NARROW])
def test_a_gradient_makes_the_host_wait_for_nothing(model_type, how):
    function, batch = gradient_function(model_type, how), toy_batch()
    with Waits() as waits:
        function.add(batch, seed=3)
    assert waits.seen == []


TIMES = {torch.float32: 3.0, torch.bfloat16: 2.0}


def choose(config: Config, device: str = "cuda:0", times: dict = TIMES, trained=None) -> str:
    shapes = []

    def trial(where: str, dtype: torch.dtype, *shape: int) -> float:
        assert where == device
        shapes.append(shape)
        return times[dtype]

    choice = choose_precision(config, trained, device, trial)
    assert len(set(shapes)) <= 1, "both are tried on the same"
    assert choice.reason
    return choice.precision


def test_auto_takes_bf16_where_it_is_faster_by_enough():
    auto = Config()
    assert auto.training.precision == "auto"
    assert choose(auto) == "bf16"
    assert choose(auto, times={torch.float32: 1.2, torch.bfloat16: 1.0}) == "bf16"
    assert choose(auto, times={torch.float32: 1.19, torch.bfloat16: 1.0}) == "fp32"


def test_auto_on_a_cpu_asks_its_flags_first(monkeypatch):
    monkeypatch.setattr(precision, "cpu_flags", lambda: {"avx2", "fma"})
    assert choose(Config(), "cpu") == "fp32"
    monkeypatch.setattr(precision, "cpu_flags", lambda: {"avx2", "amx_bf16"})
    assert choose(Config(), "cpu") == "bf16"


@pytest.mark.parametrize(
    ("model", "tokens", "device", "expected"),
    [
        ({"type": "transformer", "dimension": 64, "feed_forward": 256}, 32, "cpu", (32, 64, 256)),
        ({"type": "transformer", "dimension": 64}, 1500, "cpu", (64, 64, 256)),
        ({"type": "transformer", "dimension": 64}, 1500, "cuda:0", (1500, 64, 256)),
        ({"type": "transformer", "dimension": 64}, "fit", "cuda:0", (4096, 64, 256)),
        ({"type": "rnn", "dimension": 64, "state_dimension": 128}, 135, "cpu", (6, 128, 384)),
        ({"type": "rnn", "dimension": 64}, 8000, "cpu", (64, 64, 192)),
        ({"type": "rnn", "dimension": 64}, 8000, "cuda:0", (400, 64, 192)),
    ],
)
def test_auto_tries_products_as_large_as_training_has_them(
    model, tokens, device, expected, monkeypatch
):
    """In a recurrent network those of a step, which small batches make small: slow in bf16."""
    monkeypatch.setattr(precision, "cpu_flags", lambda: {"avx512_bf16"})
    config = Config(model=ModelConfig(**model), data=DataConfig(batch_tokens=tokens))
    shapes = set()

    def trial(where: str, dtype: torch.dtype, *shape: int) -> float:
        shapes.add(shape)
        return 1.0

    choose_precision(config, None, device, trial)
    assert shapes == {expected}


def test_flags_of_processors():
    assert has_bf16_units({"fpu", "avx512_bf16"})
    assert has_bf16_units({"asimd", "svebf16"})
    assert not has_bf16_units({"fpu", "avx512f", "avx2"})
    assert "fpu" in precision.cpu_flags() or "fp" in precision.cpu_flags()


def test_auto_stays_what_it_was_when_training_goes_on():
    auto = Config()
    for before in ("fp32", "bf16", "fp16"):
        trained = dataclasses.replace(auto, training=TrainingConfig(precision=before))
        assert choose(auto, trained=trained) == before
    asked = dataclasses.replace(auto, training=TrainingConfig(precision="fp16"))
    assert choose(asked, trained=auto) == "fp16"


def test_a_resumed_run_keeps_what_auto_was(toy_run, monkeypatch):
    monkeypatch.setattr(precision, "cpu_flags", lambda: {"amx_bf16"})
    monkeypatch.setattr(precision, "MIN_SPEEDUP", 0.0)
    train_toy(toy_run, training__max_updates=1, training__precision="auto")
    monkeypatch.setattr(precision, "MIN_SPEEDUP", float("inf"))
    train_toy(toy_run, training__max_updates=2, training__precision="auto")
    state = json.loads((toy_run.checkpoints / "2" / "state.json").read_text("utf-8"))
    assert state["config"]["training"]["precision"] == "bf16"
    assert 'precision = "auto"' in toy_run.config.read_text("utf-8"), "another machine may differ"


def test_training_in_bf16_learns_as_in_float32(toy_run):
    losses = {}
    for how in ("fp32", "bf16"):
        train_toy(
            toy_run,
            resume=False,
            training__precision=how,
            training__max_updates=40,
            training__validate_every=40,
            schedule__warmup_updates=5,
            schedule__learning_rate=5e-3,
            asynchronous__optimizer_delay=2,
            asynchronous__local_optimizer_batches=20,
        )
        losses[how] = events(toy_run, "valid")[-1]["cross_entropy"]
    assert losses["fp32"] < 2.6, "or nothing has been learned; it begins at 3.9"
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.03)


def test_the_scale_halves_at_once_and_doubles_slowly():
    scale = LossScale()
    scale.exponent = 4
    assert scale.factor == 16.0
    assert scale.adapt(float("inf")) and scale.factor == 8.0
    assert scale.adapt(float("nan")) and scale.factor == 4.0
    for _ in range(WINDOWS_TO_GROW - 1):
        assert not scale.adapt(1.0)
    assert scale.factor == 4.0
    scale.adapt(1.0)
    assert scale.factor == 8.0
    other = LossScale()
    other.restore(scale.numbers())
    assert other.numbers() == scale.numbers()


def test_the_scale_that_can_shrink_no_more_says_so():
    scale = LossScale()
    scale.exponent = MIN_EXPONENT
    assert scale.adapt(float("inf")) is False
    assert scale.exponent == MIN_EXPONENT


def test_overflows_are_skipped_and_are_no_divergence(toy_run, monkeypatch):
    monkeypatch.setattr(loss_scale, "FIRST_EXPONENT", 24)
    monkeypatch.setattr(divergence, "MAX_UNUSABLE_PUSHES", 2)
    summary = train_toy(toy_run, training__precision="fp16", training__max_updates=5)
    assert summary.updates == 5
    skipped = [entry for entry in events(toy_run, "worker") if "float16" in entry["what"]]
    assert len(skipped) > 2
    state = final_state(toy_run)[1]
    assert state["workers"]["0"]["scale_exponent"] == 24 - len(skipped)
    vectors, _ = final_state(toy_run)
    assert all(vector.isfinite().all() for vector in vectors.values())


def test_fp16_stopped_and_resumed_is_never_interrupted(toy_run, monkeypatch):
    monkeypatch.setattr(loss_scale, "FIRST_EXPONENT", 20)  # so that it moves meanwhile
    results = []
    for stops in ((6,), (1, 4, 6)):
        for number, updates in enumerate(stops):
            train_toy(
                toy_run,
                resume=number > 0,
                training__precision="fp16",
                training__max_updates=updates,
            )
        results.append(final_state(toy_run))
    (whole, whole_state), (pieces, pieces_state) = results
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)
    assert whole_state["workers"] == pieces_state["workers"]


def test_what_has_no_effect_or_no_meaning_is_refused(toy_run):
    with pytest.raises(UserError, match="no GPU"):
        train_toy(toy_run, training__tf32=True)
    delta = {
        "asynchronous.local_push": "delta",
        "asynchronous.local_optimizer_batches": "always",
        "asynchronous.optimizer_delay": 2,
    }
    with pytest.raises(UserError, match="'bf16'"):
        resolve(TOY_MODEL, delta, {"training.precision": "fp16"})
    with pytest.raises(UserError, match=r"model\.type"):
        resolve(TOY_MODEL, {"training.compile": True, "model.type": "rnn"})


def test_the_copy_follows_the_parameters_at_each_window_and_each_batch_apart(toy_run):
    config = toy_config(training__precision="bf16", optimizer__clip_norm=None)
    corpus = ParallelShards.open(toy_run.data / "train")
    batches = list(itertools.islice(assigned_batches(corpus, config), 3))
    flat = FlatModel(build_model(config.model, VOCABULARY, VOCABULARY))
    window, room = WindowGradient(flat, corpus, config), BatchGradient(flat)

    def seed_of(batch: AssignedBatch) -> int:
        return batch_seed(config.training.seed, batch.epoch, batch.index)

    def alone(batch: AssignedBatch) -> torch.Tensor:
        copy = FlatModel(build_model(config.model, VOCABULARY, VOCABULARY))
        copy.parameters.copy_(flat.parameters)
        GradientFunction(copy, config.training).add(window.collate(batch), seed_of(batch))
        return copy.gradients

    window.begin_sum()
    for batch in batches[:2]:
        window.add_assigned(batch)
    assert torch.equal(flat.gradients, alone(batches[0]) + alone(batches[1]))
    flat.parameters.mul_(0.5)  # a push and a fetch
    window.begin_sum()
    window.add_assigned(batches[2])
    expected = alone(batches[2])
    for batch in batches:
        window.add_apart([batch], room)
        expected += alone(batch)
        flat.parameters.mul_(0.9)  # a local step
    window.add_assigned(batches[0])
    assert torch.equal(flat.gradients, expected + alone(batches[0]))
