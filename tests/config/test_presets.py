"""Presets are shorthands for settings, and give way to what stands beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.options import read_settings
from nmtasync.config.load import read_toml, resolve, to_toml
from nmtasync.config.presets import PRESETS
from nmtasync.config.schema import ModelConfig
from nmtasync.errors import UserError
from nmtasync.models.build import build_model


def sizes(model: ModelConfig) -> tuple[int | float | None, ...]:
    layers = model.encoder_layers, model.decoder_layers
    return model.dimension, model.feed_forward, model.heads, *layers, model.dropout


def shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in build_model(model, 9, 9).named_parameters()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tiny", (128, 256, 4, 4, 4, 0.3)),
        ("small", (256, 1024, 4, 3, 3, 0.1)),
        ("base", (512, 2048, 8, 6, 6, 0.1)),
        ("big", (1024, 4096, 16, 6, 6, 0.3)),
        ("marian", (512, 2048, 8, 6, 6, 0.1)),
        ("marian-s2s", (512, None, None, 1, 1, 0.1)),
    ],
)
def test_sizes(name: str, expected: tuple[float, ...]) -> None:
    assert sizes(resolve({"model.preset": name}).model) == expected


def test_small_is_what_holds_by_default() -> None:
    assert shapes(resolve({"model.preset": "small"}).model) == shapes(ModelConfig())


def test_settings_of_the_same_place_win_in_any_order() -> None:
    expected = (64, 256, 4, 4, 4, 0.3)
    for settings in (
        {"model.preset": "tiny", "model.dimension": 64},
        {"model.dimension": 64, "model.preset": "tiny"},
    ):
        assert sizes(resolve(settings).model) == expected


def test_a_preset_replaces_sizes_of_earlier_places_and_later_ones_replace_its() -> None:
    first = {"model.preset": "big", "model.heads": 8, "model.decoder_layers": 1}
    config = resolve(first, {"model.preset": "tiny"}, {"model.dropout": 0.2})
    assert sizes(config.model) == (128, 256, 4, 4, 4, 0.2)
    assert sizes(resolve(first, {"model.preset": None}).model) == (1024, 4096, 8, 6, 1, 0.3)


def test_what_is_written_holds_the_sizes_and_keeps_them(tmp_path: Path) -> None:
    config = resolve({"model.preset": "tiny", "model.decoder_layers": 1})
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config), "utf-8")
    kept = read_toml(path)
    assert {name: kept[name] for name in PRESETS["tiny"]} == {
        **PRESETS["tiny"],
        "model.decoder_layers": 1,
    }
    assert resolve(kept) == config


def test_the_command_line_s_preset_replaces_the_file_s_sizes(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[model]\ndimension = 512\ndropout = 0.2\n", "utf-8")
    settings = read_settings(
        (path,), ("model.dropout=0.4", "model.preset=tiny"), {"training.seed": 3}
    )
    assert sizes(resolve(settings).model) == (128, 256, 4, 4, 4, 0.4)
    assert resolve(settings).training.seed == 3


def test_other_networks_have_none_of_a_transformer() -> None:
    with pytest.raises(UserError, match=r"^model\.preset: has no effect while model\.type"):
        resolve({"model.preset": "tiny", "model.type": "rnn"})
