"""The network of a checkpoint can't change: which options it depends on, and that they are kept."""

from __future__ import annotations

from pathlib import Path

from nmtasync.config.load import Settings
from nmtasync.config.option import OptionField
from nmtasync.config.schema import OPTIONS, Config, get
from nmtasync.errors import UserError


def refuse_other_architecture(
    settings: Settings, trained: Config, place: Path, remedy: str = "leave it out"
) -> None:
    """Refuse options of another network than the one that a checkpoint holds.

    Args:
        settings: Values by full name; options that are not there are not looked at.
        trained: What the checkpoint was trained with.
        place: The checkpoint.
        remedy: What the user can do besides setting the option to its value there.

    Raises:
        UserError: There is one.
    """
    for name, field in OPTIONS.items():
        if name not in settings or not _shapes_parameters(field):
            continue
        now, then = settings[name], get(trained, name)
        if now != then:
            raise UserError(
                f"is {now!r}, but {place} was trained with {then!r}",
                where=name,
                remedy=f"set it to that, or {remedy}",
            )


def _shapes_parameters(field: OptionField) -> bool:
    return field.section == "model" and field.key != "preset" and "dropout" not in field.key
