"""The faults of `tests.support.faults` are survived, at least two hundred of them."""

from __future__ import annotations

import pytest

from tests.support.faults import run_cases, table


@pytest.mark.system
@pytest.mark.timeout(7200)
def test_every_kind_of_process_is_killed_and_stopped_at_every_kind_of_moment():
    outcomes = run_cases(range(1, 251), jobs=2)
    print(table(outcomes))
    assert sum(outcome.fired for outcome in outcomes) >= 200
    assert [outcome for outcome in outcomes if outcome.lost] == []
    assert not sum(each.processes_left + each.shared_memory_left for each in outcomes)
