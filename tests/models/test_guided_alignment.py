"""Guided alignment: what it computes, that it is learned, and where it is refused."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nmtasync.checkpoints.load import load_model
from nmtasync.config.load import resolve
from nmtasync.config.schema import DataConfig, ModelConfig, TrainingConfig
from nmtasync.data.batches import Alignment, Batch, collate
from nmtasync.data.corpus import PairPaths
from nmtasync.data.shards import ParallelShards
from nmtasync.data.vocabulary import BOS, EOS, VocabularyPair
from nmtasync.errors import UserError
from nmtasync.models.build import build_model
from nmtasync.models.guided_alignment import alignment_loss
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.models.transformer import Transformer
from nmtasync.optim.flat import FlatModel
from nmtasync.preprocessing.preprocess import preprocess
from nmtasync.profiling.profile import profile
from nmtasync.run_directory import RunDirectory
from nmtasync.worker.gradient import GradientFunction
from nmtasync.worker.objective import run_network, sum_losses
from tests.support.command_line import CommandLine, one_line
from tests.support.networks import SIZE, sentences, slopes
from tests.support.runs import final_state, train_toy
from tests.support.toy import TOY_FLAGS, TOY_MODEL, toy_batch, write_toy_corpus

GUIDED = {"training__guided_alignment_weight": 1.0}


@pytest.fixture(scope="session")
def _aligned_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits whose translation is in reverse order, with the links that say so."""
    directory = tmp_path_factory.mktemp("aligned")
    write_toy_corpus(directory)
    lengths = [len(line.split()) for line in (directory / "train.src").open(encoding="utf-8")]
    links = [" ".join(f"{i}-{n - 1 - i}" for i in range(n)) for n in lengths]
    (directory / "links").write_text("\n".join(links) + "\n")
    train, valid = (
        PairPaths(directory / f"{part}.src", directory / f"{part}.tgt")
        for part in ("train", "valid")
    )
    run = RunDirectory(directory / "run")
    options = DataConfig(
        vocab_size=46, byte_fallback=False, deduplicate=False, drop_protected=False
    )
    aligned = dataclasses.replace(train, alignment=directory / "links")
    preprocess(run, [aligned], [valid], options)
    return run.root


@pytest.fixture
def aligned_run(tmp_path: Path, _aligned_template: Path) -> RunDirectory:
    """A fresh RUN with alignments."""
    return RunDirectory(shutil.copytree(_aligned_template, tmp_path / "run"))


def test_outputs_are_those_of_decode_and_weights_a_distribution(model: SequenceToSequence) -> None:
    model.train()
    source, mask = sentences([5, 2, 7])
    target_input, _ = sentences([6, 6, 6], seed=2)
    torch.manual_seed(3)
    outputs = model.decode(model.encode(source, mask), target_input)
    torch.manual_seed(3)
    attending, log_weights = model.decode_with_attention(model.encode(source, mask), target_input)
    assert torch.equal(attending, outputs)
    weights = log_weights.exp()
    assert not weights[~mask[:, None].expand_as(weights)].any()
    torch.testing.assert_close(weights.sum(2), torch.ones(3, 6, dtype=torch.float64))


def test_weights_of_the_transformer_are_the_heads_mean() -> None:
    torch.manual_seed(1)
    config = ModelConfig(dimension=8, encoder_layers=1, decoder_layers=3, heads=2, dropout=0.0)
    network = build_model(config, SIZE, SIZE).double()
    assert isinstance(network, Transformer)
    source, mask = sentences([5, 2])
    calls = []
    for each in network.decoder:
        each.cross.register_forward_pre_hook(lambda cross, inputs: calls.append((cross, inputs)))
    encoded = network.encode(source, mask)
    network.decode(encoded, source)
    for layer, (cross, (x, (keys, _), _)) in enumerate(list(calls), start=1):
        expected = torch.zeros(2, 5, 5, dtype=torch.float64)
        for head in range(2):
            queries = cross.queries(x)[..., 4 * head : 4 * head + 4]
            scores = queries @ keys[:, head].transpose(1, 2) / 2.0
            expected += scores.masked_fill(~mask[:, None], float("-inf")).softmax(2) / 2
        _, weights = network.decode_with_attention(encoded, source, layer)
        torch.testing.assert_close(weights.exp(), expected)
        if layer == 2:
            assert torch.equal(network.decode_with_attention(encoded, source)[1], weights)


def test_gradients_equal_finite_differences(model: SequenceToSequence) -> None:
    """Of weights and outputs together, along random directions of all parameters."""
    source, mask = sentences([4, 2])
    target_input, _ = sentences([3, 2], seed=2)
    links = torch.tensor([0 * 4 + 1, 0 * 4 + 3, 2 * 4 + 0, 12 + 1 * 4 + 1])
    shares = torch.tensor([0.5, 0.5, 1.0, 1.0])

    def loss() -> torch.Tensor:
        outputs, weights = model.decode_with_attention(model.encode(source, mask), target_input)
        return alignment_loss(weights, links, shares) + outputs.square().sum()

    loss().backward()
    for name, slope, expected in slopes(model, loss):  # the output projection has no gradient
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-5), name


