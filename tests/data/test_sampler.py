"""The stream of positions depends on the seed alone."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semask_d2.data.sampler import PositionedDataset, PositionSampler, ShardedDataset


def batches(count, **arguments):
    return list(islice(PositionSampler(**arguments), count))


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 9))
def test_ranks_share_the_batch_in_order(world_size, per_rank, start):
    ranks = [
        batches(4, start=start, rank=rank, world_size=world_size, per_rank_batch=per_rank) for rank in range(world_size)
    ]
    stream = [position for step in zip(*ranks, strict=True) for part in step for position in part]
    size = world_size * per_rank
    assert stream == list(range(start * size, (start + 4) * size))


def test_a_later_start_is_the_rest_of_the_stream():
    arguments = {"rank": 1, "world_size": 2, "per_rank_batch": 3}
    assert batches(9, start=0, **arguments)[4:] == batches(5, start=4, **arguments)


def draw(sample, rng):
    return sample["n"], rng.random()


def make(n=5, seed=3):
    return PositionedDataset([{"n": i} for i in range(n)], draw, seed)


def test_every_epoch_is_another_permutation():
    data = make(n=20)
    epochs = [[data.index(epoch * 20 + place) for place in range(20)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_position_is_the_same_in_any_order():
    forwards, backwards = make(), make()
    samples = {p: forwards[p] for p in range(23)}
    for position in reversed(range(23)):
        assert backwards[position] == samples[position]
    assert len({draw for _, draw in samples.values()}) == 23  # the same image is augmented differently each time


def test_the_seed_changes_order_and_augmentation():
    a, b = make(n=50, seed=0), make(n=50, seed=1)
    assert [a.index(p) for p in range(50)] != [b.index(p) for p in range(50)]
    assert a[0][1] != b[0][1]


def test_only_user_errors_take_the_place_of_a_sample():
    def broken(sample, rng):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        PositionedDataset([{}], broken, 0)[0]


@given(st.integers(1, 40), st.integers(1, 9))
def test_shards_partition_the_data_set(count, world_size):
    dicts = [{"n": i} for i in range(count)]
    shards = [
        ShardedDataset(dicts, lambda sample: sample["n"], rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert [shard[i] for shard in shards for i in range(len(shard))] == list(range(count))
    assert np.ptp([len(shard) for shard in shards]) <= 1
