"""Whole runs in this process and through the real command line: resume, faults, limits."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections import Counter

import pytest
import torch

from nmtasync.checkpoints import store
from nmtasync.checkpoints.load import load_model
from nmtasync.config.schema import DataConfig
from nmtasync.data.corpus import PairPaths
from nmtasync.errors import TrainingError, UserError
from nmtasync.preprocessing.preprocess import preprocess
from nmtasync.run_directory import RunDirectory
from nmtasync.training.asynchronous.local import LocalDriver
from nmtasync.training.validation.validator import Validator
from tests.support.processes import children, start_training, wait_for_line, wait_gone
from tests.support.runs import events, final_state, train_toy, words_of_an_epoch

PARTS = ("train", "valid")

LOCAL = {
    "asynchronous__optimizer_delay": 2,
    "asynchronous__local_optimizer_batches": "always",
}


WRITE_BACK = {**LOCAL, "asynchronous__local_write_back": True}
BUFFER = {"asynchronous__rule": "buffer", "asynchronous__buffer_pushes": 3}
COMPENSATED = {"asynchronous__rule": "delay-compensation+staleness-aware"}
OUTER = {**LOCAL, "asynchronous__local_push": "delta", "asynchronous__rule": "outer-nesterov"}


DRAWN = {"data__source_subword_alpha": 0.3, "data__target_subword_alpha": 0.1}
DROPPING = {
    "asynchronous__drop_rate": 0.9,
    "asynchronous__drop_warmup_pushes": 8,
    "asynchronous__drop_local_gradient": True,
}


ROUNDING = {"asynchronous__exchange_precision": "bf16"}


@pytest.mark.parametrize(
    "options",
    [{}, DRAWN, LOCAL, WRITE_BACK, BUFFER, COMPENSATED, OUTER, DROPPING, ROUNDING],
    ids=[
        "plain",
        "drawn",
        "local_optimizer",
        "write_back",
        "buffer",
        "compensation",
        "outer",
        "dropping",
        "rounding",
    ],
)
def test_stopped_and_resumed_is_never_interrupted_bit_for_bit(tmp_path, toy_run, options):
    other = RunDirectory(shutil.copytree(toy_run.root, tmp_path / "other"))
    options = {**options, "training__validate_every": 4}
    train_toy(toy_run, training__max_updates=13, **options)
    for updates in (5, 6, 13):
        train_toy(other, training__max_updates=updates, **options)
    (whole, whole_state), (pieces, pieces_state) = final_state(toy_run), final_state(other)
    assert whole.keys() == pieces.keys()
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)
    for key in ("cursor", "progress", "workers", "versions"):
        assert whole_state[key] == pieces_state[key]


def test_what_was_scored_is_what_is_saved(toy_run):
    """Validate the saved model anew, through the loader that evaluation uses."""
    train_toy(toy_run, training__max_updates=6, training__validate_every=3)
    for entry in events(toy_run, "valid"):
        model, config, _ = load_model(toy_run, str(entry["updates"]))
        again = Validator(toy_run, model, config, "cpu").cross_entropy()
        assert again == pytest.approx(entry["cross_entropy"], rel=1e-9)


def test_checkpoints_can_be_averaged(toy_run):
    options = {"training__validate_every": 2, "training__keep_checkpoints": 9}
    train_toy(toy_run, training__max_updates=8, **options)
    single = [dict(load_model(toy_run, str(n))[0].named_parameters()) for n in (2, 4, 6)]
    model, _, numbers = load_model(toy_run, "6", average=3)
    assert numbers == [2, 4, 6]
    for name, parameter in model.named_parameters():
        mean = torch.stack([parameters[name] for parameters in single]).double().mean(0)
        assert torch.equal(parameter, mean.float())
    with pytest.raises(UserError, match="4 checkpoints up to 8, not 5"):
        load_model(toy_run, "latest", average=5)


def test_the_moving_average_is_what_is_saved(toy_run):
    train_toy(toy_run, training__max_updates=5)
    vectors, _ = final_state(toy_run)
    model, _, _ = load_model(toy_run, "latest")
    saved = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert not torch.equal(vectors["average"], vectors["parameters"])
    assert saved.double().norm() == pytest.approx(float(vectors["average"].double().norm()))


def test_epochs_end_when_each_batch_has_been_used(toy_run):
    summary = train_toy(toy_run, training__max_epochs=2)
    assert summary.epochs == 2
    assert summary.target_words == 2 * words_of_an_epoch(toy_run)


def test_patience_ends_training_and_the_best_checkpoint_stays(toy_run):
    summary = train_toy(
        toy_run,
        schedule__learning_rate=0.0,
        training__validate_every=1,
        training__patience=3,
        training__keep_checkpoints=1,
    )
    assert summary.updates == 4, "the first is the best, three more are not better"
    assert store.pointed(toy_run, "best") == 1
    assert store.list_checkpoints(toy_run) == [1, 3, 4]


@pytest.mark.processes
@pytest.mark.parametrize(
    "options",
    [BUFFER, COMPENSATED, OUTER, DROPPING],
    ids=["buffer", "compensation", "outer", "dropping"],
)
def test_two_workers_learn_with_every_rule(toy_run, options):
    train_toy(
        toy_run,
        asynchronous__devices="cpu,cpu",
        training__max_epochs=4,
        training__log_every_seconds=0.0,
        schedule__learning_rate=1e-2,
        schedule__warmup_updates=10,
        **options,
    )
    losses = [line["loss"] for line in events(toy_run, "train")]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


@pytest.mark.processes
def test_two_workers_use_each_batch_once_over_a_resume(toy_run):
    two = {"asynchronous__devices": "cpu,cpu", "training__log_every_seconds": 0.0}
    train_toy(toy_run, training__max_updates=7, **two)
    summary = train_toy(toy_run, training__max_updates=None, training__max_epochs=1, **two)
    assert summary.target_words == words_of_an_epoch(toy_run)


ENDLESS = ("--devices=cpu,cpu", "--set=training.log_every_seconds=0", "--validate-every=1000000")


@pytest.mark.processes
def test_two_workers_overtake_each_other(toy_run):
    """Each learns of the other's pushes: staleness appears, and both compute."""
    process = start_training(toy_run, *ENDLESS)
    wait_for_line(process, "staleness", "(max 1)")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert max(line["staleness_max"] for line in events(toy_run, "train")) >= 1
    (end,) = events(toy_run, "end")
    assert end["workers"].keys() == {"0", "1"}
    for spent in end["workers"].values():
        assert spent["computing"] > 0 and sum(spent.values()) == pytest.approx(1, abs=1e-3)
    lines = events(toy_run, "train")
    assert [line["updates"] for line in lines] == list(range(1, len(lines) + 1)), "one line each"


