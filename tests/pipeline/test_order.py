"""The members of a step depend on (seed, epoch, step), not on ranks: order, lanes, views, feeds."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from threading import Event

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.training import loader
from pipeline.training.ahead import Lanes, ahead
from pipeline.training.loader import Feed
from pipeline.training.order import Order
from pipeline.training.sources import Staged, Streamed
from pipeline.training.views import Views

pytestmark = pytest.mark.fast
WORLDS = (1, 2, 3, 8, 64)


@st.composite
def orders(draw) -> Order:
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=40))
    batch = draw(st.integers(1, 100))
    held = draw(st.integers(1, 500))
    order = Order.of(np.array(sizes), batch, held, draw(st.integers(0, 9)), draw(st.integers(1, 3)))
    return replace(order, window=draw(st.sampled_from([order.window, 1])))


def taken(order: Order, epoch: int, steps: range, rank: int = 0, world_size: int = 1) -> np.ndarray:
    """`(steps, units)` of a rank."""
    share = order.share(rank, world_size)
    if not len(share) or not len(steps):
        return np.zeros((len(steps), len(share)), int)
    one = order.epoch(epoch)
    with ThreadPoolExecutor(2) as pool:
        lanes = Lanes(one, lambda *place: {"units": torch.from_numpy(one.window(*place))}, pool)
        return lanes.take(steps, share)["units"].numpy()


@given(orders())
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_every_unit_once_a_pass_but_for_what_does_not_fill_a_batch(order):
    units = int(order.sizes.sum())
    epoch = taken(order, 1, range(order.num_steps))
    assert epoch.size == order.num_steps * order.batch
    assert 0 <= order.passes * units - epoch.size < order.batch
    counts = Counter(epoch.flatten().tolist())
    assert set(counts) <= set(range(units))
    assert max(counts.values(), default=0) <= order.passes


@given(orders(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_step_is_the_same_for_any_world_and_from_any_step_on(order, data):
    whole = taken(order, 2, range(order.num_steps))
    first = data.draw(st.integers(0, order.num_steps))
    for world_size in WORLDS:
        steps = range(first, order.num_steps)
        shares = [taken(order, 2, steps, rank, world_size) for rank in range(world_size)]
        assert np.array_equal(np.concatenate(shares, 1), whole[first:])
        assert max(map(np.size, shares)) - min(map(np.size, shares)) <= len(steps)


@given(orders(), st.data())
@settings(max_examples=30, deadline=None)
def test_steps_that_are_made_together_are_those_that_are_made_one_by_one(order, data):
    epoch = order.epoch(1)
    cut = data.draw(st.integers(0, order.num_steps))
    with ThreadPoolExecutor(2) as pool:
        lanes = Lanes(epoch, lambda *place: {"units": torch.from_numpy(epoch.window(*place))}, pool)
        halves = [range(cut), range(cut, order.num_steps)]
        share = order.share(0, 1)
        made = [lanes.take(steps, share)["units"].numpy() for steps in halves if len(steps)]
    if made:
        assert np.array_equal(np.concatenate(made), taken(order, 1, range(order.num_steps)))


def test_each_window_is_made_once_and_given_up_when_it_is_used():
    order = Order.of(np.full(200, 16), 64, held=640)
    epoch, made = order.epoch(1), Counter()

    def make(lane: int, number: int) -> dict[str, torch.Tensor]:
        made[lane, number] += 1
        return {"units": torch.from_numpy(epoch.window(lane, number))}

    with ThreadPoolExecutor(2) as pool:
        lanes = Lanes(epoch, make, pool)
        for step in range(order.num_steps):
            lanes.take(range(step, step + 1), order.share(0, 1))
            assert all(len(windows) <= 2 for windows in lanes._windows.values())
    assert set(made.values()) == {1}
    numbers = [epoch.num_windows(lane) for lane in range(order.lanes)]
    assert len(made) == sum(numbers) > 2 * order.lanes


def test_epochs_and_seeds_have_orders_of_their_own_and_leave_out_units_of_their_own():
    order = Order.of(np.full(10, 25), 64, held=1000)
    epochs = [taken(order, epoch, range(order.num_steps)) for epoch in (1, 1, 2, 3)]
    assert np.array_equal(epochs[0], epochs[1])
    other = replace(order, seed=1)
    assert not np.array_equal(epochs[0], taken(other, 1, range(order.num_steps)))
    left_out = [frozenset(range(250)) - set(epoch.flatten().tolist()) for epoch in epochs[1:]]
    assert len(set(left_out)) == 3


@pytest.mark.parametrize("world_size", WORLDS)
def test_a_block_is_read_by_one_rank_but_at_the_borders_of_lanes(world_size):
    order = Order.of(np.full(2000, 256), 512, held=65_536)
    assert (order.lanes, order.window) == (64, 4)
    readers = Counter()
    for rank in range(world_size):
        units = taken(order, 1, range(order.num_steps), rank, world_size)
        readers.update(np.unique(units // 256).tolist())
    assert len(readers) == 2000
    assert sum(readers.values()) <= 2000 + order.lanes
    if 64 % world_size == 0:
        assert sum(readers.values()) <= 2000 + world_size


@given(st.lists(st.integers(1, 6), min_size=1, max_size=30), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_views_that_come_together_are_different_ones_of_one_signal(counts, group, seed):
    source = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    view = np.arange(len(source))
    views = Views(source, view, group)
    assert len(views) == sum(count >= group for count in counts)
    for members in (
        views.first(),
        views.drawn(np.arange(len(views)), np.random.default_rng(seed)),
    ):
        assert members.shape == (len(views), group)
        assert (source[members] == source[members[:, :1]]).all()
        assert len(np.unique(members)) == members.size


def batches(feed: Feed, *arguments) -> list[tuple[list[int], bytes]]:
    """Positions and weights of each batch."""
    return [
        (
            batch.positions.tolist(),
            torch.cat([x.flatten(1) for x in batch.state.values()], 1).numpy().tobytes(),
        )
        for batch in feed.epoch(*arguments)
    ]


def read(order: Order, world_size: int) -> int:
    """Blocks that all ranks together read in an epoch."""
    one, count = order.epoch(1), 0
    for rank in range(world_size):
        share = order.share(rank, world_size)
        for lane in np.flatnonzero((order.cuts[:-1] < share.stop) & (order.cuts[1:] > share.start)):
            windows = [one.window(lane, number) for number in range(one.num_windows(lane))]
            count += len(np.unique(np.concatenate(windows) // order.sizes[0]))
    return count


def test_a_thousand_ranks_read_a_block_once_but_at_the_borders_of_lanes():
    sizes, world_size = np.full(20_000, 16), 1024
    order = Order.of(sizes, world_size * 128, held=4096)
    assert order.lanes == world_size
    assert read(order, world_size) <= len(sizes) + order.lanes
    few = replace(order, lanes=64)
    assert read(few, world_size) > 15 * len(sizes)


@pytest.mark.parametrize(
    "fields", [{}, {"group": 2}, {"members": 100, "passes": 3}, {"members": 16, "passes": 3}]
)
@pytest.mark.parametrize("held", [60, 10**6])
def test_where_members_are_read_from_does_not_change_them(zoo, monkeypatch, fields, held):
    monkeypatch.setattr(loader, "HELD", held)
    monkeypatch.setattr(loader, "MADE_TOGETHER", 2**16)
    feed = Feed(zoo, "train", ("label",), seed=3, **fields)
    staged = batches(feed, 1, 16)
    assert isinstance(feed._source, Staged)
    label = zoo.catalog["label"].to_numpy()
    for batch in feed.epoch(1, 16):
        assert np.array_equal(batch.columns["label"].numpy(), label[batch.positions])
        place = int(batch.positions[5])
        assert all(torch.equal(values[5], zoo[place][name]) for name, values in batch.state.items())
    monkeypatch.setattr("pipeline.training.sources.STAGED_SHARE", 0)
    streamed = Feed(zoo, "train", ("label",), seed=3, **fields)
    assert batches(streamed, 1, 16) == staged
    assert isinstance(streamed._source, Staged if feed.group > 1 else Streamed)
    shares = [batches(streamed, 1, 16, rank, 4, 2) for rank in range(4)]
    for step, (positions, rows) in enumerate(staged[2:]):
        assert list(chain.from_iterable(share[step][0] for share in shares)) == positions
        assert b"".join(share[step][1] for share in shares) == rows


def test_a_world_that_does_not_divide_a_batch_shares_it_out_unevenly(zoo):
    feed = Feed(zoo, "train", (), group=2)
    whole = batches(feed, 1, 32)
    shares = [batches(feed, 1, 32, rank, 3) for rank in range(3)]
    assert [len(share[0][0]) for share in shares] == [10, 10, 12]
    with pytest.raises(ValueError, match="each of 17 ranks must have a part of a batch of 16"):
        batches(feed, 1, 32, 0, 17)
    for step, (positions, _) in enumerate(whole):
        assert list(chain.from_iterable(share[step][0] for share in shares)) == positions


def test_what_is_made_ahead_comes_in_order_and_its_errors_come_with_it():
    def items():
        yield from range(5)
        raise OSError("no more")

    seen = []
    with pytest.raises(OSError, match="no more"):
        seen.extend(ahead(items()))
    some = ahead(iter(range(100)))
    assert [next(some), next(some)] == [0, 1]


def test_what_is_made_ahead_is_begun_before_it_is_asked_for():
    begun = Event()
    made = ahead(begun.set() for _ in range(1))
    assert begun.wait(10)
    assert list(made) == [None]
