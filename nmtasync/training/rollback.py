"""Back to the last good checkpoint with a lower rate, where training has diverged.

The checkpoint is written anew, as the state that training goes on from: the rate, the position in
the data and the time are those of now. So going on in this call is what a later one would do that
resumes, and all drivers do it alike: with new workers, which fetch.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction

from nmtasync.checkpoints import store
from nmtasync.checkpoints.load import read_state, read_vectors
from nmtasync.checkpoints.state import TrainingState
from nmtasync.checkpoints.store import Snapshot
from nmtasync.training.divergence import MAX_ROLLBACKS, DivergedError
from nmtasync.training.session import Session


class RolledBackError(Exception):
    """Training shall go on from another state.

    Args:
        state: Of the checkpoint that `latest` names.
    """

    def __init__(self, state: TrainingState) -> None:
        super().__init__()
        self.state = state


def roll_back_if_asked(
    session: Session, error: DivergedError, virtual_seconds: Fraction | None
) -> None:
    """Go back to the last good checkpoint if `training.on_divergence` says so and there is one.

    Not if someone has asked training to end, which it then does where it stands.

    Args:
        session: The run, whose processes have ended.
        error: What says that it has diverged.
        virtual_seconds: The time, where it is virtual.

    Raises:
        RolledBackError: It has gone back.
    """
    good, rollbacks = session.divergence.good, session.start.rollbacks + 1
    asked = session.config.training.on_divergence == "rollback" and not session.stop_request
    if not asked or good is None or rollbacks > MAX_ROLLBACKS:
        return
    run, totals = session.run, session.totals
    before = read_state(run, good, session.start.vocabulary)
    state = dataclasses.replace(
        before,
        time_seconds=session.clocks()["time_seconds"],
        virtual_seconds=virtual_seconds,
        epoch=session.clocks()["epoch"],
        cursor=session.cursor.state(),
        totals=dataclasses.replace(
            before.totals,
            non_finite_pushes=totals.non_finite_pushes,
            split_batches=totals.split_batches,
        ),
        rollbacks=rollbacks,
        driver={},  # what was under way then has been computed
    )
    store.save(
        run,
        Snapshot(read_vectors(run, good, session.server.size), state),
        session.parts.layout,
        changed=True,
    )
    session.reporter.rolled_back(error.message, good, rollbacks, session.clocks())
    raise RolledBackError(state)
