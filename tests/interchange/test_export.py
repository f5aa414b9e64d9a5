"""Networks in formats of other programs, whose own libraries compute what we do."""

from __future__ import annotations

import io
import json

import pytest
import torch
from safetensors.torch import load_file

from nmtasync.checkpoints.load import load_model
from nmtasync.config.presets import PRESETS
from nmtasync.data.vocabulary import Vocabulary
from nmtasync.interchange.formats import EXPORTED
from tests.support.command_line import succeeded
from tests.support.interchange import (
    MOST_PIECES,
    assert_same_but_for_ties,
    our_scores,
)
from tests.support.repository import REPOSITORY

pytestmark = pytest.mark.slow

FITTING_CTRANSLATE2 = {
    "pre-norm": {},
    "post-norm": {"norm": "post", "activation": "gelu"},
    "deep encoder": {"encoder_layers": 5, "decoder_layers": 1},
    "learned positions": {"positions": "learned", "max_positions": 90, "activation": "swiglu"},
    "zero start, swish": {"norm": "post", "activation": "swish", "zero_start": True},
    "rotary": {"positions": "rotary", "norm": "post", "activation": "swiglu"},
    "two vocabularies": {"tied_embeddings": "target"},
    "three matrices": {"tied_embeddings": "none"},
}


@pytest.mark.parametrize("options", FITTING_CTRANSLATE2.values(), ids=FITTING_CTRANSLATE2)
def test_ctranslate2_scores_and_translates_alike(options, make_run, pairs, tmp_path, nmtasync):
    ctranslate2 = pytest.importorskip("ctranslate2")
    run, out = make_run(**options), tmp_path / "ct2"
    succeeded(nmtasync("export", run.root, "--format", "ctranslate2", "-o", out))
    translator = ctranslate2.Translator(str(out), intra_threads=1)
    source, target = (Vocabulary((out / f"{s}.spm").read_bytes()) for s in ("source", "target"))
    pieces = [source.spell(ids) for ids in source.encode(pairs.source)]
    references = [target.spell(ids) for ids in target.encode(pairs.target)]
    theirs = translator.score_batch(pieces, references, max_batch_size=16)
    for ours, other in zip(our_scores(run, pairs), theirs, strict=True):
        assert ours.pieces == other.tokens
        assert other.log_probs == pytest.approx(ours.piece_scores, abs=1e-4)
    found = translator.translate_batch(
        pieces,
        beam_size=1,
        disable_unk=True,
        suppress_sequences=[["<pad>"], ["<s>"]],
        max_decoding_length=MOST_PIECES,
        return_end_token=True,
    )
    assert_same_but_for_ties(run, pairs.source, [r.hypotheses[0] for r in found])


def test_ctranslate2_keeps_fewer_bits_if_asked(make_run, tmp_path, nmtasync):
    pytest.importorskip("ctranslate2")
    run = make_run(positions="rotary")  # which has no table
    sizes = []
    for flags in ([], ["--quantization", "int8"]):
        out = tmp_path / f"ct2-{len(flags)}"
        succeeded(nmtasync("export", run.root, "--format", "ctranslate2", "-o", out, *flags))
        sizes.append((out / "model.bin").stat().st_size)
    assert sizes[1] < 0.4 * sizes[0]


@pytest.mark.parametrize("options", [{}, {"type": "rnn", "heads": None, "feed_forward": None}])
def test_safetensors_has_all_parameters_and_what_they_are(options, make_run, tmp_path, nmtasync):
    run, out = make_run(**options), tmp_path / "plain"
    succeeded(nmtasync("export", run.root, "--format", "safetensors", "-o", out))
    tensors = load_file(out / "model.safetensors")
    model, config, _ = load_model(run)
    ours = dict(model.named_parameters())
    assert tensors.keys() == ours.keys()
    assert all(torch.equal(tensors[name], ours[name]) for name in ours)
    about = json.loads((out / "architecture.json").read_text("utf-8"))
    assert about["parameters"] == {name: list(tensor.shape) for name, tensor in ours.items()}
    assert about["model"]["dimension"] == config.model.dimension
    assert about["control_pieces"] == {"pad": 0, "unk": 1, "bos": 2, "eos": 3}
    assert (out / "vocab/joint.model").read_bytes() == (run.vocab / "joint.model").read_bytes()


