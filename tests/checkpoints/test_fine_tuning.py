"""Fine-tuning: what is kept of another run's checkpoint, what is refused, and that it is once."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nmtasync.checkpoints import store
from nmtasync.checkpoints.initialise_from import InitialModel
from nmtasync.checkpoints.load import find_checkpoint, load_model
from nmtasync.config.experiment import experiment_config
from nmtasync.config.schema import DataConfig
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.errors import UserError
from nmtasync.models.build import build_model
from nmtasync.preprocessing.learn_vocabulary import learn_vocabulary
from nmtasync.run_directory import RunDirectory
from nmtasync.training.assembly import data_digest
from nmtasync.training.simulation.recording import check_recording, read_exchange_log
from tests.support.command_line import CommandLine
from tests.support.runs import final_state, train_toy
from tests.support.toy import TOY_MODEL

TWO = {"asynchronous__devices": "cpu,cpu"}
DRIVERS = {
    "inline": {},
    "local": TWO,
    "simulated": {"asynchronous__driver": "simulated", "simulation__speeds": "1,2"},
    "synchronous": {**TWO, "asynchronous__driver": "synchronous"},
}
STILL = {"schedule__learning_rate": 0.0, "training__max_updates": 1}
"""Options under which an update changes nothing, so that what is saved is what training began
with."""


@pytest.fixture(scope="module")
def _base_template(
    tmp_path_factory: pytest.TempPathFactory, _toy_run_template: Path
) -> RunDirectory:
    root = tmp_path_factory.mktemp("base") / "base"
    run = RunDirectory(shutil.copytree(_toy_run_template, root))
    train_toy(run, training__max_updates=5, training__validate_every=2)
    store.point(run, "best", 4)
    return run


@pytest.fixture
def base(tmp_path: Path, _base_template: RunDirectory) -> RunDirectory:
    """A run whose best checkpoint is not its latest, and whose average is not its parameters."""
    return RunDirectory(shutil.copytree(_base_template.root, tmp_path / "base"))


def scored(run: RunDirectory, number: int) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints / str(number) / "model.safetensors")


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


@pytest.mark.processes
@pytest.mark.parametrize("driver", DRIVERS)
def test_every_driver_starts_from_the_scored_parameters(toy_run, base, driver):
    train_toy(toy_run, training__init_from=str(base.root), **STILL, **DRIVERS[driver])
    assert_same(scored(toy_run, 1), scored(base, 4))
    vectors, state = final_state(toy_run)
    assert torch.equal(vectors["parameters"], vectors["average"]), "which begins there too"
    assert state["progress"]["pushes"] == 1, "the clocks begin anew"


def test_the_recurrent_network_too(toy_run, base):
    small = {"model__type": "rnn", "model__tied_embeddings": "none"}
    train_toy(base, resume=False, training__max_updates=3, **small)
    train_toy(toy_run, training__init_from=str(base.root), **STILL)
    assert_same(scored(toy_run, 1), scored(base, 3))
    config = tomllib.loads(toy_run.config.read_text("utf-8"))
    assert config["model"]["type"] == "rnn", "the architecture is the checkpoint's"


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("", 4),
        ("checkpoints/best", 4),
        ("checkpoints/latest", 5),
        ("checkpoints/2", 2),
        ("checkpoints/2/model.safetensors", 2),
    ],
)
def test_a_checkpoint_is_named_in_any_of_these_ways(toy_run, base, name, number):
    initial = InitialModel(base.root / name, toy_run)
    assert initial.path == base.checkpoints / str(number)


def other_vocabularies(corpus: Path, **options: object) -> VocabularyPair:
    """A vocabulary for each side, which has pieces, and an order, that the toy run's has not."""
    sides = []
    for side in ("src", "tgt"):
        lines = (corpus / f"train.{side}").read_text("utf-8").splitlines()
        sides.append(learn_vocabulary([*lines, "xylo quiz"] * 2, DataConfig(**options)))
    return VocabularyPair(*sides, joint=False)


