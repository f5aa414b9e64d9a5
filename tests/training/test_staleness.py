"""Staleness figures against numpy, on random pushes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtasync.training.reporting.staleness import StalenessFigures


@given(
    pushes=st.lists(
        st.tuples(st.integers(0, 3), st.tuples(st.integers(0, 9), st.integers(0, 9))), min_size=1
    )
)
def test_the_figures_are_those_of_all_pushes_and_shards(pushes):
    gathered = StalenessFigures()
    for worker, staleness in pushes:
        gathered.add(worker, staleness)
    figures = gathered.figures()
    late = np.array([staleness for _, staleness in pushes])
    workers = np.array([worker for worker, _ in pushes])
    assert figures["staleness_mean"] == pytest.approx(late.mean())
    assert figures["staleness_max"] == late.max()
    for worker, mean in figures["staleness_by_worker"].items():
        assert mean == pytest.approx(late[workers == worker].mean())
    assert list(figures["staleness_by_shard"].values()) == pytest.approx(late.mean(0).tolist())
    values, counts = np.unique(late, return_counts=True)
    assert figures["staleness_histogram"] == dict(zip(values, counts, strict=True))
