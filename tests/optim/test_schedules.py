"""What changes during training: the learning rate, Adam's betas, the delay."""

from __future__ import annotations

import pytest

from nmtasync.config.schema import AsynchronousConfig, OptimizerConfig, ScheduleConfig
from nmtasync.optim.schedules import betas_at, delay_at, learning_rate_at


def test_learning_rate_rises_to_its_peak_and_falls_with_the_root():
    config = ScheduleConfig(learning_rate=2.0, warmup_updates=10)
    rates = [learning_rate_at(n, 1, config) for n in range(1, 200)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[9] == 2.0
    assert rates[4 * 10 - 1] == pytest.approx(1.0)
    assert learning_rate_at(1, 1, ScheduleConfig(warmup_updates=0, decay="none")) == 1e-3


def test_a_linear_decay_goes_straight_to_0_at_the_end_of_training():
    config = ScheduleConfig(learning_rate=2.0, warmup_updates=10, decay="linear")
    assert learning_rate_at(5, 1, config, progress=0.0) == 1.0
    assert learning_rate_at(5, 1, config, progress=0.1) == pytest.approx(0.9)
    for progress in (0.25, 0.5, 0.75, 1.0):
        assert learning_rate_at(1000, 1, config, progress) == pytest.approx(2 * (1 - progress))


@pytest.mark.parametrize(("scaling", "factor"), [("linear", 4.0), ("sqrt", 2.0), ("none", 1.0)])
def test_the_learning_rate_grows_with_the_words_of_an_update(scaling, factor):
    config = ScheduleConfig(words_scaling=scaling, reference_words=1000, warmup_updates=0)
    one, four = (learning_rate_at(5, words, config) for words in (1000, 4000))
    assert four / one == pytest.approx(factor)


def test_betas_go_from_point_to_point():
    def betas(number: int, points: str) -> tuple[float, float]:
        return betas_at(number, 500, OptimizerConfig(beta_points=points), ScheduleConfig())

    linear, stepped = "10:0.8:0.9,20:0.9:0.99", "10:0.8:0.9!,20:0.9:0.99"
    assert betas(1, linear) == betas(10, linear) == (0.8, 0.9)
    assert betas(15, linear) == pytest.approx((0.85, 0.945))
    assert betas(20, linear) == betas(99, linear) == (0.9, 0.99)
    assert betas(19, stepped) == (0.8, 0.9)
    assert betas(20, stepped) == (0.9, 0.99)


def test_the_delay_rises_from_one():
    config = AsynchronousConfig(optimizer_delay=4, delay_warmup_updates=30)
    delays = [delay_at(updates, config) for updates in range(40)]
    assert delays[0] == 1 and delays[29] == 3 and delays[30:] == [4] * 10
    assert delays == sorted(delays)
