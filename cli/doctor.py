"""`nmtasync doctor`: what is wrong with the machine or a RUN, and what to do."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nmtasync.errors import UserError
from nmtasync.run_directory import RunDirectory, json_text

if TYPE_CHECKING:
    from nmtasync.doctor.findings import Finding


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print the findings as a JSON array.")
def doctor(run: Path | None, as_json: bool) -> None:
    """Check this machine and, if it is named, all files of RUN; say what to do.

    Looked at are PyTorch, processors, GPUs, shared memory, child processes, disk, locks, TMPDIR and
    text; of RUN the checksums of data, vocabulary and checkpoints, what points at them, what killed
    processes have left, and room for more. Nothing is changed.

    A warning may cost time; a problem would stop a command, and makes the exit code 1.

    \b
    Examples:
      nmtasync doctor
      nmtasync doctor RUN
      nmtasync doctor RUN --json
    """
    from nmtasync.doctor.findings import Status
    from nmtasync.doctor.machine import examine_machine
    from nmtasync.doctor.run import examine_run

    if run is not None and not run.is_dir():
        raise UserError("there is no such directory", where=run, remedy="check the path")
    findings = list(examine_machine(run or Path.cwd()))
    if run is not None:
        findings += examine_run(RunDirectory(run))
    if as_json:
        click.echo(json_text([dataclasses.asdict(finding) for finding in findings]))
    else:
        _print(findings)
    sys.exit(any(finding.status is Status.PROBLEM for finding in findings))


def _print(findings: list[Finding]) -> None:
    import rich.box
    import rich.console
    import rich.table
    from rich.text import Text

    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for heading in ("check", "", "what there is", "what to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        cells = finding.check, finding.status.value, finding.what, finding.remedy
        table.add_row(*map(Text, cells))
    rich.console.Console(highlight=False).print(table)
    problems = sum(finding.status.value == "problem" for finding in findings)
    warnings = sum(finding.status.value == "warning" for finding in findings)
    click.echo(f"{problems} problem(s), {warnings} warning(s)")
