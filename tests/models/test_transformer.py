"""The Transformer's parts against PyTorch's own layers and against their equations."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmtasync.config.schema import DecodingConfig, ModelConfig
from nmtasync.decoding.beam import beam_search
from nmtasync.errors import UserError
from nmtasync.models.attention import SelfAttention, attend_by_products, attention_bias
from nmtasync.models.build import build_model
from nmtasync.models.feed_forward import FeedForward
from nmtasync.models.positions import (
    RotaryPositions,
    paper_sinusoids,
    rotations,
    sinusoids,
)
from nmtasync.models.transformer_layers import DecoderLayer, EncoderLayer

SIZE = 23
SMALL = ModelConfig(
    dimension=8, encoder_layers=1, decoder_layers=1, heads=2, feed_forward=12, dropout=0.0
)
VARIANTS = [(norm, activation) for norm in ("pre", "post") for activation in ("relu", "gelu")]


def layer_config(norm: str, activation: str) -> ModelConfig:
    return dataclasses.replace(SMALL, activation=activation, norm=norm)


@torch.no_grad()
def copy_parameters(ours: EncoderLayer | DecoderLayer, theirs: nn.Module) -> None:
    """Draw all parameters of ours anew, and give them to PyTorch's layer."""
    for parameter in ours.parameters():
        parameter.normal_()
    named = ours.state_dict()
    crossed = isinstance(ours, DecoderLayer)
    if crossed:
        for kind in ("weight", "bias"):
            parts = (named.pop(f"cross.{part}.{kind}") for part in ("queries", "keys_values"))
            named[f"multihead_attn.in_proj_{kind}"] = torch.cat(list(parts))
    names = {
        "attention.inputs.": "self_attn.in_proj_",
        "attention.output": "self_attn.out_proj",
        "cross.output": "multihead_attn.out_proj",
        "feed_forward.inner": "linear1",
        "feed_forward.output": "linear2",
        "attention_norm": "norm1",
        "cross_norm": "norm2",
        "feed_forward_norm": "norm3" if crossed else "norm2",
    }
    renamed = {}
    for name, value in named.items():
        prefix = next((p for p in names if name.startswith(p)), "")
        renamed[names.get(prefix, "") + name.removeprefix(prefix)] = value
    theirs.load_state_dict(renamed)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_attention_by_products_is_the_kernels(causal, dtype):
    """Forwards and backwards; in bf16 against float32, to the error of the type."""
    torch.manual_seed(0)
    heads = [torch.randn(3, 2, 5, 4, dtype=torch.float64) for _ in range(3)]
    bias = None
    if not causal:
        bias = attention_bias(torch.arange(5) < torch.tensor([[5], [2], [3]]), torch.float64)
    results = []
    for attend in (
        lambda *qkv: attend_by_products(
            *qkv, None if bias is None else bias.to(dtype), 0.0, causal=causal
        ),
        lambda *qkv: F.scaled_dot_product_attention(*qkv, attn_mask=bias, is_causal=causal),
    ):
        inputs = [each.to(dtype if not results else torch.float64) for each in heads]
        inputs = [each.requires_grad_() for each in inputs]
        attended = attend(*inputs)
        attended.square().sum().backward()
        results.append([attended.double(), *(each.grad.double() for each in inputs)])
    tolerance = 1e-12 if dtype == torch.float64 else 0.05
    for own, kernels in zip(*results, strict=True):
        assert (own - kernels).norm() <= tolerance * kernels.norm()


def test_attention_by_products_drops_weights_and_keeps_their_mean():
    torch.manual_seed(0)
    queries, keys = torch.zeros(2, 1, 1, 50, 4).unbind()
    attended = attend_by_products(queries, keys, torch.ones(1, 1, 50, 4), None, 0.5, causal=False)
    assert attended.std() > 0.05
    assert attended.mean() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("norm", "activation"), VARIANTS)
