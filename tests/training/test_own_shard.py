"""Own shards that take each batch's gradient at once: against a plain loop, exact, replayed."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
import torch

from nmtasync.config.load import resolve
from nmtasync.data.batches import plan_epoch
from nmtasync.data.cursor import AssignedBatch
from nmtasync.data.shards import ParallelShards
from nmtasync.errors import UserError
from nmtasync.models.build import build_model
from nmtasync.optim.flat import FlatModel, shard_bounds
from nmtasync.optim.schedules import learning_rate_at
from nmtasync.server.ownership import foreign_shards, own_shards
from nmtasync.training.session import Session
from nmtasync.training.simulation.cost_model import CostModel
from nmtasync.worker.gradient import WindowGradient
from tests.support.one_worker import VOCABULARY
from tests.support.replays import (
    ONE,
    assert_replayed,
    log_of,
    logged,
    replay,
    train_until_both_have_pushed,
)
from tests.support.runs import (
    assert_same_state,
    copy_of,
    events,
    final_state,
    simulate,
    train_toy,
    words_of_an_epoch,
)
from tests.support.toy import toy_config

OWN = {"asynchronous__own_shard": "batch", "asynchronous__optimizer_delay": 2}
PLAIN = {
    "optimizer__beta1": 0.9,
    "optimizer__beta2": 0.98,
    "asynchronous__momentum_lead": 0.0,
    "optimizer__clip_norm": None,
}


@pytest.mark.parametrize("num_shards", [1, 3])
def test_one_worker_owns_all_shards_so_a_window_is_its_batches_bit_for_bit(toy_run, num_shards):
    """Each batch is one update of every shard, and the push of a window has none left."""
    other = copy_of(toy_run)
    options = {"asynchronous__num_shards": num_shards, "training__max_updates": 12}
    train_toy(toy_run, asynchronous__optimizer_delay=1, **options)
    train_toy(other, **{**OWN, "asynchronous__optimizer_delay": 3}, **options)
    (left, state), (right, own_state) = final_state(toy_run), final_state(other)
    for name in ("parameters", "first_moment", "second_moment", "average"):
        assert torch.equal(left[name], right[name]), name
    assert state["versions"] == own_state["versions"]
    assert state["progress"]["target_words"] == own_state["progress"]["target_words"]
    assert state["measured"]["noise"] == own_state["measured"]["noise"]


class TwoWorkersByHand:
    """Two equal workers with windows of two batches and free exchanges, written out.

    Every second both end a batch, worker 0 first: each batch updates the worker's own half at
    once, from what the worker knows of it; after two, the other half gets the window's sum, and
    the worker all there is.
    """

    def __init__(self, run, config) -> None:
        torch.manual_seed(config.training.seed)
        self.flat = FlatModel(build_model(config.model, VOCABULARY, VOCABULARY))
        self.config = config
        corpus = ParallelShards.open(run.data / "train")
        self.gradient = WindowGradient(self.flat, corpus, config)
        lengths = corpus.source_lengths, corpus.target_lengths
        plan = plan_epoch(
            *lengths, batch_tokens=config.data.batch_tokens, seed=config.training.seed, epoch=0
        )
        self.batches = [AssignedBatch(0, index, ids) for index, ids in enumerate(plan)]
        self.bounds = shard_bounds(self.flat.size, 2)
        start = self.flat.parameters.clone()
        self.halves = [torch.nn.Parameter(start[place].clone()) for place in self.bounds]
        self.adams = [
            torch.optim.Adam([half], betas=(0.9, 0.98), eps=1e-9, fused=True)
            for half in self.halves
        ]
        self.clip_norm = config.optimizer.clip_norm
        self.clipped = 0
        self.updates = [0, 0]
        self.replicas = [start.clone(), start.clone()]
        self.sums = [torch.zeros_like(start), torch.zeros_like(start)]

    def update(self, half: int, gradient: torch.Tensor, words: int) -> None:
        self.updates[half] += 1
        rate = learning_rate_at(self.updates[half], words, self.config.schedule)
        self.adams[half].param_groups[0]["lr"] = rate
        self.halves[half].grad = gradient / words
        self.adams[half].step()

    def clip(self, gradient: torch.Tensor, words: int) -> float:
        """By how much the gradient, of these words, is shrunk."""
        norm = float(gradient.norm()) / words
        if self.clip_norm is None or norm <= self.clip_norm:
            return 1.0
        self.clipped += 1
        return self.clip_norm / norm

    def batch(self, worker: int, batch: AssignedBatch) -> int:
        self.flat.parameters.copy_(self.replicas[worker])
        self.flat.gradients.zero_()
        words = self.gradient.add_assigned(batch).target_words
        own = self.bounds[worker]
        factor = self.clip(self.flat.gradients, words)
        self.update(worker, self.flat.gradients[own] * factor, words)
        self.replicas[worker][own] = self.halves[worker].data
        self.sums[worker] += self.flat.gradients
        return words

    def push(self, worker: int, words: int) -> None:
        gradient = self.sums[worker][self.bounds[1 - worker]]
        self.update(1 - worker, gradient * self.clip(gradient, words), words)
        self.replicas[worker] = torch.cat([half.data for half in self.halves])
        self.sums[worker].zero_()


@pytest.mark.parametrize("clip_norm", [None, 0.1], ids=["not clipped", "clipped"])
def test_two_workers_are_a_loop_written_by_hand(toy_run, clip_norm):
    options = {**OWN, **PLAIN, "optimizer__clip_norm": clip_norm}
    config = toy_config(**options)
    hand = TwoWorkersByHand(toy_run, config)
    rounds = 3
    windows = [(0, [0, 1]), (1, [2, 3])]
    for number in range(rounds):
        words = [0, 0]
        for turn in range(2):
            for worker, places in windows:
                words[worker] += hand.batch(worker, hand.batches[places[turn]])
        for worker, _ in windows if number < rounds - 1 else windows[:1]:
            hand.push(worker, words[worker])  # and draw again, at once
        windows = [(0, [4 + 4 * number, 5 + 4 * number]), (1, [6 + 4 * number, 7 + 4 * number])]
    simulate(toy_run, simulation__speeds="1,1", training__max_updates=3 * rounds, **options)
    assert hand.clipped == (0 if clip_norm is None else 6 * rounds - 1)
    vectors, state = final_state(toy_run)
    assert hand.updates == [3 * rounds - 1, 3 * rounds], "two batches and one push a round"
    assert state["versions"] == hand.updates
    expected = torch.cat([half.data for half in hand.halves])
    assert torch.allclose(vectors["parameters"], expected, rtol=0, atol=1e-6)


def test_staleness_is_counted_shard_by_shard(toy_run):
    """Ten rounds, in each of which worker 0 is first.

    A push misses the two batches of the shard's owner. Worker 0's first batch misses the push that
    worker 1 made after it had fetched; there was none before the first, and the last is cut off.
    """
    simulate(toy_run, simulation__speeds="1,1", training__max_updates=30, **OWN)
    late: Counter[str] = Counter()
    for line in events(toy_run, "train"):
        late.update(line["staleness_histogram"])
    assert late == {"0": 3 * 10 + 1, "1": 10 - 1, "2": 2 * 10 - 1}


def test_every_word_counts_once(toy_run):
    options = {"training__max_epochs": 2, "training__log_every_seconds": 1e9}
    summary = simulate(toy_run, simulation__speeds="1,1,2", **options, **OWN)
    assert summary.target_words == 2 * words_of_an_epoch(toy_run)
    (line,) = events(toy_run, "train")
    versions = final_state(toy_run)[1]["versions"]
    assert line["target_words_per_update"] == pytest.approx(
        3 * summary.target_words / sum(versions)
    )


EVENTFUL = {
    **OWN,
    "simulation__speeds": "1,2,1.5",
    "simulation__failures": "1@3-6,2@4.2-9",
    "simulation__exchange_latency_seconds": 0.05,
    "simulation__exchange_bytes_per_second": 1e6,
}
STEPS = {"asynchronous__local_optimizer_batches": "always"}
WRITING_BACK = {
    **{name: value for name, value in EVENTFUL.items() if "own_shard" not in name},
    **STEPS,
    "asynchronous__local_write_back": True,
}


@pytest.mark.parametrize(
    "options",
    [
        EVENTFUL,
        {**EVENTFUL, **STEPS},
        {**EVENTFUL, "asynchronous__num_shards": 5},
        {**EVENTFUL, "asynchronous__num_shards": 2},
        WRITING_BACK,
    ],
    ids=["own shard", "and local steps", "more shards", "fewer shards", "write-back"],
)
def test_stopped_in_the_middle_of_windows_it_is_never_interrupted_bit_for_bit(toy_run, options):
    other = copy_of(toy_run)
    simulate(toy_run, training__max_updates=30, **options)
    in_part = 0
    for updates in (7, 11, 12, 30):
        simulate(other, training__max_updates=updates, **options)
        open_windows = final_state(other)[1]["simulation"]["open"].values()
        in_part += sum(1 for window in open_windows if window["batches"])
    assert in_part >= 2, "or no window was cut"
    assert_same_state(toy_run, other)


def test_own_shards_change_what_is_learnt(toy_run):
    other = copy_of(toy_run)
    for run, when in ((toy_run, "batch"), (other, "window")):
        options = {**EVENTFUL, "asynchronous__own_shard": when}
        simulate(run, training__max_updates=9, **options)
    left, right = (final_state(run)[0]["parameters"] for run in (toy_run, other))
    assert not torch.equal(left, right)


@pytest.mark.processes
@pytest.mark.parametrize("delay", [1, 3])
def test_worker_processes_own_shards_and_their_log_is_replayed(toy_run, delay):
    own = {**OWN, "asynchronous__optimizer_delay": delay}
    own["asynchronous__local_optimizer_batches"] = "always" if delay > 1 else 0
    recorded = copy_of(toy_run)
    train_until_both_have_pushed(recorded, 8, **own)
    batches = logged(recorded, "batch")
    assert {entry["worker"] for entry in batches} == {0, 1}
    assert max(entry["number"] for entry in batches) == delay - 1
    replay(toy_run, log_of(recorded), **own)
    assert_replayed(recorded, toy_run)


def test_a_replay_goes_on_in_the_middle_of_a_window(toy_run, monkeypatch):
    """Stopped at every place of the log, a replay is the recorded run all the same."""
    recorded = copy_of(toy_run)
    train_toy(recorded, **{**ONE, **OWN}, training__max_updates=6)
    stop_reason, stops = Session.stop_reason, []

    def soon(self: Session):
        return "soon" if self.server.updates in stops else stop_reason(self)

    monkeypatch.setattr(Session, "stop_reason", soon)
    for updates in (1, 2, 5):
        stops[:] = [updates]
        replay(toy_run, log_of(recorded), **OWN)
    stops.clear()
    replay(toy_run, log_of(recorded), **OWN)
    assert_replayed(recorded, toy_run)


@pytest.mark.parametrize(("num_workers", "num_shards"), [(2, 2), (2, 5), (4, 3), (1, 4)])
def test_each_shard_has_one_owner(num_workers, num_shards):
    owned = [own_shards(worker, num_workers, num_shards) for worker in range(num_workers)]
    assert sorted(sum(owned, ())) == list(range(num_shards))
    for worker, own in enumerate(owned):
        others = foreign_shards(worker, num_workers, num_shards)
        assert sorted(own + others) == list(range(num_shards))


def test_only_what_lies_elsewhere_travels(toy_run):
    """A third of the vector is a worker's own: two thirds take two thirds of the time."""
    config = toy_config(
        asynchronous__driver="simulated",
        simulation__speeds="1,1,1",
        simulation__exchange_bytes_per_second=400.0,
        simulation__exchange_latency_seconds=0.5,
    )
    corpus = ParallelShards.open(toy_run.data / "train")
    costs = CostModel(config, corpus, 300, [200, 300, 0])
    half = Fraction(1, 2)
    for size_of in (costs.fetch_bytes, lambda worker: costs.push_bytes(worker, 0)):
        seconds = [costs.transfer(worker, size_of(worker)).seconds for worker in range(3)]
        assert seconds == [2 + half, 3 + half, 0]
    assert costs.reduction_seconds() == 2 * (3 + half)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"local_write_back": True, "local_optimizer_batches": 9}, "local_write_back writes over"),
        ({"local_push": "delta", "local_optimizer_batches": "always"}, "local_push pushes the way"),
        ({"drop_rate": 0.9}, "drop_rate keeps"),
        ({"overlap": True}, "overlap computes two"),
        ({"rule": "buffer"}, "rule has buffer, which takes whole"),
        ({"driver": "synchronous"}, "has no effect.*synchronous"),
    ],
)
def test_what_it_cannot_go_with_is_refused(change, words):
    options = {key.replace("__", "."): value for key, value in OWN.items()}
    resolve(options, {"asynchronous.rule": "staleness-aware"})
    with pytest.raises(UserError, match=words):
        resolve(options, {f"asynchronous.{key}": value for key, value in change.items()})