@pytest.mark.processes
@pytest.mark.parametrize("overlap", ["--no-overlap", "--overlap"])
def test_a_killed_worker_is_replaced_and_training_goes_on(toy_run, overlap):
    process = start_training(toy_run, *ENDLESS, "--max-epochs=60", overlap)
    wait_for_line(process, "update", "loss")
    victim = children(process.pid)[1]  # the validator is the first that is started
    os.kill(victim, signal.SIGKILL)
    wait_for_line(process, "killed by signal 9")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    happened = Counter(entry["what"] for entry in events(toy_run, "worker"))
    assert happened == {"was killed by signal 9 (SIGKILL)": 1}
    _, state = final_state(toy_run)
    once = words_of_an_epoch(toy_run)
    assert state["progress"]["target_words"] == 60 * once, "each batch exactly once"


@pytest.mark.processes
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
@pytest.mark.parametrize("devices", ["cpu", "cpu,cpu"])
def test_a_stop_signal_saves_and_the_same_command_goes_on(toy_run, number, code, devices):
    process = start_training(toy_run, *ENDLESS, f"--devices={devices}")
    wait_for_line(process, "update", "loss")
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "Go on with: nmtasync train" in output
    stopped = store.pointed(toy_run, "latest")
    assert stopped
    summary = train_toy(toy_run, asynchronous__devices="cpu", training__max_updates=stopped + 2)
    assert summary.updates == stopped + 2