def test_the_encoder_s_layer_is_pytorch_s(norm: str, activation: str) -> None:
    torch.manual_seed(1)
    ours = EncoderLayer(layer_config(norm, activation), rotary=None).double()
    theirs = nn.TransformerEncoderLayer(
        8, 2, 12, 0.0, activation, batch_first=True, norm_first=norm == "pre", dtype=torch.float64
    )
    copy_parameters(ours, theirs)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([5, 2, 4])[:, None]
    transformed = ours(x, attention_bias(mask, x.dtype))
    expected = theirs(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(transformed[mask], expected[mask])


@pytest.mark.parametrize(("norm", "activation"), VARIANTS)
def test_the_decoder_s_layer_is_pytorch_s(norm: str, activation: str) -> None:
    torch.manual_seed(1)
    ours = DecoderLayer(layer_config(norm, activation), rotary=None).double()
    theirs = nn.TransformerDecoderLayer(
        8, 2, 12, 0.0, activation, batch_first=True, norm_first=norm == "pre", dtype=torch.float64
    )
    copy_parameters(ours, theirs)
    x = torch.randn(3, 6, 8, dtype=torch.float64)
    memory = torch.randn(3, 5, 8, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([5, 2, 4])[:, None]
    transformed = ours(x, ours.cross.read(memory), attention_bias(mask, x.dtype))
    later = torch.ones(6, 6, dtype=torch.bool).triu(1)
    expected = theirs(x, memory, tgt_mask=later, memory_key_padding_mask=~mask)
    torch.testing.assert_close(transformed, expected)


def test_gates_of_swiglu() -> None:
    torch.manual_seed(1)
    layer = FeedForward(4, 6, "swiglu", 0.0).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    gate, value = layer.inner.weight[:6] @ x[0], layer.inner.weight[6:] @ x[0]
    expected = layer.output.weight @ (gate / (1 + torch.exp(-gate)) * value)
    torch.testing.assert_close(layer(x)[0], expected)


def test_rotations_are_those_of_complex_numbers() -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 300, 3, 6, dtype=torch.float64)  # more positions than the first table
    turned = RotaryPositions(6)(x, start=5)
    rates = torch.tensor([10_000 ** (-2 * i / 6) for i in range(3)], dtype=torch.float64)
    angles = torch.arange(5, 305)[:, None, None] * rates
    expected = torch.complex(x[..., :3], x[..., 3:]) * torch.exp(1j * angles)
    torch.testing.assert_close(torch.complex(turned[..., :3], turned[..., 3:]), expected)


def test_rotary_attention_sees_distances_only() -> None:
    torch.manual_seed(1)
    rotary = RotaryPositions(4)
    attention = SelfAttention(8, 2, causal=True, rotary=rotary).double()
    x = torch.randn(2, 6, 8, dtype=torch.float64)

    def outputs(start: int) -> Tensor:
        queries, keys, _ = attention._project(x, start)
        return queries @ keys.transpose(2, 3)

    torch.testing.assert_close(outputs(0), outputs(40))
    together = torch.cat((x[:, :1], x[:, 2:]), dim=1)  # the second piece is gone: others move up
    near, far = attention(together)[:, -1], attention(x)[:, -1]
    assert not torch.allclose(near, far)


def test_rotations_of_half_precision_know_large_positions() -> None:
    x = torch.ones(1, 400, 2, dtype=torch.bfloat16)
    expected = RotaryPositions(2)(x.double())
    torch.testing.assert_close(RotaryPositions(2)(x).double(), expected, rtol=0, atol=0.01)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["sinusoidal", "sinusoidal-paper", "rotary"])
def test_positions_do_not_depend_on_how_far_the_table_reaches(positions: str) -> None:
    torch.manual_seed(1)
    network = build_model(dataclasses.replace(SMALL, positions=positions), SIZE, SIZE).eval()
    source = torch.randint(4, SIZE, (1, 700))
    long = network.encode(source, source > 0).states
    assert torch.equal(network.encode(source, source > 0).states, long)
    assert torch.isfinite(long).all()
    tables = {"sinusoidal": sinusoids, "sinusoidal-paper": paper_sinusoids, "rotary": rotations}
    table = tables[positions]
    assert torch.equal(table(700, 8)[:256], table(256, 8))