@pytest.mark.parametrize("tied", ["all", "target", "none"])
def test_embeddings_follow_the_text_of_their_pieces(toy_run, base, toy_corpus, tied):
    if tied != "all":
        train_toy(base, resume=False, training__max_updates=3, model__tied_embeddings=tied)
    trained = scored(base, find_checkpoint(base, "best"))
    old = VocabularyPair.load(base.vocab).source
    new = other_vocabularies(toy_corpus, vocab_size=54, vocab_type="bpe", byte_fallback=False)
    if tied == "all":
        new = VocabularyPair(new.target, new.target, joint=True)
    initial = InitialModel(base.root, toy_run)
    model = build_model(initial.config.model, new.source.size, new.target.size)
    fresh = {name: p.detach().clone() for name, p in model.named_parameters()}
    told = initial.initialise(model, new)

    rows = {"source": new.source, "target": new.target, "output": new.target}
    rows["output_bias"] = new.target
    old_pieces, counts = old.pieces(), {}
    for name, parameter in model.named_parameters():
        key = name.removeprefix("embeddings.")
        if key not in rows:
            assert torch.equal(parameter, trained[name]), name
            continue
        pieces = rows[key].pieces()
        for piece, row, begun in zip(pieces, parameter, fresh[name], strict=True):
            kept = piece in old_pieces
            expected = trained[name][old_pieces.index(piece)] if kept else begun
            assert torch.equal(row, expected), (name, piece)
        counts[key] = sum(piece in old_pieces for piece in pieces)
        assert 10 < counts[key] < len(pieces), "the test needs old pieces and new ones"
        assert [old_pieces.index(p) for p in pieces if p in old_pieces] != sorted(
            old_pieces.index(p) for p in pieces if p in old_pieces
        ), "and another order"
    if tied == "all":
        assert told == f"embeddings of {counts['target']} of {new.target.size} pieces kept"
    else:
        assert told == (
            f"embeddings of {counts['source']} of {new.source.size} source and "
            f"{counts['target']} of {new.target.size} target pieces kept"
        )


@pytest.mark.parametrize("driver", ["inline", "simulated"])
def test_resumed_it_is_not_applied_again(toy_run, base, driver):
    """The origin may even be gone; the result is that of a run that was never interrupted."""
    options = {"training__init_from": str(base.root), **DRIVERS[driver]}
    whole = RunDirectory(shutil.copytree(toy_run.root, toy_run.root.with_name("whole")))
    train_toy(whole, training__max_updates=4, **options)
    train_toy(toy_run, training__max_updates=2, **options)
    origin = {"checkpoint": str(base.checkpoints / "4"), "given": str(base.root)}
    shutil.rmtree(base.root)
    train_toy(toy_run, training__max_updates=3, **options)
    del options["training__init_from"]
    train_toy(toy_run, training__max_updates=4, **options)
    (vectors, state), (expected, _) = final_state(toy_run), final_state(whole)
    assert_same(vectors, expected)
    assert origin.items() <= state["initialised_from"].items()
    assert state["config"]["training"]["init_from"] == origin["checkpoint"]


def test_a_fine_tuned_run_is_replayed_from_the_same_start(toy_run, base):
    start = {"training__init_from": str(base.root)}
    other = RunDirectory(shutil.copytree(toy_run.root, toy_run.root.with_name("other")))
    train_toy(toy_run, training__max_updates=2, **start)
    train_toy(toy_run, training__max_updates=3)
    log = toy_run.logs / "exchanges.jsonl"
    again = {"asynchronous__driver": "simulated", "simulation__replay": str(log)}
    train_toy(other, **start, **again)
    assert_same(scored(other, 3), scored(toy_run, 3))
    config = experiment_config(other, {"training.init_from": str(base.checkpoints / "2")})
    differing = check_recording(read_exchange_log(log), config, data_digest(other), None)
    assert differing == ["training.init_from"], "another start is named"


def refusal(run: RunDirectory, **options: object) -> str:
    before = run.config.read_bytes()
    with pytest.raises(UserError) as caught:
        train_toy(run, **STILL, **options)
    assert run.config.read_bytes() == before, "a refused call changes nothing"
    return str(caught.value)


def test_another_start_is_refused_once_a_run_has_begun(toy_run, base):
    train_toy(toy_run, training__init_from=str(base.checkpoints / "2"), training__max_updates=1)
    for other in (str(base.root), None):
        message = refusal(toy_run, training__init_from=other)
        assert str(base.checkpoints / "2") in message and "--no-resume" in message
    train_toy(toy_run, resume=False, training__init_from=str(base.root), **STILL)
    assert_same(scored(toy_run, 1), scored(base, 4))
    assert "from scratch" in refusal(base, training__init_from=str(toy_run.root))


