"""The flat vector, Adam on its slices, schedules and smoothing."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nmtasync.optim.adam import Adam
from nmtasync.optim.flat import SHARD_ALIGNMENT, FlatModel, shard_bounds
from nmtasync.optim.smoothing import smooth
from nmtasync.optim.update import Update


def tied_model() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 7), nn.Linear(7, 7))
    model[2].weight = model[1].weight
    return model


def test_parameters_and_gradients_are_views_of_the_vectors():
    model = tied_model()
    before = [p.detach().clone() for p in model.parameters()]
    flat = FlatModel(model)
    assert flat.size >= 5 * 7 + 7 + 7 * 7 + 7 + 7
    assert flat.size % SHARD_ALIGNMENT == 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    model(torch.ones(3, 5)).sum().backward()
    assert flat.gradients.norm() > 0
    norms = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert torch.allclose(flat.gradients.norm(), norms)
    flat.parameters.fill_(2.0)
    assert all((p == 2.0).all() for p in model.parameters())


def test_a_flat_model_computes_what_the_model_did():
    torch.manual_seed(1)
    model = tied_model()
    x = torch.randn(4, 5)
    before = model(x)
    FlatModel(model)
    assert torch.equal(model(x), before)


@given(blocks=st.integers(1, 300), num_shards=st.integers(1, 12))
def test_shards_cover_the_vector_once_at_aligned_bounds(blocks, num_shards):
    size = blocks * SHARD_ALIGNMENT
    if num_shards > blocks:
        with pytest.raises(ValueError, match="shards"):
            shard_bounds(size, num_shards)
        return
    bounds = shard_bounds(size, num_shards)
    assert [i for b in bounds for i in range(b.start, b.stop)] == list(range(size))
    assert all(b.start % SHARD_ALIGNMENT == 0 and b.stop > b.start for b in bounds)


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7])
def test_adam_on_shards_is_torch_adam_on_the_whole_bit_for_bit(num_shards):
    size = 64 * 41
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(size, generator=generator)
    reference = nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([reference], lr=0.01, betas=(0.9, 0.98), eps=1e-9, fused=True)
    ours = start.clone()
    moments = torch.zeros(2, size)
    shards = [
        (b, Adam(ours[b], moments[0][b], moments[1][b], 1e-9))
        for b in shard_bounds(size, num_shards)
    ]
    for number in range(1, 8):
        gradient = torch.randn(size, generator=generator)
        reference.grad = gradient / 17
        optimizer.step()
        for bounds, adam in shards:
            adam.update(gradient[bounds].clone(), Update(number, 17, 0.01, 0.9, 0.98))
        assert torch.equal(ours, reference.data)


@pytest.mark.parametrize(("lead", "share"), [(0.5, 0.05 / 0.9), (2.0, 0.2 / 0.9), (50.0, 0.5)])
def test_a_lead_is_quasi_hyperbolic_adam(lead, share):
    generator = torch.Generator().manual_seed(4)
    ours = torch.randn(64, generator=generator)
    moments = torch.zeros(2, 64)
    adam = Adam(ours, moments[0], moments[1], 1e-9)
    theirs = ours.double()
    m = v = torch.zeros(64, dtype=torch.float64)
    for t in range(1, 30):
        gradient = torch.randn(64, generator=generator)
        g = gradient.double() / 3
        m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g * g
        # the mean of gradient and moment, by the sum of the weights that all gradients have in it
        weights = share + (1 - share) * (1 - 0.9**t)
        step = (share * g + (1 - share) * m) / weights
        theirs -= 0.01 * step / ((v / (1 - 0.98**t)).sqrt() + 1e-9)
        adam.update(gradient, Update(t, 3, 0.01, 0.9, 0.98, lead))
        assert torch.allclose(ours.double(), theirs, rtol=0, atol=1e-5)
        assert torch.allclose(moments[0].double(), m, rtol=0, atol=1e-6)


def test_a_lead_is_the_moment_and_so_many_of_its_last_changes():
    """With a long memory of squares the step is the moment's, up to a scale."""
    before, after = torch.zeros(2, 64), torch.zeros(2, 64)
    parameters = torch.zeros(64)
    adam = Adam(parameters, after[0], after[1], 1e-9)
    generator = torch.Generator().manual_seed(5)
    for t in range(1, 400):
        before.copy_(after)
        parameters.zero_()
        gradient = torch.randn(64, generator=generator)
        adam.update(gradient, Update(t, 1, 1.0, 0.9, 0.98, lead=3.0))
    ahead = after[0] + 3 * (after[0] - before[0])
    assert torch.allclose(-parameters * after[1].sqrt(), ahead, rtol=1e-2, atol=1e-3)


def test_smoothing_is_the_mean_that_its_weights_describe():
    values = [torch.tensor([float(v)]) for v in (3, -1, 4, 1, -5, 9)]
    average = torch.tensor([2.0])
    weights, expected = [1.0], [2.0]
    for t, value in enumerate(values, start=1):
        d = max(0.5, 9 / (t + 10))
        smooth(average, value, d)
        weights = [w * (1 - d) for w in weights] + [d]
        expected.append(float(value))
    assert math.isclose(sum(weights), 1.0)
    total = sum(w * e for w, e in zip(weights, expected, strict=True))
    assert float(average) == pytest.approx(total, rel=1e-6)
