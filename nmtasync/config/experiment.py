"""The configuration of an experiment: what RUN/config.toml keeps, and what a call sets over it.

RUN/config.toml is what was used last. Each stage starts from it, so that the same command goes on,
and later flags need not be repeated.
"""

from __future__ import annotations

from nmtasync.config.load import Settings, read_toml, resolve
from nmtasync.config.schema import OPTIONS, Config
from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory


def experiment_config(
    run: RunDirectory, settings: Settings, inherited: Settings | None = None
) -> Config:
    """Resolve the configuration of a preprocessed RUN: its config.toml, then `settings`.

    Args:
        run: The directory.
        settings: What this call sets.
        inherited: What another run sets, under both.

    Raises:
        UserError: RUN is not preprocessed, or `settings` contradict how it was.
    """
    manifest = run.read_manifest()
    kept = read_toml(run.config)
    for name, value in settings.items():
        field = OPTIONS[name]
        there = manifest["options"].get(field.key, field.default)
        of_preprocessing = field.section == "data" and "train" not in field.about.stages
        if of_preprocessing and value != there:
            raise UserError(
                f"is {value!r}, but {run.root} was preprocessed with {there!r}",
                where=name,
                remedy="leave it out or preprocess again",
            )
    return resolve(inherited or {}, kept, settings)
