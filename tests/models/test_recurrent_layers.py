"""The recurrent layers against their steps, and their gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmtasync.models.conditional_gru import ConditionalGRU
from nmtasync.models.gru import CellOptions, GatedLayer, gru

CELLS = {
    "plain": (0, CellOptions()),
    "normalised": (0, CellOptions(normalised=True)),
    "dropout": (0, CellOptions(dropout=0.4)),
    "deep": (2, CellOptions()),
    "no bias of the state": (0, CellOptions(state_bias=False)),
    "all": (1, CellOptions(normalised=True, dropout=0.4)),
}
"""Units more than usual, and what they are like."""

cells = pytest.mark.parametrize(("more", "cell"), CELLS.values(), ids=CELLS)


def noisy(layer: nn.Module) -> None:
    """Let parameters that start at zero or one matter, too."""
    layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def make_conditional(more: int, cell: CellOptions) -> tuple[ConditionalGRU, list[Tensor], Tensor]:
    """Make a layer, what it reads (inputs, first state, source states), and the source's bias."""
    torch.manual_seed(1)
    layer = ConditionalGRU(5, 4, 6, 7, 2 + more, cell)
    noisy(layer)
    bias = torch.zeros(2, 1, 3, dtype=torch.float64)
    bias[1, 0, 2:] = float("-inf")
    return layer, [inputs(2, 4, 5), inputs(2, 4), inputs(2, 3, 6)], bias


@cells
def test_conditional_layer_equals_its_steps(more: int, cell: CellOptions) -> None:
    layer, (x, state, states), bias = make_conditional(more, cell)
    layer.eval()
    memory = layer.read(states, bias)
    outputs, contexts, energies = layer(x, state, memory)
    whole = torch.cat((outputs, contexts), dim=2)
    now, steps = state.unsqueeze(1), []
    for position in range(4):
        now, context = layer.step(x[:, position, None], now, memory)
        steps.append(torch.cat((now, context), dim=2))
    torch.testing.assert_close(whole, torch.cat(steps, dim=1), rtol=0, atol=1e-12)
    torch.testing.assert_close(energies.softmax(2) @ states, contexts)


@cells
def test_gradients_of_the_conditional_layer(more: int, cell: CellOptions) -> None:
    """A wrong derivative anywhere in the recurrence would show here."""
    layer, leaves, bias = make_conditional(more, cell)

    def run(x: Tensor, state: Tensor, states: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(2)  # the same dropout each time
        outputs, contexts, _ = layer(x, state, layer.read(states, bias))
        return outputs, contexts

    assert torch.autograd.gradcheck(run, (*leaves, *layer.parameters()), fast_mode=True)


@cells
def test_gated_layer_equals_its_steps(more: int, cell: CellOptions) -> None:
    """One mask of dropout for each unit, the same in all steps, and not on the way round it."""
    torch.manual_seed(1)
    layer = GatedLayer(5, 4, 1 + more, cell)
    noisy(layer)
    x, state = inputs(2, 6, 5), inputs(2, 4)
    torch.manual_seed(2)
    whole = layer.run(x, state)
    torch.manual_seed(2)
    masks = [layer.state_dropout.mask(state)]
    masks += [layer.transitions.dropout.mask(state) for _ in layer.transitions.units]

    def product(
        x: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor, gain: Tensor | None
    ) -> Tensor:
        x = F.linear(x if mask is None else x * mask, weight)
        return x + bias if gain is None else F.layer_norm(x, x.shape[-1:]) * gain + bias

    for position in range(6):
        reads = (layer.weight_ih_l0, layer.bias_ih_l0, layer.input_gain)
        shares = product(x[:, position], None, *reads)
        units = [(layer.weight_hh_l0, layer.bias_hh_l0, layer.state_gain)]
        units += [unit.parts() for unit in layer.transitions.units]  # type: ignore[operator]
        for unit, mask in zip(units, masks, strict=True):
            state = gru(shares, product(state, mask, *unit), state)
            shares = torch.zeros_like(shares)
        torch.testing.assert_close(whole[:, position], state, rtol=0, atol=1e-12)


@cells
def test_gradients_of_the_gated_layer(more: int, cell: CellOptions) -> None:
    torch.manual_seed(1)
    layer = GatedLayer(5, 4, 1 + more, cell)
    noisy(layer)

    def run(x: Tensor, state: Tensor, *_: Tensor) -> Tensor:
        torch.manual_seed(2)
        return layer.run(x, state)

    assert torch.autograd.gradcheck(
        run, (inputs(2, 4, 5), inputs(2, 4), *layer.parameters()), fast_mode=True
    )


def test_normalised_cells_do_not_care_for_the_scale_of_matrices() -> None:
    layer, (x, state, states), bias = make_conditional(1, CellOptions(normalised=True))
    gated = GatedLayer(5, 4, 2, CellOptions(normalised=True)).double()

    def run() -> Tensor:
        conditional = torch.cat(layer(x, state, layer.read(states, bias))[:2], dim=2)
        return torch.cat((conditional, gated.run(x, state)), dim=2)

    before = run()
    with torch.no_grad():
        for parameter in (*layer.parameters(), *gated.parameters()):
            if parameter.dim() == 2:
                parameter.mul_(1000.0)
    torch.testing.assert_close(run(), before, rtol=1e-3, atol=1e-3)


def test_the_unit_is_pytorch_s() -> None:
    torch.manual_seed(1)
    cell = nn.GRUCell(3, 4)
    x, state = torch.randn(5, 3), torch.randn(5, 4)
    inputs = F.linear(x, cell.weight_ih, cell.bias_ih)
    recurrent = F.linear(state, cell.weight_hh, cell.bias_hh)
    torch.testing.assert_close(gru(inputs, recurrent, state), cell(x, state))


@pytest.mark.parametrize("make", [GatedLayer, ConditionalGRU])
def test_recurrent_matrices_are_orthogonal_at_first(make: Callable[..., nn.Module]) -> None:
    torch.manual_seed(1)
    sizes = (5, 4) if make is GatedLayer else (5, 4, 6, 7)
    layer = make(*sizes, 4, CellOptions())
    recurrent = [p for name, p in layer.named_parameters() if p.shape == (12, 4)]
    assert len(recurrent) == 4
    for weight in recurrent:
        for block in weight.chunk(3):
            torch.testing.assert_close(block @ block.t(), torch.eye(4))
