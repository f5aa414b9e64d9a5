"""The rules that the server knows: what each is called, does, and can't go with.

A rule is a class in a file of its own in `nmtasync/server/rules`, and an entry here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RuleEntry:
    """What is known about one rule, apart from its name.

    Attributes:
        place: Its class, as FILE:CLASS in `nmtasync.server.rules`.
        help: What it does with pushes, for `--help` and the reference page.
        innermost: Whether it makes the update itself, in the place of the optimizer.
        local_push: What asynchronous.local_push must be, and why; None if that does not matter.
        excludes: The rule that it can't be joined with, and why; None if there is none.
        takes_parts: Whether a push may be for some shards only.
    """

    place: str
    help: str
    innermost: bool = False
    local_push: tuple[str, str] | None = None
    excludes: tuple[str, str] | None = None
    takes_parts: bool = False


RULES = {
    "immediate": RuleEntry(
        "immediate:Immediate", "makes each an update", innermost=True, takes_parts=True
    ),
    "outer-nesterov": RuleEntry(
        "outer_nesterov:OuterNesterov",
        "takes deltas as outer gradients, with Nesterov's momentum",
        innermost=True,
        local_push=("delta", "takes deltas"),
        excludes=("buffer", "merges pushes itself, every asynchronous.outer_delay of them"),
    ),
    "staleness-aware": RuleEntry(
        "staleness_aware:StalenessAware",
        "lowers the learning rate of late ones",
        takes_parts=True,
    ),
    "buffer": RuleEntry("buffer:Buffer", "sums several for one update"),
    "delay-compensation": RuleEntry(
        "delay_compensation:DelayCompensation",
        "corrects late ones, to first order",
        local_push=("gradient", "corrects gradients"),
    ),
}
"""All rules by name. Of those joined, each is wrapped round the ones above it, and a push goes from
the outermost to the innermost, which makes the update: `immediate`, if no other is named."""