def test_the_loss_is_the_cross_entropy_with_the_links() -> None:
    torch.manual_seed(1)
    log_weights = torch.randn(2, 3, 4).log_softmax(2)
    alignment = torch.zeros(2, 3, 4)
    alignment[0, 0, 1] = alignment[1, 2, 3] = 1.0
    alignment[0, 2, [0, 3]] = 0.5
    links = alignment.flatten().nonzero().squeeze(1)
    expected = F.cross_entropy(log_weights.flatten(0, 1), alignment.flatten(0, 1), reduction="sum")
    loss = alignment_loss(log_weights, links, alignment.flatten()[links])
    torch.testing.assert_close(loss, expected)


def test_a_batch_equals_its_sentences_written_out(aligned_run: RunDirectory) -> None:
    """From text to gradients: alone, without padding, with dense links of words and plain sums."""
    corpus = ParallelShards.open(aligned_run.data / "train")
    vocabularies = VocabularyPair.load(aligned_run.vocab)
    torch.manual_seed(1)
    options = ModelConfig(dimension=8, encoder_layers=1, decoder_layers=1, heads=2, dropout=0.0)
    network = build_model(options, 46, 46).double()
    assert isinstance(network, Transformer)
    config = TrainingConfig(guided_alignment_weight=0.7)
    batch = collate(corpus, range(6), aligned=True)
    outputs, log_weights = run_network(network, batch, config)
    loss, _ = sum_losses(network, batch, outputs, log_weights, config)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()

    attended = []
    cross = network.get_submodule("decoder.0.cross")
    cross.register_forward_pre_hook(lambda _, inputs: attended.append(inputs))
    expected = torch.zeros((), dtype=torch.float64)
    all_source_ids = np.split(corpus.source_tokens, corpus.source_offsets[1:-1])
    all_target_ids = np.split(corpus.target_tokens, corpus.target_offsets[1:-1])
    for row in range(6):
        source_ids, target_ids = all_source_ids[row].tolist(), all_target_ids[row].tolist()
        words = []  # of each piece, from both ends of a pair in reverse order
        for vocabulary, ids in (
            (vocabularies.source, source_ids),
            (vocabularies.target, target_ids),
        ):
            texts = vocabulary.decode([ids])[0].split()
            lengths = [len(pieces) for pieces in vocabulary.encode(texts)]
            words.append([n for n, length in enumerate(lengths) for _ in range(length)])
        num_words = words[0][-1] + 1
        source_words = [*words[0], -1]
        target_words = [*(num_words - 1 - word for word in words[1]), -1]
        linked = [[float(s == t) for s in source_words] for t in target_words]
        source = torch.tensor([[*source_ids, EOS]])
        target = torch.tensor([[*target_ids, EOS]])
        given = torch.cat((torch.tensor([[BOS]]), target[:, :-1]), dim=1)
        logits = network.logits(network(source, source > 0, given))
        expected += F.cross_entropy(logits[0], target[0], reduction="sum", label_smoothing=0.1)
        x, (keys, _), _ = attended[-1]
        queries = cross.queries(x)[0]
        heads = [
            (queries[:, 4 * head : 4 * head + 4] @ keys[0, head].T / 2.0).softmax(1)
            for head in range(2)
        ]
        shares = torch.tensor(linked) / torch.tensor(linked).sum(1, keepdim=True)
        expected -= 0.7 * (shares * (sum(heads) / 2.0).log()).sum()
    torch.testing.assert_close(loss, expected)
    expected.backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)


def guided_batch() -> Batch:
    """Sentences of three lengths, each piece linked to itself."""
    batch = toy_batch()
    real = batch.real_targets
    alignment = Alignment(9 * real + real % 9, torch.ones(19))
    return dataclasses.replace(batch, alignment=alignment)


def gradient(model_type: str, **options: object) -> tuple[torch.Tensor, float]:
    torch.manual_seed(1)
    config = ModelConfig(type=model_type, dimension=32, encoder_layers=2, decoder_layers=2)
    flat = FlatModel(build_model(config, 46, 46))
    function = GradientFunction(flat, TrainingConfig(**options))  # type: ignore[arg-type]
    if function.scale is not None:
        function.scale.exponent = 7
    figures = function.add(guided_batch(), seed=3)
    return flat.gradients, float(figures.cross_entropy)


@pytest.mark.parametrize("model_type", ["transformer", "rnn"])
@pytest.mark.parametrize("how", ["bf16", "fp16"])
def test_gradients_in_16_bits_point_where_those_in_float32_do(model_type: str, how: str) -> None:
    off, off_loss = gradient(model_type, precision="fp32")
    exact, exact_loss = gradient(model_type, precision="fp32", guided_alignment_weight=5.0)
    near, _ = gradient(model_type, precision=how, guided_alignment_weight=5.0)
    assert exact_loss == off_loss, "what is reported is the cross-entropy alone"
    assert torch.cosine_similarity(near, exact, dim=0) > 0.999
    assert torch.cosine_similarity(off, exact, dim=0) < 0.99


