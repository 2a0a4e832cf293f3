"""Histories as batches of padded tensors, the same for training and for serving.

Training is shifted: a causal network reads items 0..t of a sequence and every position predicts the item after it, so
an epoch reads each event once, not once per prefix. Padding is on the right, where a causal network
does not read it; it is item 0, whose gradient is zero as no loss depends on it. Sequences of similar length are batched
together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from zhiyin.data.histories import Histories
from zhiyin.data.process_group import ALONE, ProcessGroup

# Number of batches within which sequences are sorted by length: trades padding against shuffling.
BATCHES_PER_BUCKET = 64


@dataclasses.dataclass(frozen=True)
class Sequences:
    """b sequences of at most t items.

    Parameters
    ----------
    items: int64[b, t], item codes, oldest first, padded on the right.
    lengths: int64[b], how many items are real, at least 1.
    times: int64[b, t], microseconds; padded with the last time.
    targets: int64[b, t], the item after each, -1 where there is none to learn; None when serving.
    rows: int64[b], which histories these are.
    judged: bool[b, t], the targets that count; None: all of them.
    """

    items: Tensor
    lengths: Tensor
    times: Tensor
    rows: Tensor
    targets: Tensor | None = None
    judged: Tensor | None = None

    @property
    def events(self) -> int:
        return int(self.lengths.sum())

    @property
    def places(self) -> Tensor:
        """int64[b, t]: how many items come after each, 0 for the last; the distance to the end of the sequence."""
        return (self.lengths[:, None] - 1 - torch.arange(self.items.shape[1], device=self.items.device)).clamp(min=0)

    def share(self, rank: int, world: int) -> Sequences:
        """Every world-th row: the part of one of several processes."""
        return self if world == 1 else self._map(lambda tensor: tensor[rank::world])

    def to(self, device: torch.device) -> Sequences:
        """The same on a device."""
        return self if device.type == "cpu" else self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Sequences:
        targets, judged = (None if part is None else change(part) for part in (self.targets, self.judged))
        return Sequences(
            change(self.items), change(self.lengths), change(self.times), change(self.rows), targets, judged
        )  # fmt: skip


class TrainingSequences:
    """The batches of shifted sequences of an epoch.

    Parameters
    ----------
    histories: of positive events only; those with fewer than two are skipped.
    max_len: items a network reads at once. Of a longer history the last max_len + 1 events are taken; with `windows`
        the earlier ones too, in further sequences that overlap by one event.
    group: the processes that hold the histories together: the batches are those of all, and have the rows that this
        process holds. A history is in one process alone, and empty in the others.
    """

    def __init__(
        self,
        histories: Histories,
        max_len: int,
        batch_size: int,
        seed: int,
        windows: bool = False,
        group: ProcessGroup = ALONE,
    ) -> None:
        self.items, self.times = histories.items, histories.times
        self.batch_size, self.seed = batch_size, seed
        lengths = group.sum(histories.lengths)
        counts = np.where(lengths >= 2, -(-(lengths - 1) // max_len) if windows else 1, 0)
        self.rows = np.repeat(np.arange(len(lengths)), counts)
        # Window w of a row ends w · max_len events before the row does.
        window = np.arange(len(self.rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        # Places within a history, for all processes; its events begin at `offsets` in the one that holds it.
        ends = lengths[self.rows] - window * max_len
        first = np.maximum(0, ends - max_len - 1)
        self.lengths = ends - first - 1
        self.starts = histories.offsets[:-1][self.rows] + first
        self.held = None if group.world == 1 else histories.lengths[self.rows] > 0
        self.n_batches = -(-len(self.rows) // batch_size)
        self.mean_targets = self.lengths.sum() / max(1, self.n_batches)

    def epoch(self, number: int) -> Iterator[Sequences]:
        """Shuffled batches of sequences of similar length, in random order."""
        rng = np.random.default_rng([self.seed, 21, number])
        order = rng.permutation(len(self.rows))
        for start in range(0, len(order), BATCHES_PER_BUCKET * self.batch_size):
            part = slice(start, start + BATCHES_PER_BUCKET * self.batch_size)
            order[part] = order[part][np.argsort(self.lengths[order[part]], kind="stable")]
        for batch in rng.permutation(self.n_batches):
            yield self.batch(order[batch * self.batch_size : (batch + 1) * self.batch_size])

    def batch(self, chosen: np.ndarray) -> Sequences:
        """The given sequences, those of them that this process holds, as tensors."""
        if self.held is not None:
            chosen = chosen[self.held[chosen]]
        at, real = _places(self.starts[chosen], self.lengths[chosen])
        return Sequences(
            _tensor(self.items[at], real, 0),
            torch.from_numpy(self.lengths[chosen]),
            torch.from_numpy(self.times[at]),
            torch.from_numpy(self.rows[chosen]),
            _tensor(self.items[at + 1], real, -1),
        )


def request_sequences(histories: Histories, max_len: int) -> Iterable[Sequences]:
    """`serving_sequences` of the positive events; of one history for a tenth of the time, which each request pays."""
    if len(histories) != 1:
        return serving_sequences(positive(histories), max_len)
    items, times, is_positive = histories.items, histories.times, histories.weights > 0
    if not is_positive.all():
        items, times = items[is_positive], times[is_positive]
    if not len(items):
        return ()
    items, times = items[-max_len:].astype(np.int64), np.array(times[-max_len:])
    length, row = np.array([len(items)]), np.zeros(1, dtype=np.int64)
    return (Sequences(*map(torch.from_numpy, (items[None], length, times[None], row))),)


def serving_sequences(histories: Histories, max_len: int, cells: int = 1 << 15) -> Iterator[Sequences]:
    """The last max_len items of each history that has any, shortest first, at most `cells` padded cells a batch.

    Few cells keep the activations in the cache: eight times as many took three times as long.
    """
    lengths = np.minimum(histories.lengths, max_len)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    start = 0
    while start < len(order):
        # Grow the batch while rows times the longest, which is its last, stays within the cells.
        widths = lengths[order[start : start + cells]]
        size = max(1, int(np.searchsorted(np.arange(1, len(widths) + 1) * widths, cells, side="right")))
        chosen = order[start : start + size]
        start += size
        at, real = _places(histories.offsets[1:][chosen] - lengths[chosen], lengths[chosen])
        yield Sequences(
            _tensor(histories.items[at], real, 0),
            torch.from_numpy(lengths[chosen]),
            torch.from_numpy(histories.times[at]),
            torch.from_numpy(chosen),
        )


def held_out_sequences(queries: Histories, relevant: Histories, max_len: int) -> Iterator[Sequences]:
    """Histories whose next item alone is judged: the first relevant one.

    Parameters
    ----------
    queries, relevant: the same users, each with at least one positive event in both. `rows` of the batches are their
        codes.
    """
    next_items = torch.from_numpy(relevant.items[relevant.offsets[:-1]].astype(np.int64))
    users = torch.from_numpy(queries.users.astype(np.int64))
    for batch in serving_sequences(positive(queries), max_len):
        row, last = torch.arange(len(batch.rows)), batch.lengths - 1
        place = torch.arange(batch.items.shape[1])
        targets = torch.where(place < last[:, None], batch.items.roll(-1, dims=1), -1)
        targets[row, last] = next_items[batch.rows]
        judged = place == last[:, None]
        yield dataclasses.replace(batch, rows=users[batch.rows], targets=targets, judged=judged)


def _places(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64[b, t]: where each cell's event stands, the last one's place in the padding; bool[b, t]: not padding."""
    place = np.arange(lengths.max(initial=1))
    return starts[:, None] + np.minimum(place, lengths[:, None] - 1), place < lengths[:, None]


def _tensor(items: np.ndarray, real: np.ndarray, padding: int) -> Tensor:
    return torch.from_numpy(np.where(real, items, padding).astype(np.int64))


def positive(histories: Histories) -> Histories:
    """The events of positive weight, in the same rows."""
    mask = histories.weights > 0
    if mask.all():
        return histories
    offsets = np.concatenate([[0], np.cumsum(mask)])[histories.offsets]
    return dataclasses.replace(
        histories,
        offsets=offsets,
        items=histories.items[mask],
        weights=histories.weights[mask],
        times=histories.times[mask],
        kinds=histories.kinds[mask],
        values=histories.values[mask],
    )
