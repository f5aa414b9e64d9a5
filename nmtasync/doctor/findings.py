"""What checks have found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from nmtasync.errors import NmtasyncError


class Status(StrEnum):
    """How a check has ended."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes:
        check: What was looked at.
        status: Whether it is as it should be; a warning may cost time, a problem stops a command.
        what: What there is.
        remedy: What to do; empty where nothing needs to be done.
    """

    check: str
    status: Status
    what: str
    remedy: str = ""


Check = Callable[[], Iterator[Finding]]


def ok(check: str, what: str) -> Finding:
    """Find something as it should be."""
    return Finding(check, Status.OK, what)


def warning(check: str, what: str, remedy: str) -> Finding:
    """Find something that works, but not well."""
    return Finding(check, Status.WARNING, what, remedy)


def problem(check: str, what: str, remedy: str) -> Finding:
    """Find something that will not work."""
    return Finding(check, Status.PROBLEM, what, remedy)


def of_error(check: str, error: NmtasyncError | OSError) -> Finding:
    """Find what an error says."""
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return problem(check, f"{place}{error.strerror or error}", "see to the file system")
    place = f"{error.where}: " if error.where else ""
    return problem(check, f"{place}{error.message}", error.remedy or "copy it again")


def run_checks(checks: dict[str, Check]) -> Iterator[Finding]:
    """Run checks one after the other; an error that a user can cause is a finding, too."""
    for name, check in checks.items():
        try:
            yield from check()
        except (NmtasyncError, OSError) as error:
            yield of_error(name, error)
