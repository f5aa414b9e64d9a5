"""What is on the disk when something breaks while a run saves or validates."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from nmtasync.checkpoints import store
from nmtasync.checkpoints.history import Validation, ValidationHistory
from nmtasync.checkpoints.load import load_model
from nmtasync.errors import TrainingError
from nmtasync.run_directory import RunDirectory
from nmtasync.training.asynchronous import workers
from nmtasync.training.session import DriverState
from nmtasync.training.synchronous import rounds
from nmtasync.training.validation.validator_client import ValidatorClient
from nmtasync.training.validation.validator_process import Saved
from tests.support.runs import events, final_state, train_toy

TWO = {"asynchronous__devices": "cpu,cpu"}
DRIVERS = {"local": workers, "synchronous": rounds}


class NeverValidates(ValidatorClient):
    """Its process saves, but the results of validations never come, as of one that takes long."""

    def receive(self) -> None:
        message = self.connection.recv()
        if isinstance(message, Saved):
            self.note_saved(message.updates)
            self._saved = True
            self.busy = self._validating


@pytest.mark.processes
@pytest.mark.parametrize("driver", DRIVERS)
def test_stopped_while_the_end_waits_for_a_validation(toy_run, monkeypatch, driver):
    class Interrupted(NeverValidates):
        def drain(self) -> None:
            self.session.stop_request = "interrupted"  # as Ctrl-C does
            super().drain()

    monkeypatch.setattr(DRIVERS[driver], "ValidatorClient", Interrupted)
    options = {"asynchronous__driver": driver, "training__validate_every": 2, **TWO}
    summary = train_toy(toy_run, training__max_updates=5, **options)
    assert summary.exit_code == 130
    assert store.pointed(toy_run, "latest") == 5
    assert not events(toy_run, "valid")
    monkeypatch.undo()
    train_toy(toy_run, training__max_updates=5, **options)
    assert [entry["updates"] for entry in events(toy_run, "valid")] == [5], "made up for"


@pytest.mark.processes
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_validator_that_dies_at_the_end_takes_nothing_along(toy_run, monkeypatch, driver):
    class Dying(ValidatorClient):
        def drain(self) -> None:
            self.child.process.kill()
            self.child.process.join()
            self.busy = True
            self.receive()

    monkeypatch.setattr(DRIVERS[driver], "ValidatorClient", Dying)
    options = {"asynchronous__driver": driver, "asynchronous__max_restarts": 0, **TWO}
    with pytest.raises(TrainingError, match="1 times in a row; it was killed by signal 9"):
        train_toy(toy_run, training__max_updates=5, **options)
    assert store.pointed(toy_run, "latest") == 5


@pytest.mark.processes
def test_what_was_only_about_to_be_saved_is_saved_all_the_same(toy_run, monkeypatch):
    updates: list[int] = []

    class DyingBeforeItSaves(ValidatorClient):
        def save(self, driver: DriverState, **options: bool) -> None:
            updates.append(self.session.server.updates)
            self.take_snapshot(driver, self.vectors, to_validate=True)
            raise TrainingError("exit code -9")

    monkeypatch.setattr(workers, "ValidatorClient", DyingBeforeItSaves)
    with pytest.raises(TrainingError, match="exit code -9"):
        train_toy(toy_run, training__validate_every=3, training__max_updates=9, **TWO)
    assert updates and store.pointed(toy_run, "latest") == updates[-1] < 9


def test_what_killed_processes_left_half_written_is_swept_away(toy_run):
    (toy_run.checkpoints / ".3.77.tmp").mkdir(parents=True)
    (toy_run.checkpoints / ".3.77.old").mkdir()
    (toy_run.checkpoints / ".latest.77.tmp").write_text("3")
    train_toy(toy_run, training__max_updates=2)
    assert not [path for path in toy_run.checkpoints.iterdir() if path.name.startswith(".")]


def test_a_checkpoint_that_latest_does_not_name_is_of_another_course(tmp_path, toy_run):
    """As after a kill between the two: written again, although its directory is there."""
    reference = RunDirectory(shutil.copytree(toy_run.root, tmp_path / "reference"))
    train_toy(reference, training__max_updates=6)
    train_toy(toy_run, training__max_updates=3)
    shutil.copytree(toy_run.checkpoints / "3", tmp_path / "3")
    train_toy(toy_run, training__max_updates=6, schedule__learning_rate=0.5)
    shutil.rmtree(toy_run.checkpoints / "3")
    shutil.copytree(tmp_path / "3", toy_run.checkpoints / "3")
    (toy_run.checkpoints / "latest").write_text("3\n")
    train_toy(toy_run, training__max_updates=6, schedule__learning_rate=1e-3)
    there, expected = final_state(toy_run)[0], final_state(reference)[0]
    assert all(torch.equal(there[name], expected[name]) for name in expected)
    model = load_model(toy_run, "6")[0].state_dict()
    wanted = load_model(reference, "6")[0].state_dict()
    assert all(torch.equal(model[name], wanted[name]) for name in wanted)


def test_killed_before_a_validation_is_noted_the_best_is_pointed_at(toy_run, monkeypatch):
    def killed(self: ValidationHistory, validation: Validation) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ValidationHistory, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        train_toy(toy_run, training__max_updates=3)
    assert store.pointed(toy_run, "best") == 3
    monkeypatch.undo()
    train_toy(toy_run, training__max_updates=3)
    assert [entry["updates"] for entry in events(toy_run, "valid")] == [3], "validated again"


def test_bleu_may_be_measured_from_some_update_on(toy_run):
    history = ValidationHistory(toy_run, "bleu")
    for updates, cross_entropy, bleu in ((1, 3.0, None), (2, 2.0, 1.0), (3, 2.5, 4.0)):
        validation = Validation(updates, 0.0, cross_entropy, bleu)
        assert history.would_be_best(validation)
        history.add(validation)
    assert history.best is not None
    assert history.best.updates == 3
    assert not history.would_be_best(Validation(4, 0.0, 2.6, None))
    assert len(json.loads((toy_run.checkpoints / "validations.json").read_text())) == 3
