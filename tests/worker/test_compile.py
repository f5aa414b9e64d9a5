"""Compiled layers: the same gradients, and nothing compiled twice. Code is not generated here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from nmtasync.config.schema import ModelConfig, TrainingConfig
from nmtasync.data.batches import Alignment, Batch
from nmtasync.models.build import build_model
from nmtasync.optim.flat import FlatModel
from nmtasync.worker import gradient
from nmtasync.worker.compilation import compile_layers
from nmtasync.worker.gradient import GradientFunction


@pytest.fixture
def _traced_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trace and differentiate as when compiling, but run PyTorch's own kernels: takes seconds."""
    monkeypatch.setattr(gradient, "compile_layers", partial(compile_layers, backend="aot_eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()
    torch.compiler.set_stance("default")


def batch(sentences: int, source: int, target: int) -> Batch:
    torch.manual_seed(sentences)
    ids = torch.randint(4, 46, (sentences, source)), torch.randint(4, 46, (sentences, target))
    words = sentences * target
    return Batch(ids[0], ids[0] != 0, ids[1], ids[1], torch.arange(words), words, words)


@pytest.mark.slow
@pytest.mark.usefixtures("_traced_only")
def test_compiled_layers_give_the_same_gradient_and_are_compiled_once():
    model = ModelConfig(dimension=16, encoder_layers=2, decoder_layers=2, heads=2, dropout=0.2)
    flat = FlatModel(build_model(model, 46, 46))
    plain = GradientFunction(flat, TrainingConfig())
    counters = torch._dynamo.utils.counters  # imported late: it takes seconds
    shapes = [(7, 9, 11), (12, 20, 18), (3, 31, 3), (5, 6, 6), (1, 5, 6), (6, 1, 1), (2, 2, 2)]
    expected = []
    for index, shape in enumerate(shapes):
        flat.gradients.zero_()
        plain.add(batch(*shape), seed=index)
        expected.append(flat.gradients.clone())
    compiled = GradientFunction(flat, TrainingConfig(compile=True))
    num_graphs = []
    for index, shape in enumerate(shapes):
        flat.gradients.zero_()
        compiled.add(batch(*shape), seed=index)
        num_graphs.append(counters["stats"]["unique_graphs"])
        error = (flat.gradients - expected[index]).norm() / expected[index].norm()
        assert error < 1e-5, shape
    assert num_graphs[0] > 0, "or nothing was compiled"
    assert set(num_graphs) == {num_graphs[0]}, "lengths must not make it compile again"
    links = Alignment(torch.arange(7 * 11) * 9, torch.ones(7 * 11))
    aligned = dataclasses.replace(batch(*shapes[0]), alignment=links)
    guided = []
    for function in (plain, compiled):
        flat.gradients.zero_()
        function.config = dataclasses.replace(function.config, guided_alignment_weight=1.0)
        function.add(aligned, seed=0)
        guided.append(flat.gradients.clone())
    assert (guided[1] - guided[0]).norm() / guided[0].norm() < 1e-5
    assert counters["stats"]["unique_graphs"] == num_graphs[0], "nor must guided alignment"
    flat.model.eval()
    first = batch(*shapes[0])
    with torch.no_grad():
        flat.model(first.source, first.source_mask, first.target_input)
    assert counters["stats"]["unique_graphs"] == num_graphs[0], "nor must validation"