@pytest.mark.processes
@pytest.mark.parametrize("devices", ["cpu", "cpu,cpu"])
def test_kill_9_leaves_a_checkpoint_to_go_on_from_and_no_process_behind(toy_run, devices):
    process = start_training(
        toy_run, "--set=training.log_every_seconds=0", f"--devices={devices}", "--validate-every=5"
    )
    wait_for_line(process, "validation of update")
    left = children(process.pid)
    process.kill()
    process.communicate(timeout=60)
    for pid in left:  # they see their pipe close
        wait_gone(pid)
    stopped = store.pointed(toy_run, "latest")
    assert stopped and store.list_checkpoints(toy_run)
    summary = train_toy(toy_run, asynchronous__devices="cpu", training__max_updates=stopped + 2)
    assert summary.updates == stopped + 2


def test_training_that_diverges_ends_with_what_to_do(toy_run):
    with pytest.raises(TrainingError, match=r"diverged.*learning_rate"):
        train_toy(toy_run, schedule__learning_rate=1e30, schedule__warmup_updates=1)


def test_two_trainings_in_one_run_are_refused(toy_run):
    with toy_run.lock(), pytest.raises(UserError, match="in use by another"):
        train_toy(toy_run, training__max_updates=1)


def test_another_vocabulary_is_refused(toy_run, toy_corpus, tmp_path):
    train_toy(toy_run, training__max_updates=1)
    files = [PairPaths(toy_corpus / f"{part}.src", toy_corpus / f"{part}.tgt") for part in PARTS]
    other = RunDirectory(tmp_path / "other")
    preprocess(
        other,
        files[:1],
        files[1:],
        DataConfig(vocab_size=46, vocab_type="bpe", byte_fallback=False),
    )
    shutil.copy(other.vocab / "joint.model", toy_run.vocab / "joint.model")
    with pytest.raises(UserError, match="another vocabulary"):
        train_toy(toy_run, training__max_updates=2)
    with pytest.raises(UserError, match="another vocabulary"):
        load_model(toy_run)


def test_another_model_than_the_checkpoints_is_refused(toy_run):
    train_toy(toy_run, training__max_updates=1)
    with pytest.raises(UserError, match=r"model\.dimension.*no-resume"):
        train_toy(toy_run, training__max_updates=2, model__dimension=32)
    summary = train_toy(toy_run, resume=False, training__max_updates=2, model__dimension=32)
    assert summary.updates == 2


def test_dropout_may_change_between_calls(toy_run):
    train_toy(toy_run, training__max_updates=1)
    changes = {"model__attention_dropout": 0.2, "model__feed_forward_dropout": 0.0}
    assert train_toy(toy_run, training__max_updates=2, **changes).updates == 2


def test_positions_that_sentences_exceed_are_refused_before_training(toy_run):
    with pytest.raises(UserError, match=r"max_positions: is 4, but .*train has \d+ pieces"):
        train_toy(toy_run, model__positions="learned", model__max_positions=4)
    assert not toy_run.checkpoints.exists()


@pytest.mark.parametrize(
    "change",
    [{"data__batch_tokens": 400}, {"training__seed": 2}, {"data__source_subword_alpha": 0.2}],
)
def test_resumed_with_other_batches_training_goes_on_at_the_next_epoch(toy_run, change):
    train_toy(toy_run, training__max_updates=10)
    summary = train_toy(toy_run, training__max_updates=12, **change)
    assert 1 < summary.epochs < 2 and summary.updates == 12


def test_options_of_preprocessing_cannot_change_afterwards(toy_run):
    with pytest.raises(UserError, match=r"data\.vocab_size.*was preprocessed with 46"):
        train_toy(toy_run, data__vocab_size=90)


@pytest.mark.processes
def test_an_error_of_our_own_leaves_no_process_behind(toy_run, monkeypatch):
    def fail(self):
        raise ArithmeticError

    monkeypatch.setattr(LocalDriver, "train", fail)
    with pytest.raises(ArithmeticError):
        train_toy(toy_run, asynchronous__devices="cpu,cpu")
    assert not multiprocessing.active_children()
