"""What a run that goes on does otherwise than before, and what that would lose."""

from __future__ import annotations

from nmtasync.checkpoints.state import TrainingState
from nmtasync.config.load import to_settings
from nmtasync.config.schema import Config
from nmtasync.data.epochs import BATCH_OPTIONS
from nmtasync.errors import UserError
from nmtasync.training.limits import share_done

_LOSES = {
    "optimizer.name": "its moments begin anew",
    "asynchronous.rule": "what the rule has kept is given up",
}
"""Options whose change gives up a part of the state."""


def refuse_losses(state: TrainingState, config: Config) -> None:
    """Refuse changes that give up a part of the state.

    Args:
        state: Of the checkpoint to go on from.
        config: What is asked for now.

    Raises:
        UserError: There is such a change.
    """
    then, now = to_settings(state.config), to_settings(config)
    for name, loss in _LOSES.items():
        if then[name] != now[name]:
            raise UserError(
                f"is {now[name]!r}, but was {then[name]!r}; with the change {loss}",
                where=name,
                remedy="set it back, or go on all the same with --accept-changes",
            )


def describe_changes(state: TrainingState, config: Config) -> list[str]:
    """Tell in lines what is otherwise than when the checkpoint was written.

    Args:
        state: Of the checkpoint.
        config: What holds now.
    """
    then, now = to_settings(state.config), to_settings(config)
    changed = [name for name in now if now[name] != then[name]]
    lines = []
    if changed:
        texts = (f"{name} = {_shown(now[name])} (was {_shown(then[name])})" for name in changed)
        lines.append(f"changed: {', '.join(texts)}")
    if state.cursor.position and any(name in changed for name in BATCH_OPTIONS):
        lines.append(f"the rest of epoch {state.cursor.epoch + 1} is left out: batches are new")
    moment = state.time_seconds, state.updates, state.epoch
    before = share_done(state.config.training, *moment) or 0.0
    after = share_done(config.training, *moment) or 0.0
    if config.schedule.decay == state.config.schedule.decay == "linear" and after < before:
        lines.append(
            f"the linear decay had come {before:.0%} of its way and is at {after:.0%} of a longer "
            "one now: the learning rate rises again"
        )
    return lines


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
