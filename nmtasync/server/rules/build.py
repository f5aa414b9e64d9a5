"""From the configuration to the rule of a shard.

Rules compose from the outside in: compensation corrects a push, the buffer merges pushes, staleness
scales the learning rate, the optimizer steps. Combinations without a meaning are refused with the
configuration.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable

from nmtasync.config.rules import RULES
from nmtasync.server.rules.base import Rule, RuleSetup


def build_rule(setup: RuleSetup) -> Rule:
    """Build the rule of one shard, from the inside out, whatever order its parts are named in."""
    parts = setup.config.asynchronous.rule.split("+")
    names = [name for name in RULES if name in parts]
    if not RULES[names[0]].innermost:
        names.insert(0, "immediate")
    innermost, *others = (_find_class(name) for name in names)
    rule = innermost(setup)
    for outer in others:
        rule = outer(setup, rule)
    return rule


def _find_class(name: str) -> Callable[..., Rule]:
    rule_class: type[Rule] = pkgutil.resolve_name(f"nmtasync.server.rules.{RULES[name].place}")
    return rule_class
