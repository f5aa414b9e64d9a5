"""The configuration: one source, layers, suggestions, bounds, inert options."""

import dataclasses
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtasync.config.languages import parse_language
from nmtasync.config.load import (
    convert,
    parse_assignment,
    read_toml,
    resolve,
    to_settings,
    to_toml,
)
from nmtasync.config.option import OptionField
from nmtasync.config.reference import reference_page
from nmtasync.config.schema import OPTIONS, SECTIONS, Config
from nmtasync.errors import UserError
from tests.support.repository import REPOSITORY


def write(directory: Path, text: str) -> Path:
    path = directory / "config.toml"
    path.write_text(text, "utf-8")
    return path


_texts = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: text != "none")


def values(field: OptionField) -> st.SearchStrategy:
    """Every value that an option may have, within its bounds."""
    about = field.about
    low = 0 if about.minimum is None else about.minimum
    match field.type.__name__:
        case "bool":
            strategy = st.booleans()
        case "int":
            strategy = st.integers(int(low), int(about.maximum or 10**9))
        case "float":
            strategy = st.floats(low, about.maximum or 1e9, exclude_min=about.above is not None)
        case _:
            strategy = st.sampled_from(about.choices) if about.choices else _texts
            if about.parse is parse_language:
                strategy = st.sampled_from(["de", "zh-Hans", "pt-BR", "xx"])
    if field.type is not str and about.choices:
        strategy |= st.sampled_from(about.choices)
    return strategy | st.none() if field.optional else strategy


@given(data=st.data())
def test_what_is_written_is_read_again(tmp_path_factory, data):
    sections = {
        name: section(
            **{f.key: data.draw(values(f)) for f in OPTIONS.values() if f.section == name}
        )
        for name, section in SECTIONS.items()
    }
    config = Config(**sections)
    path = write(tmp_path_factory.mktemp("config"), to_toml(config, comments=True))
    assert read_toml(path) == to_settings(config)


def test_every_default_is_allowed_and_every_option_explained():
    for name, field in OPTIONS.items():
        assert convert(field, field.default, where=name) == field.default
        assert field.about.help.endswith("."), name
        if field.type in (int, float) and not field.about.unit:
            bounds = (field.about.minimum, field.about.above)
            assert bounds != (None, None), f"{name} needs a unit or bounds"


def test_conditions_name_options_and_values_that_there_are():
    for name, field in OPTIONS.items():
        for condition in field.about.only_if:
            for other, value, _ in condition.tests:
                assert convert(OPTIONS[other], value, where=name) == value


def test_keys_are_unique_in_each_command_because_flags_are_named_after_them():
    stages = {stage for field in OPTIONS.values() for stage in field.about.stages}
    assert len(stages) > 4
    for stage in stages:
        keys = [field.key for field in OPTIONS.values() if stage in field.about.stages]
        assert len(keys) == len(set(keys)), stage


def test_the_last_layer_wins():
    config = resolve({"training.seed": 2, "model.dropout": 0.3}, {"training.seed": 3})
    assert (config.training.seed, config.model.dropout) == (3, 0.3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nsed = 1", r"unknown key training\.sed; did you mean training\.seed\?"),
        ("[trainin]\nseed = 1", r"unknown section \[trainin\]; did you mean training\?"),
        ("[model]\nlearning_rate = 1.0", r"did you mean schedule\.learning_rate\?"),
        ("[training]\nseed = 'one'", r"training\.seed must be a whole number, not 'one'"),
        ("[training]\nseed = true", r"training\.seed must be a whole number, not True"),
        ("[model]\ndropout = 1.5", r"model\.dropout must be between 0 and 0\.9, not 1\.5"),
        ("[model]\ndropout = nan", r"model\.dropout must be between 0 and 0\.9, not nan"),
        ("[schedule]\nlearning_rate = inf", r"must be at least 0, not inf"),
        ("[optimizer]\nepsilon = 0", r"optimizer\.epsilon must be more than 0, not 0"),
        ("[optimizer]\nclip_norm = 0", r'clip_norm must be more than 0 or "none", not 0'),
        ("[training]\nguided_alignment_weight = 0", r'weight must be more than 0 or "none", not 0'),
        ("[model]\ntype = 'lstm'", r"model\.type must be one of transformer, rnn"),
        ("[model\n", r"is no valid TOML"),
        ("seed = 1", r"unknown section \[seed\]"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_the_key(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        read_toml(path)
    assert caught.value.where == str(path)


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(UserError, match="can't read the config"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is no valid TOML"):
        read_toml(tmp_path / "bytes.toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.type=rnn", ("model.type", "rnn")),
        ('model.type="rnn"', ("model.type", "rnn")),
        ("schedule.learning_rate = 1e-3", ("schedule.learning_rate", 0.001)),
        ("training.patience=none", ("training.patience", None)),
        ("asynchronous.local_optimizer_batches=always", None),
        ("asynchronous.devices=cuda:0,cuda:1", ("asynchronous.devices", "cuda:0,cuda:1")),
    ],
)
def test_assignments_are_toml_or_bare_words(text, expected):
    assert parse_assignment(text) == (
        expected or ("asynchronous.local_optimizer_batches", "always")
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.type": "rnn", "model.heads": 4}, r"model\.heads: has no effect.*model\.type"),
        ({"model.dropout_rnn": 0.1}, r"model\.dropout_rnn: has no effect.*model\.type"),
        (
            {
                "model.type": "rnn",
                "model.decoder_layers": 1,
                "model.decoder_high_cell_depth": 2,
            },
            r"decoder_high_cell_depth: has no effect.*model\.decoder_layers",
        ),
        (
            {"model.type": "rnn", "model.dropout": 0.0, "model.variational_dropout": True},
            r"variational_dropout: has no effect.*model\.dropout",
        ),
        (
            {"asynchronous.local_optimizer_batches": 9},
            r"local_optimizer_batches: has no effect.*optimizer_delay",
        ),
        (
            {"optimizer.name": "sgd", "optimizer.epsilon": 1e-6},
            r"epsilon: has no effect while optimizer\.name is 'sgd' and "
            r"asynchronous\.local_optimizer_batches is 0 and "
            r"asynchronous\.drop_local_gradient is false; remove it or change optimizer\.name or "
            r"change asynchronous\.local_optimizer_batches or set "
            r"asynchronous\.drop_local_gradient to true$",
        ),
        ({"data.joint_vocabulary": False}, r"tied_embeddings.*joint_vocabulary"),
        ({"training.validate_bleu": False}, r"validate_metric.*validate_bleu"),
    ],
)
def test_an_option_without_effect_is_refused_and_both_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        resolve(settings)


def test_the_reference_page_is_that_of_the_schema():
    page = REPOSITORY / "docs" / "configuration.md"
    assert page.read_text("utf-8") == reference_page(), "run `make docs`"


def test_sections_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().training.seed = 2  # type: ignore[misc]


def test_toml_escapes(tmp_path):
    config = resolve({"data.source_language": 'a"b\\c'})
    assert tomllib.loads(to_toml(config))["data"]["source_language"] == 'a"b\\c'
