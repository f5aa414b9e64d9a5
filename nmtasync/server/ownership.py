"""Which shards are a worker's own: those that lie on its device."""

from __future__ import annotations


def own_shards(worker: int, num_workers: int, num_shards: int) -> tuple[int, ...]:
    """Shards i, i + N, i + 2 N, ... of worker i of N; none where there are fewer shards."""
    return tuple(range(worker, num_shards, num_workers))


def foreign_shards(worker: int, num_workers: int, num_shards: int) -> tuple[int, ...]:
    """All others."""
    own = own_shards(worker, num_workers, num_shards)
    return tuple(shard for shard in range(num_shards) if shard not in own)
