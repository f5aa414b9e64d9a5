"""Training on segmentations that are drawn: the same in every process and every replay."""

from __future__ import annotations

import pytest
import torch

from nmtasync.config.load import resolve
from nmtasync.errors import UserError
from tests.support.replays import assert_replayed, log_of, replay, train_until_both_have_pushed
from tests.support.runs import copy_of, final_state, train_toy

DRAWN = {"data__source_subword_alpha": 0.3, "data__target_subword_alpha": 0.1}


@pytest.mark.processes
def test_worker_processes_draw_what_their_replay_draws(toy_run):
    recorded = copy_of(toy_run)
    train_until_both_have_pushed(recorded, 20, **DRAWN)
    replay(toy_run, log_of(recorded), training__max_updates=9, **DRAWN)
    replay(toy_run, log_of(recorded), training__max_updates=None, **DRAWN)
    assert_replayed(recorded, toy_run)


@pytest.mark.processes
def test_a_rank_that_collates_ahead_draws_what_it_draws_later(toy_run):
    """Synchronous ranks put their next batch together while others compute."""
    other = copy_of(toy_run)
    options = {**DRAWN, "asynchronous__driver": "synchronous", "asynchronous__devices": "cpu,cpu"}
    train_toy(toy_run, training__max_updates=6, **options)
    for updates in (1, 2, 3, 4, 5, 6):  # none is collated ahead
        train_toy(other, training__max_updates=updates, **options)
    (left, _), (right, _) = final_state(toy_run), final_state(other)
    assert torch.equal(left["parameters"], right["parameters"])


def test_a_log_of_other_pieces_is_not_replayed(toy_run):
    recorded = copy_of(toy_run)
    train_toy(recorded, training__max_updates=3, **DRAWN)
    with pytest.raises(UserError, match="subword_alpha"):
        replay(toy_run, log_of(recorded), training__max_updates=3)


def test_aligned_pieces_can_not_be_drawn():
    with pytest.raises(UserError, match=r"source_subword_alpha: has other pieces.*guided_align"):
        resolve({"data.source_subword_alpha": 0.1, "training.guided_alignment_weight": 0.1})