def attention_hits(run: RunDirectory) -> float:
    """How often the piece that attention looks at most is one that is linked."""
    model, *_ = load_model(run, "latest")
    corpus = ParallelShards.open(run.data / "train")
    batch = collate(corpus, range(100), aligned=True)
    assert batch.alignment is not None
    with torch.no_grad():
        encoded = model.encode(batch.source, batch.source_mask)
        _, weights = model.decode_with_attention(encoded, batch.target_input)
    linked = torch.zeros(weights.numel())
    linked[batch.alignment.links] = 1.0
    linked = linked.view(weights.shape)
    hits = linked.gather(2, weights.argmax(2, keepdim=True)).squeeze(2)
    return float(hits[linked.any(2)].mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "encoder_layers", "updates"), [("transformer", 2, 300), ("rnn", 1, 150)]
)
def test_attention_learns_to_follow_the_links(
    aligned_run: RunDirectory, model_type: str, encoder_layers: int, updates: int
) -> None:
    """The Transformer takes longer: its encoder first has to find out how far the end is."""
    options = {"model__type": model_type, "model__encoder_layers": encoder_layers}
    options |= {"model__dimension": 32, "model__dropout": 0.0}
    options |= {"schedule__warmup_updates": 10, "optimizer__clip_norm": None}
    options |= {"training__max_updates": updates, "training__validate_every": 1000}
    train_toy(aligned_run, schedule__learning_rate=5e-3, **GUIDED, **options)
    assert attention_hits(aligned_run) > 0.9


DRIVERS = {
    "simulated": {"asynchronous__driver": "simulated", "simulation__speeds": "1,1"},
    "local": {"asynchronous__devices": "cpu,cpu"},
    "synchronous": {"asynchronous__devices": "cpu,cpu", "asynchronous__driver": "synchronous"},
}


@pytest.mark.processes
@pytest.mark.parametrize("driver", DRIVERS.values(), ids=DRIVERS)
def test_every_driver_guides(aligned_run: RunDirectory, tmp_path: Path, driver: dict) -> None:
    other = RunDirectory(shutil.copytree(aligned_run.root, tmp_path / "other"))
    train_toy(aligned_run, training__max_updates=2, **driver)
    train_toy(other, training__max_updates=2, **driver, **GUIDED)
    vectors = [final_state(run)[0]["parameters"] for run in (aligned_run, other)]
    assert not torch.allclose(*vectors)


def test_off_is_as_if_there_were_no_alignments(
    aligned_run: RunDirectory, toy_run_elsewhere: RunDirectory
) -> None:
    for run in (aligned_run, toy_run_elsewhere):
        train_toy(run, training__max_updates=4)
    vectors = [final_state(run)[0] for run in (aligned_run, toy_run_elsewhere)]
    assert all(torch.equal(vectors[0][name], vectors[1][name]) for name in vectors[0])


@pytest.fixture
def toy_run_elsewhere(tmp_path: Path, _toy_run_template: Path) -> RunDirectory:
    """The same corpus without alignments, beside `aligned_run`."""
    return RunDirectory(shutil.copytree(_toy_run_template, tmp_path / "plain"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layer": 1}, "guided_alignment_weight is 'none'"),
        ({"weight": 0.1, "layer": 2}, "model.decoder_layers is 1"),
    ],
)
def test_what_has_no_effect_is_refused(options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        resolve(TOY_MODEL, {f"training.guided_alignment_{k}": v for k, v in options.items()})


def test_the_recurrent_network_has_no_layers_to_choose() -> None:
    with pytest.raises(UserError, match=r"guided_alignment_layer.*model.type is 'rnn'"):
        resolve(
            {"model.type": "rnn"},
            {"training.guided_alignment_weight": 0.1, "training.guided_alignment_layer": 1},
        )


def test_a_run_without_alignments_is_refused(
    toy_run_elsewhere: RunDirectory, nmtasync: CommandLine
) -> None:
    flags = [*TOY_FLAGS, "--guided-alignment-weight=0.1", "--max-updates=2"]
    refused = nmtasync("train", toy_run_elsewhere.root, *flags)
    assert refused.returncode == 2
    assert "preprocess with --alignments" in one_line(refused.stderr)
    assert not toy_run_elsewhere.checkpoints.exists()


@pytest.mark.processes
def test_a_profile_is_that_of_guided_training(
    aligned_run: RunDirectory, toy_run_elsewhere: RunDirectory
) -> None:
    settings = {**TOY_MODEL, "training.precision": "fp32", "training.guided_alignment_weight": 0.1}
    with pytest.raises(UserError, match="has no alignments"):
        profile(toy_run_elsewhere, settings, "cpu", 1, lambda *_: None)
    (figures,) = profile(aligned_run, settings, "cpu", 1, lambda *_: None).batches
    assert figures.operations > 0