@torch.no_grad()
def test_learned_positions_end_in_a_sentence() -> None:
    """What is read too long is refused; what is written stops in time."""
    torch.manual_seed(1)
    config = dataclasses.replace(SMALL, positions="learned", max_positions=6)
    network = build_model(config, SIZE, SIZE).eval()
    source = torch.randint(4, SIZE, (3, 6))
    with pytest.raises(UserError, match=r"^model\.max_positions: is 6, but a sentence has 7 "):
        network.encode(torch.cat((source, source[:, :1]), dim=1), torch.ones(3, 7) > 0)
    decoding = DecodingConfig(beam_size=3, length_normalization=0.6)
    found = beam_search(network, source, source > 0, decoding, num_best=3)
    lengths = [len(hypothesis.ids) + 1 for hypotheses in found for hypothesis in hypotheses]
    assert max(lengths) == 6, "one at least shall come to the end of the positions"


@pytest.mark.parametrize("key", ["dropout", "attention_dropout", "feed_forward_dropout"])
def test_each_dropout_acts_by_itself(key: str) -> None:
    """On both sides; of the decoder's attentions, in the one to the source, which SSRUs keep."""
    torch.manual_seed(1)
    probabilities = {"dropout": 0.0, "attention_dropout": 0.0, "feed_forward_dropout": 0.0}
    config = dataclasses.replace(SMALL, decoder="ssru", **{**probabilities, key: 0.5})
    network = build_model(config, SIZE, SIZE)
    source = torch.randint(4, SIZE, (3, 6))
    encoded = network.encode(source, source > 0)
    assert not torch.allclose(network.encode(source, source > 0).states, encoded.states)
    target = network.decode(encoded, source)
    assert not torch.allclose(network.decode(encoded, source), target)


def test_feed_forward_dropout_follows_dropout_unless_set() -> None:
    def inside(config: ModelConfig) -> set[float]:
        layers = build_model(config, SIZE, SIZE).modules()
        return {part.dropout.probability for part in layers if isinstance(part, FeedForward)}

    config = dataclasses.replace(SMALL, dropout=0.25)
    assert inside(config) == {0.25}
    assert inside(dataclasses.replace(config, feed_forward_dropout=0.0)) == {0.0}


def test_attention_dropout_keeps_the_mean() -> None:
    torch.manual_seed(1)
    attention = SelfAttention(8, 2, causal=False, dropout=0.3).double()
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    draws = attention(x.expand(20_000, 5, 8)).detach()
    expected = attention.eval()(x)[0]
    error = 5 * float(draws.std(0).max()) / math.sqrt(len(draws))
    torch.testing.assert_close(draws.mean(0), expected, rtol=0, atol=error)


def test_activations_have_about_as_many_parameters() -> None:
    counts = [
        sum(p.numel() for p in build_model(ModelConfig(activation=name), 50, 50).parameters())
        for name in ("relu", "swiglu")
    ]
    assert counts[1] == pytest.approx(counts[0], rel=0.02)


def test_depth_scaling_makes_later_layers_begin_smaller() -> None:
    def parameters(*, depth_scaling: bool) -> dict[str, Tensor]:
        torch.manual_seed(1)
        config = ModelConfig(
            dimension=8, encoder_layers=3, decoder_layers=2, depth_scaling=depth_scaling
        )
        return dict(build_model(config, SIZE, SIZE).named_parameters())

    plain, scaled = parameters(depth_scaling=False), parameters(depth_scaling=True)
    for name, value in plain.items():
        side, number = name.split(".")[:2]
        matrix = side in ("encoder", "decoder") and value.dim() == 2
        factor = (1 + int(number)) ** -0.5 if matrix else 1.0
        torch.testing.assert_close(scaled[name], value * factor, rtol=1e-6, atol=0)
