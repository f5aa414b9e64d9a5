"""What changes during training: the learning rate, Adam's betas, the delay."""

from __future__ import annotations

import numpy as np
import pytest

from nmtasync.config.schema import AsynchronousConfig, OptimizerConfig, ScheduleConfig
from nmtasync.optim.schedules import (
    betas_at,
    delay_at,
    lead_at,
    learning_rate_at,
    newest_weight_at,
)


def largest_stable(beta1: float, lead: float, staleness: int) -> float:
    """The learning rate on a parabola of curvature 1 up to which late gradients come to rest.

    Of θ ← θ - rate · (m + lead · (m - m before)), m ← β1 m + (1 - β1) θ(t - staleness): all roots
    of its characteristic polynomial lie inside the unit circle.
    """
    free = np.polymul(np.polymul([1.0, -1.0], [1.0, -beta1]), [1.0] + [0.0] * staleness)
    step = (1 - beta1) * np.array([1 + lead, -lead])
    for rate in np.geomspace(0.05, 50, 700):
        if np.abs(np.roots(np.polyadd(free, rate * step))).max() >= 1:
            return float(rate)
    return float("inf")


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


def test_betas_that_are_auto_forget_more_slowly_the_later_pushes_are():
    schedule = ScheduleConfig(reference_words=400)
    auto = OptimizerConfig()
    assert betas_at(7, 100, auto, schedule) == (0.9, 0.98), "to the bit, where nothing is late"
    late = betas_at(7, 100, auto, schedule, staleness=3.0)
    assert late == pytest.approx((0.95, 0.99))
    by_words = OptimizerConfig(betas_by_words=True)
    assert betas_at(7, 400, by_words, schedule, staleness=3.0) == (0.9, 0.98)
    given = OptimizerConfig(beta1=0.8)
    assert betas_at(7, 100, given, schedule, staleness=3.0) == pytest.approx((0.8, 0.99))


@pytest.mark.parametrize("staleness", [1, 3, 7])
@pytest.mark.parametrize("beta1", [0.8, 0.9, 0.975])
def test_the_lead_that_is_auto_makes_as_high_a_rate_stable_as_the_best(staleness, beta1):
    """The roots of the recurrence tell, for a list of leads and for the one that is taken."""
    config = AsynchronousConfig()
    best = max(
        largest_stable(beta1, lead * staleness, staleness) for lead in (n / 4 for n in range(13))
    )
    chosen = largest_stable(beta1, lead_at(staleness, beta1, config), staleness)
    assert chosen > 0.97 * best
    assert chosen > 1.15 * largest_stable(beta1, 0.0, staleness), "or looking ahead were useless"
    assert lead_at(0, beta1, config) == 0.0
    assert lead_at(staleness, beta1, AsynchronousConfig(momentum_lead=1.5)) == 1.5 * staleness


def average_weights(words: list[int], **options) -> list[float]:
    """What the parameters after each update weigh in the moving average at the end."""
    config = OptimizerConfig(**options)
    weights, seen = [], 0
    for number in words:
        seen += number
        newest = newest_weight_at(number, seen, config, ScheduleConfig(reference_words=100))
        weights = [weight * (1 - newest) for weight in weights] + [newest]
    return weights


def test_the_average_of_equal_updates_is_the_authors():
    for t in (1, 2, 50, 90_000, 10**6):
        expected = max(1e-4, 1 - (t + 1) / (t + 10))
        newest = newest_weight_at(7, 7 * t, OptimizerConfig(), ScheduleConfig())
        assert newest == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("growth", [2, 10])
def test_the_average_is_over_the_same_words_when_updates_become_larger(growth):
    """As far back, in words, as with equal updates; by updates it would be twice as far."""

    def lag(words: list[int]) -> float:
        after = np.cumsum(words)
        weights = average_weights(words, smoothing=1e-9)
        return float(np.dot(weights, after[-1] - after) / sum(weights) / after[-1])

    small = [100] * 4000
    assert lag(small + [100 * growth] * (4000 // growth)) == pytest.approx(lag(small * 2), rel=0.02)
    assert lag(small * 2) == pytest.approx(0.1, rel=0.01)


def test_in_the_long_run_the_average_goes_by_words_if_the_betas_do():
    after_long = {"seen_words": 1e12, "schedule": ScheduleConfig(reference_words=100)}
    for by_words, expected in ((True, 1 - (1 - 1e-2) ** 3), (False, 1e-2)):
        config = OptimizerConfig(smoothing=1e-2, betas_by_words=by_words)
        assert newest_weight_at(300, config=config, **after_long) == pytest.approx(expected)
