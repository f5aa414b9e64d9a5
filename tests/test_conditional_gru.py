"""The hand-written backward pass of the conditional GRU against autograd."""

from __future__ import annotations

import torch

from nmtasync.models.conditional_gru import ConditionalGRU, gru


def test_unrolled_equals_steps_with_all_gradients() -> None:
    """A wrong derivative anywhere in the recurrence would show here."""
    torch.manual_seed(1)
    layer = ConditionalGRU(5, 4, 6).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    x = torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True)
    state = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    states = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(3, 1, 5, dtype=torch.float64)
    bias[1, 0, 3:] = float("-inf")
    leaves = [x, state, states, *layer.parameters()]
    weights = torch.randn(3, 7, 10, dtype=torch.float64)

    whole = torch.cat(layer(x, state, layer.read(states, bias)), dim=2)
    gradients = torch.autograd.grad((whole * weights).sum(), leaves)

    memory, now, steps = layer.read(states, bias), state.unsqueeze(1), []
    for position in range(7):
        now, context = layer.step(x[:, position, None], now, memory)
        steps.append(torch.cat((now, context), dim=2))
    stepped = torch.cat(steps, dim=1)
    expected = torch.autograd.grad((stepped * weights).sum(), leaves)

    torch.testing.assert_close(whole, stepped, rtol=0, atol=1e-12)
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-10)


def test_the_unit_is_pytorch_s() -> None:
    torch.manual_seed(1)
    cell = torch.nn.GRUCell(3, 4)
    x, state = torch.randn(5, 3), torch.randn(5, 4)
    inputs = torch.nn.functional.linear(x, cell.weight_ih, cell.bias_ih)
    recurrent = torch.nn.functional.linear(state, cell.weight_hh, cell.bias_hh)
    torch.testing.assert_close(gru(inputs, recurrent, state), cell(x, state))