def test_a_network_without_a_place_is_refused_by_its_option(make_run, tmp_path, nmtasync):
    run, out = make_run(decoder="ssru"), tmp_path / "ct2"
    refused = nmtasync("export", run.root, "--format", "ctranslate2", "-o", out)
    assert refused.returncode == 2 and not out.exists()
    assert refused.stderr == (
        "nmtasync: error: model.decoder: is 'ssru', but CTranslate2 has 'attention' only; train "
        "with --set model.decoder=attention, or with --set model.preset=marian, which every "
        "format holds\n"
    )


@pytest.mark.parametrize(
    ("preset", "kinds"), [("marian", EXPORTED), ("marian-s2s", ("marian", "safetensors"))]
)
def test_networks_of_a_preset_fit(preset, kinds, make_run, tmp_path, nmtasync):
    pytest.importorskip("ctranslate2")
    options = {name.removeprefix("model."): value for name, value in PRESETS[preset].items()}
    sizes = {"heads": None, "feed_forward": None, **options, "dimension": 32}
    layers = {"encoder_layers": 1, "decoder_layers": 1}
    run = make_run(**{**sizes, **layers, "state_dimension": None})
    for kind in kinds:
        succeeded(nmtasync("export", run.root, "--format", kind, "-o", tmp_path / kind))


def test_a_directory_with_something_in_it_is_left_alone(make_run, tmp_path, nmtasync):
    run, out = make_run(), tmp_path / "mine"
    out.mkdir()
    (out / "notes").write_text("mine", "utf-8")
    refused = nmtasync("export", run.root, "--format", "safetensors", "-o", out)
    assert refused.returncode == 2 and "is there already" in refused.stderr
    assert [path.name for path in out.iterdir()] == ["notes"]


def test_bits_are_of_ctranslate2_alone(make_run, tmp_path, nmtasync):
    flags = "--quantization", "int8", "-o", tmp_path / "plain"
    refused = nmtasync("export", make_run().root, "--format", "safetensors", *flags)
    assert refused.returncode == 2 and "--quantization int8" in refused.stderr


def test_what_is_missing_is_named(make_run, tmp_path, nmtasync, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ctranslate2.specs", None)
    flags = "--format", "ctranslate2", "-o", tmp_path / "ct2"
    refused = nmtasync("export", make_run().root, *flags)
    assert refused.returncode == 2 and "pip install 'nmtasync[export]'" in refused.stderr
    assert not (tmp_path / "ct2").exists()


@pytest.mark.parametrize(
    ("number", "kind", "library", "name", "num_lines"),
    [
        (1, "ctranslate2", "ctranslate2", "de-en-ct2", 3),
        (2, "huggingface", "transformers", "de-en-hf", 1),
    ],
)
def test_the_documented_lines_translate(
    number, kind, library, name, num_lines, make_run, pairs, tmp_path, nmtasync, monkeypatch
):
    pytest.importorskip(library)
    run, out = make_run(norm="post"), tmp_path / name
    succeeded(nmtasync("export", run.root, "--format", kind, "-o", out))
    if kind == "huggingface":  # a network that has learned nothing would go on to 512 pieces
        path = out / "generation_config.json"
        settings = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps({**settings, "max_length": 20}), "utf-8")
    page = (REPOSITORY / "docs/export.md").read_text("utf-8")
    code = page.split("```python\n")[number].split("```")[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in pairs.source[:3])))
    monkeypatch.setattr("sys.stdout", printed := io.StringIO())
    exec(code, {})
    assert len(printed.getvalue().splitlines()) == num_lines
