"""The simulator: exact staleness and time."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nmtasync.errors import UserError
from nmtasync.training.session import Session
from nmtasync.training.simulation.chance import jitter_factor
from tests.support.runs import events, final_state, simulate, train_toy
from tests.support.toy import TOY_FLAGS


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4, 5])
def test_n_equal_workers_are_n_minus_1_updates_late(toy_run, pushes, num_workers):
    simulate(
        toy_run,
        simulation__speeds=",".join(["1"] * num_workers),
        training__max_updates=4 * num_workers,
    )
    # All fetch version 0. At 1 s they push one after another: worker i comes after i others.
    # Each fetches right after its own push, and N - 1 others push before its next one.
    assert pushes[:num_workers] == [(1.0, i, i) for i in range(num_workers)]
    assert pushes[num_workers:] == [
        (float(second), i, num_workers - 1) for second in (2, 3, 4) for i in range(num_workers)
    ]


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_with_overlap_n_equal_workers_are_2n_minus_1_updates_late(toy_run, pushes, num_workers):
    simulate(
        toy_run,
        asynchronous__overlap=True,
        simulation__speeds=",".join(["1"] * num_workers),
        training__max_updates=5 * num_workers,
    )
    # Both windows of each worker begin at version 0: i others, then N + i pushes come before. From
    # then on 2 N - 1 pushes lie between the fetch after one push and the push after the next.
    late = [list(range(num_workers)), list(range(num_workers, 2 * num_workers))]
    late += [[2 * num_workers - 1] * num_workers] * 3
    assert pushes == [
        (float(second), i, late[second - 1][i])
        for second in range(1, 6)
        for i in range(num_workers)
    ]


def two_at_a_time(receive: Fraction, compute: Fraction, send: Fraction, number: int):
    """When pushes of an overlapping worker arrive, moment by moment, with a queue for each station.

    Returns:
        The arrivals, and for how long it has computed nothing until the last of them.
    """
    durations, queues = (receive, compute, send), [[0, 1], [], []]
    busy: list[tuple[Fraction, int] | None] = [None, None, None]
    now, computing, arrivals, begun = Fraction(0), Fraction(0), [], 2
    while len(arrivals) < number:
        for station, queue in enumerate(queues):
            if busy[station] is None and queue:
                busy[station] = (now + durations[station], queue.pop(0))
        before, now = now, min(entry[0] for entry in busy if entry)
        computing += now - before if busy[1] else 0
        for station in range(3):
            entry = busy[station]
            if entry and entry[0] == now:
                busy[station] = None
                if station < 2:
                    queues[station + 1].append(entry[1])
                else:
                    arrivals.append(now)
                    queues[0].append(begun)
                    begun += 1
    return arrivals, now - computing


@pytest.mark.parametrize("bandwidth", [None, 1e6, 50_000.0, 20_000.0])
@pytest.mark.parametrize("drop_rate", [None, 0.9])
def test_with_overlap_time_is_that_of_three_stations(toy_run, pushes, bandwidth, drop_rate):
    """From transfers that are hidden whole to such that take most of the time."""
    summary = simulate(
        toy_run,
        asynchronous__overlap=True,
        asynchronous__drop_rate=drop_rate,
        simulation__exchange_latency_seconds=0.1,
        simulation__exchange_bytes_per_second=bandwidth,
        training__max_updates=9,
    )
    size = final_state(toy_run)[0]["parameters"].numel()
    pace = 0 if bandwidth is None else 1 / Fraction(bandwidth)
    receive = Fraction(1, 10) + 4 * size * pace
    kept = size if drop_rate is None else 2 * (size - int(size * drop_rate))
    arrivals, idle = two_at_a_time(receive, Fraction(1), Fraction(1, 10) + 4 * kept * pace, 9)
    assert [seconds for seconds, _, _ in pushes] == [float(moment) for moment in arrivals]
    spent = summary.workers[0]
    assert spent.computing + spent.exchanging + spent.waiting == pytest.approx(1, abs=1e-3)
    if bandwidth is None:
        assert spent.exchanging == 0.0, "hidden"
    else:
        assert spent.exchanging <= float(idle / arrivals[-1])
        assert (spent.exchanging > 0) == (2 * receive > 1)


def test_unequal_workers_are_as_late_as_told_by_hand(toy_run, pushes):
    """Worker 0 pushes at 1, 2, 3, ..; worker 1, thrice as fast, at 1/3, 2/3, 1, 4/3, ..

    They meet at each full second, where worker 0 comes first. Versions after a push in brackets:
      1/3: worker 1 on 0, 0 late [1];  2/3: worker 1 on 1, 0 late [2];
      1: worker 0 on 0, 2 late [3];    1: worker 1 on 2, 1 late [4];
      4/3: worker 1 on 4, 0 late [5];  5/3: worker 1 on 5, 0 late [6];
      2: worker 0 on 3, 3 late [7];    2: worker 1 on 6, 1 late [8];  and so on.
    """
    simulate(toy_run, simulation__speeds="1,3", training__max_updates=40)
    third = 1 / 3
    assert pushes[:4] == [(third, 1, 0), (2 * third, 1, 0), (1.0, 0, 2), (1.0, 1, 1)]
    for second in range(1, 10):  # exactly: a clock of floats has lost the ties by then
        now = pushes[4 * second : 4 * second + 4]
        assert [(who, late) for _, who, late in now] == [(1, 0), (1, 0), (0, 3), (1, 1)]
        assert now[2][0] == now[3][0] == second + 1


def test_a_slow_worker_is_as_late_as_the_others_are_fast(toy_run, pushes):
    """Speeds 1, 1 and 4: in a second worker 2 pushes four times, the others once each."""
    simulate(toy_run, simulation__speeds="1,1,4", training__max_updates=36)
    by_worker = {who: [late for _, w, late in pushes[6:] if w == who] for who in range(3)}
    # worker 2's pushes at 1/4, 2/4, 3/4 of a second meet nobody's, the one at 4/4 comes after both
    assert by_worker[2] == [0, 0, 0, 2] * 5
    # between two pushes of worker 0: worker 1's, and four of worker 2; for worker 1 likewise
    assert by_worker[0] == by_worker[1] == [5] * 5


def test_a_buffer_of_n_lets_n_equal_workers_be_at_most_one_update_late(toy_run, pushes):
    """At each second all three push; the third completes the buffer, and alone fetches after."""
    simulate(
        toy_run,
        simulation__speeds="1,1,1",
        asynchronous__rule="buffer",
        training__max_updates=5,
    )
    assert [late for _, _, late in pushes] == [0, 0, 0] + [1, 1, 0] * 4


def test_time_is_what_the_cost_model_says(toy_run, monkeypatch):
    seen = []
    exchange = Session.exchange

    def noted(self: Session, computed, payload, landing, *rest):
        figures = computed.figures
        seen.append((self.seconds, figures.target_words, figures.num_batches, 4 * payload.numel()))
        return exchange(self, computed, payload, landing, *rest)

    monkeypatch.setattr(Session, "exchange", noted)
    summary = simulate(
        toy_run,
        asynchronous__optimizer_delay=2,
        simulation__speeds="2",
        simulation__seconds_per_batch=0.5,
        simulation__seconds_per_target_word=0.01,
        simulation__exchange_latency_seconds=0.1,
        simulation__exchange_bytes_per_second=1e5,
        training__max_updates=5,
    )
    time, computed, exchanged = Fraction(0), Fraction(0), Fraction(0)
    for seconds, words, batches, num_bytes in seen:
        computing = (Fraction(1, 2) * batches + Fraction(words, 100)) / 2
        exchanging = 2 * (Fraction(1, 10) + Fraction(num_bytes, 100_000))
        computed += computing
        exchanged += exchanging
        time += computing + exchanging
        assert seconds == float(time)
    assert summary.seconds == float(time)
    assert summary.workers[0].computing == pytest.approx(float(computed / time), abs=1e-4)
    assert summary.workers[0].exchanging == pytest.approx(float(exchanged / time), abs=1e-4)
    assert summary.workers[0].waiting == pytest.approx(0.0, abs=1e-4)


def test_jitter_is_seeded_and_has_the_deviation_that_it_is_given(toy_run, pushes):
    factors = [jitter_factor(0.5, 1, 0, 0, index) for index in range(20_000)]
    assert statistics.fmean(factors) == pytest.approx(1.0, abs=0.02)
    assert statistics.stdev(factors) == pytest.approx(0.5, abs=0.03)
    logarithms = [math.log(factor) for factor in factors]
    assert statistics.fmean(logarithms) == pytest.approx(statistics.median(logarithms), abs=0.02)

    jitter = {"simulation__speeds": "1,1", "simulation__speed_jitter": 0.5}
    runs = []
    for seed in (1, 1, 2):
        simulate(toy_run, resume=False, training__max_updates=12, training__seed=seed, **jitter)
        runs.append(list(pushes))
        pushes.clear()
    assert runs[0] == runs[1] != runs[2]
    assert {late for _, _, late in runs[0]} > {0, 1}, "nobody keeps the rhythm"


def test_limits_saves_and_figures_are_in_virtual_time(toy_run):
    """A batch takes 4 s: there are pushes at 4, 8, .., 28 s before half a minute has passed."""
    summary = simulate(
        toy_run,
        simulation__seconds_per_batch=4.0,
        training__max_minutes=0.5,
        training__save_every_minutes=0.2,
        training__log_every_seconds=8.0,
    )
    assert summary.updates == 7 and summary.seconds == 30.0
    assert summary.workers[0].computing == round(28 / 30, 4)
    saved = [(entry["time_seconds"], entry["updates"]) for entry in events(toy_run, "checkpoint")]
    assert saved == [(12.0, 3), (24.0, 6), (30.0, 7)]
    lines = events(toy_run, "train")
    assert [line["time_seconds"] for line in lines] == [8.0, 16.0, 24.0, 30.0]
    for line in lines[:3]:
        pace = line["target_words_per_second"]
        assert pace == pytest.approx(2 * line["target_words_per_update"] / 8)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    speeds=st.lists(st.sampled_from([1, 1, 2, 3]), min_size=1, max_size=4),
    delay=st.integers(1, 3),
    num_shards=st.integers(2, 9),
    jitter=st.sampled_from([0.0, 0.4]),
)
def test_parameters_do_not_depend_on_the_number_of_shards(
    toy_run, speeds, delay, num_shards, jitter
):
    found = []
    for shards in (1, num_shards):
        simulate(
            toy_run,
            resume=False,
            simulation__speeds=",".join(map(str, speeds)),
            simulation__speed_jitter=jitter,
            asynchronous__optimizer_delay=delay,
            asynchronous__num_shards=shards,
            training__max_updates=6,
            training__validate_every=1000,
        )
        vectors, state = final_state(toy_run)
        assert state["versions"] == [6] * shards
        found.append(vectors)
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


SIMULATED = {"asynchronous__driver": "simulated"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"simulation__speeds": "1,2"}, r"speeds.*asynchronous\.driver is 'local'"),
        ({"simulation__replay": "x"}, r"replay.*asynchronous\.driver is 'local'"),
        ({**SIMULATED, "simulation__speeds": ""}, "'' is no speed"),
        ({"schedule__decay": "linear"}, r"schedule\.decay.*training\.max_minutes"),
        ({**SIMULATED, "simulation__speeds": "1,0"}, "'0' is no speed"),
        ({**SIMULATED, "simulation__speeds": "1,-2"}, "'-2' is no speed"),
        ({**SIMULATED, "simulation__failures": "0"}, "'0' is no failure"),
        ({**SIMULATED, "simulation__failures": "0@5-"}, "'0@5-' is no failure"),
        ({**SIMULATED, "simulation__failures": "1@5"}, r"names worker 1.*simulation\.speeds"),
        ({**SIMULATED, "simulation__failures": "0@5-5"}, "returns before it dies"),
        ({**SIMULATED, "simulation__failures": "0@5,0@9"}, "die at 9 s, when it is not alive"),
        ({**SIMULATED, "simulation__failures": "0@5-9,0@9"}, "die at 9 s, when it is not alive"),
        ({**SIMULATED, "simulation__seconds_per_batch": 0.0}, "no time would ever pass"),
        ({**SIMULATED, "asynchronous__max_restarts": 1}, r"max_restarts.*'simulated'"),
        ({**SIMULATED, "asynchronous__devices": "cpu,cpu"}, r"devices.*simulation\.speeds"),
        (
            {**SIMULATED, "simulation__replay": "x", "simulation__speeds": "1,2"},
            r"simulation\.speeds.*no effect while simulation\.replay is 'x'",
        ),
    ],
)
def test_what_cannot_be_simulated_is_refused(toy_run, options, words):
    before = toy_run.config.read_bytes()
    with pytest.raises(UserError, match=words):
        train_toy(toy_run, **options)
    assert toy_run.config.read_bytes() == before


def test_the_command_line_simulates(toy_run, nmtasync):

    arguments = ["--driver", "simulated", "--speeds", "1,1,2", "--failures", "1@1.5-1.75"]
    result = nmtasync("train", toy_run.root, *TOY_FLAGS, *arguments, "--max-updates=9")
    assert result.returncode == 0, result.stderr
    assert "3 simulated workers (cpu)" in result.stderr
    assert "worker 1 died" in result.stderr
    again = nmtasync("train", toy_run.root, "--max-updates=12")
    assert again.returncode == 0, again.stderr
    refused = nmtasync("train", toy_run.root, "--speeds", "fast")
    assert refused.returncode == 2 and "'fast' is no speed" in refused.stderr
