"""Batches: an epoch holds every pair once, padding teaches nothing, serving reads each history's end."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from zhiyin.data.histories import Histories  # noqa: E402
from zhiyin.models.neural.batches import (  # noqa: E402
    Sequences,
    TrainingSequences,
    positive,
    serving_sequences,
)

LENGTHS = st.lists(st.integers(0, 23), min_size=1, max_size=40)


def of(lengths: list[int]) -> Histories:
    """Histories whose every event is another item, so that a pair tells where it comes from."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    n = int(offsets[-1])
    return Histories.of(offsets, np.arange(100, 100 + n), times=np.arange(n, dtype=np.int64) * 10)


def pairs_of(batch: Sequences) -> list[tuple[int, int]]:
    assert batch.targets is not None
    asked = batch.targets >= 0
    return list(zip(batch.items[asked].tolist(), batch.targets[asked].tolist()))


def assert_well_made(batch: Sequences, max_len: int) -> None:
    b, t = batch.items.shape
    assert t <= max_len
    assert t == int(batch.lengths.max())
    assert int(batch.lengths.min()) >= 1
    real = torch.arange(t) < batch.lengths[:, None]
    assert (batch.items[~real] == 0).all()
    assert (batch.items[real] >= 100).all()
    # Times are those of the items, and the last one's in the padding.
    last = batch.lengths - 1
    shown = batch.items.clone()
    shown[~real] = batch.items[torch.arange(b), last][:, None].expand(b, t)[~real]
    assert torch.equal(batch.times, (shown - 100) * 10)
    assert torch.equal(batch.places[real], (batch.lengths[:, None] - 1 - torch.arange(t))[real])
    assert (batch.places >= 0).all()
    if batch.targets is not None:
        assert torch.equal(batch.targets >= 0, real)
        assert batch.events == int(real.sum())


@given(LENGTHS, st.integers(1, 9), st.integers(1, 7), st.booleans(), st.integers(0, 3))
def test_every_pair_is_learned_once_an_epoch(
    lengths: list[int], max_len: int, batch_size: int, windows: bool, epoch: int
) -> None:
    histories = of(lengths)
    batches = TrainingSequences(histories, max_len, batch_size, 5, windows)
    found: Counter[tuple[int, int]] = Counter()
    n = 0
    for batch in batches.epoch(epoch):
        assert_well_made(batch, max_len)
        assert len(batch.items) <= batch_size
        found.update(pairs_of(batch))
        owner = torch.searchsorted(torch.from_numpy(histories.offsets), batch.items[:, 0] - 100, right=True) - 1
        assert torch.equal(owner, batch.rows)
        n += 1
    assert n == batches.n_batches
    wanted: Counter[tuple[int, int]] = Counter()
    for row in range(len(lengths)):
        items = histories.items[histories.offsets[row] : histories.offsets[row + 1]].tolist()
        kept = items if windows else items[-max_len - 1 :]
        wanted.update(pairwise(kept))
    assert found == wanted


@given(LENGTHS, st.integers(1, 5), st.booleans())
def test_an_epoch_is_the_same_each_time_it_is_asked(lengths: list[int], batch_size: int, windows: bool) -> None:
    one, other = (TrainingSequences(of(lengths), 6, batch_size, 9, windows) for _ in range(2))
    list(one.epoch(0))  # what was asked before does not matter
    for a, b in zip(one.epoch(3), other.epoch(3), strict=True):
        for name in ("items", "lengths", "times", "rows", "targets"):
            assert torch.equal(getattr(a, name), getattr(b, name))


def test_epochs_and_seeds_differ() -> None:
    histories = of([5] * 200)

    def order(seed: int, epoch: int) -> list[int]:
        batches = TrainingSequences(histories, 6, 8, seed)
        return [row for batch in batches.epoch(epoch) for row in batch.rows.tolist()]

    orders = [order(0, 0), order(0, 1), order(1, 0)]
    assert all(sorted(found) == list(range(200)) for found in orders)
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


def test_like_lengths_go_together() -> None:
    lengths = np.random.default_rng(0).integers(2, 101, 2000).tolist()
    cells = events = 0
    for batch in TrainingSequences(of(lengths), 100, 32, 0).epoch(0):
        cells, events = cells + batch.items.numel(), events + batch.events
    assert cells < 1.05 * events


@given(LENGTHS, st.integers(1, 12), st.integers(1, 60))
def test_serving_reads_the_end_of_each_history_once(lengths: list[int], max_len: int, cells: int) -> None:
    histories = of(lengths)
    seen: list[int] = []
    for batch in serving_sequences(histories, max_len, cells):
        assert_well_made(batch, max_len)
        assert batch.targets is None
        assert batch.items.numel() <= cells or len(batch.items) == 1
        for row, items, length in zip(batch.rows.tolist(), batch.items, batch.lengths.tolist()):
            wanted = histories.items[histories.offsets[row] : histories.offsets[row + 1]][-max_len:]
            assert items[:length].tolist() == wanted.tolist()
            seen.append(row)
    assert sorted(seen) == [row for row, length in enumerate(lengths) if length]


def test_serving_batches_are_as_large_as_they_may_be() -> None:
    sizes = [len(batch.items) for batch in serving_sequences(of([4] * 25), 10, 40)]
    assert sizes == [10, 10, 5]


def test_nothing_to_serve_and_nothing_to_learn() -> None:
    assert list(serving_sequences(of([0, 0]), 5)) == []
    assert list(serving_sequences(Histories.of(np.zeros(1, np.int64), np.zeros(0, np.int32)), 5)) == []
    batches = TrainingSequences(of([1, 0, 1]), 5, 4, 0)
    assert batches.n_batches == 0
    assert list(batches.epoch(0)) == []


@given(LENGTHS, st.integers(1, 5), st.integers(1, 7))
def test_the_shares_of_all_processes_are_the_batch(lengths: list[int], world: int, batch_size: int) -> None:
    for batch in TrainingSequences(of(lengths), 6, batch_size, 0).epoch(0):
        shares = [batch.share(rank, world) for rank in range(world)]
        assert sorted(row for share in shares for row in share.rows.tolist()) == sorted(batch.rows.tolist())
        assert sum((Counter(pairs_of(share)) for share in shares), Counter()) == Counter(pairs_of(batch))
        assert sum(share.events for share in shares) == batch.events
        assert max(len(share.rows) for share in shares) - min(len(share.rows) for share in shares) <= 1
        for share in shares:
            assert share.places.shape == share.items.shape


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([-1.0, 0.0, 0.5, 3.0])), max_size=30))
def test_positive_keeps_the_rows(events: list[tuple[int, float]]) -> None:
    events = sorted(events, key=lambda event: event[0])
    owner = np.array([row for row, _ in events], dtype=np.int64)
    weights = np.array([weight for _, weight in events], dtype=np.float32)
    offsets = np.searchsorted(owner, np.arange(7))
    histories = Histories.of(offsets, np.arange(len(events)), weights=weights, times=np.arange(len(events)) * 7)
    kept = positive(histories)
    assert len(kept) == 6
    for row in range(6):
        wanted = np.flatnonzero((owner == row) & (weights > 0))
        part = slice(kept.offsets[row], kept.offsets[row + 1])
        assert kept.items[part].tolist() == wanted.tolist()
        assert kept.times[part].tolist() == (wanted * 7).tolist()
        assert (kept.weights[part] > 0).all()
    np.testing.assert_array_equal(kept.now, histories.now)