def test_another_architecture_is_refused_with_both_values(toy_run, base):
    start = {"training__init_from": str(base.root)}
    message = refusal(toy_run, **start, model__dimension=32)
    assert message.startswith("model.dimension: is 32") and "trained with 16" in message
    message = refusal(toy_run, **start, model__tied_embeddings="target")
    assert "'target'" in message and "'all'" in message
    train_toy(toy_run, **start, **STILL, model__dropout=0.3)
    assert_same(scored(toy_run, 1), scored(base, 4))


def test_options_that_nobody_has_set_are_not_blamed(toy_run, base):
    recurrent = {"model__type": "rnn", "model__state_dimension": 8}
    train_toy(base, resume=False, training__max_updates=1, **recurrent)
    start = {"training__init_from": str(base.root)}
    message = refusal(toy_run, **start, model__type="transformer")
    assert message.startswith("model.type: is 'transformer'") and "'rnn'" in message


def test_vocabularies_that_do_not_fit_are_refused(toy_run, base, toy_corpus, tmp_path):
    start = {"training__init_from": str(base.root)}
    for vocabularies, words in (
        (
            other_vocabularies(toy_corpus, vocab_size=32, byte_fallback=False),
            "matrix for both languages",
        ),
        (cyrillic(), "the source vocabulary has no piece in common"),
    ):
        directory = tmp_path / "vocab"
        directory.mkdir()
        vocabularies.save(directory)
        shutil.rmtree(toy_run.vocab)
        directory.rename(toy_run.vocab)
        message = refusal(toy_run, **start)
        assert words in message and f"--vocab-from {base.root}" in message


def cyrillic() -> VocabularyPair:
    lines = ["раз два три четыре пять", "шесть семь восемь девять"] * 20
    vocabulary = learn_vocabulary(lines, DataConfig(vocab_size=24, byte_fallback=False))
    return VocabularyPair(vocabulary, vocabulary, joint=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none", "no such run or checkpoint"),
        ("base/vocab", "is no run and no checkpoint"),
        ("base/checkpoints/validations.json", "is no run and no checkpoint"),
        ("run", "is the run itself"),
        ("empty", "holds no checkpoint"),
    ],
)
def test_what_is_no_checkpoint_of_another_run_is_refused(toy_run, base, tmp_path, name, words):
    shutil.copytree(toy_run.root, tmp_path / "empty")
    message = refusal(toy_run, training__init_from=str(tmp_path / name))
    assert words in message and str(tmp_path / name) in message


def test_a_damaged_checkpoint_is_refused(toy_run, base):
    path = base.checkpoints / "4" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert str(path) in refusal(toy_run, training__init_from=str(base.root))


def test_another_corpus_through_the_command_line(
    tmp_path: Path, toy_corpus: Path, base: RunDirectory, nmtasync: CommandLine
) -> None:
    run, corpus = tmp_path / "tuned", tmp_path / "corpus"
    corpus.mkdir()
    for side in ("src", "tgt"):
        lines = (toy_corpus / f"train.{side}").read_text("utf-8").splitlines(keepends=True)
        (corpus / side).write_text("".join(lines[:100]), "utf-8")
    pair, valid = (
        (corpus / "src", corpus / "tgt"),
        (toy_corpus / "valid.src", toy_corpus / "valid.tgt"),
    )
    made = nmtasync(
        *("preprocess", run, "--train", *pair, "--valid", *valid, "--vocab-from", base.root),
    )
    assert made.returncode == 0, made.stderr
    assert f"46 joint pieces, of {base.root}" in made.stdout
    flags = [f"--set={n}={json.dumps(v)}" for n, v in TOY_MODEL.items() if "model." not in n]
    result = nmtasync(
        "train", run, "--init-from", base.root, "--max-updates=3", "--learning-rate=1e-4", *flags
    )
    assert result.returncode == 0, result.stderr
    assert f"initialised from {base.checkpoints / '4'}: all embeddings kept" in result.stderr
    _, state = final_state(RunDirectory(run))
    trained, _ = load_model(base, "best")[:2]
    moved = scored(RunDirectory(run), 3)
    for name, parameter in trained.named_parameters():
        assert 0 < (moved[name] - parameter).abs().max() < 1e-2, f"{name} has moved a little"
    assert state["config"]["model"]["dimension"] == 16
