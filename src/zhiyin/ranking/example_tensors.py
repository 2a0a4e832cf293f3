"""Examples as tensors for the ranking networks: scaled numbers, categories as rows of one embedding table.

`Encoding` is learned from training rows only: quantiles of each number, and the table row of each category. Categories
that are not in the training rows share one row with "unknown".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zhiyin.core.parallel import kernel
from zhiyin.models.neural.batches import positive
from zhiyin.ranking.examples import Examples, rows_of

# Largest number of rows that the distribution of a number is learned from.
MAX_SAMPLED_ROWS = 1_000_000
# Number of quantiles; the distribution is interpolated linearly between them.
N_KNOTS = 65


@dataclasses.dataclass(frozen=True)
class ExampleBatch:
    """b rows.

    Parameters
    ----------
    places: int64[b, f], rows of the table: the item, then each column of codes.
    numbers: float32[b, a], about 0 with deviation 1, and 0 where unknown; missing: float32[b, a], 1 there.
    members: int64[...], rows of the table in the bags of all rows, one bag after another; `ends` int64[bags · b]:
        where each begins.
    history: int64[p], rows of the table of the items each had, `starts` int64[b]: where each row's begin; owners:
        int64[p], which row each belongs to.
    labels: float32[b, tasks], NaN where unknown; weights: float32[b].
    """

    places: Tensor
    numbers: Tensor
    missing: Tensor
    members: Tensor
    ends: Tensor
    history: Tensor
    starts: Tensor
    owners: Tensor
    labels: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> ExampleBatch:
        """The same on a device."""
        if device.type == "cpu":
            return self
        parts = (getattr(self, field.name) for field in dataclasses.fields(self))
        return ExampleBatch(*(part.to(device, non_blocking=True) for part in parts))


@dataclasses.dataclass(frozen=True)
class Encoding:
    """The learned encoding of examples as tensors.

    Parameters
    ----------
    table: int32[...], the row of the table of each code: of the items, then of each column, then of each bag.
    begins: int64[1 + columns + bags], where each of them begins in `table`; sizes: how many codes each has there.
    n_rows: rows of the table.
    knots: float32[numbers, KNOTS], quantiles of each number, ascending.
    mean, deviation: float32[numbers].
    """

    table: np.ndarray
    begins: np.ndarray
    sizes: np.ndarray
    n_rows: int
    knots: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def learn(cls, examples: Examples, min_count: int, rng: np.random.Generator) -> Encoding:
        """Learn from training rows. Codes with fewer than min_count occurrences count as unknown."""
        items = np.concatenate([examples.items, examples.histories.items])
        counts = [np.bincount(items + 1)]  # shifted by one: 0 is the unknown item
        counts[0][0] = 0
        counts += [np.bincount(column, minlength=card) for column, card in zip(examples.codes.T, examples.cards)]
        counts += [np.bincount(codes, minlength=card) for _, codes, card in examples.bags.values()]
        sizes = np.array([len(count) for count in counts], dtype=np.int64)
        begins = np.cumsum(sizes) - sizes
        own = np.concatenate(counts) >= max(1, min_count)
        own[begins[sizes > 0]] = True  # code 0 is "unknown" and always has a row
        row = np.cumsum(own) - 1
        unknown = np.repeat(row[np.minimum(begins, len(row) - 1)], sizes)
        numbers = examples.numbers
        if len(numbers) > MAX_SAMPLED_ROWS:
            numbers = numbers[np.sort(rng.choice(len(numbers), MAX_SAMPLED_ROWS, replace=False))]
        knots, mean, deviation = _distribution(numbers)
        return cls(np.where(own, row, unknown).astype(np.int32), begins, sizes, int(own.sum()), knots, mean, deviation)

    def arrays(self) -> dict[str, np.ndarray]:
        """Learned state as arrays."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> Encoding:
        """The encoding from what `arrays` returned."""
        return cls(**(arrays | {"n_rows": int(np.ravel(arrays["n_rows"])[0])}))  # type: ignore[arg-type]

    def places(self, column: int, codes: np.ndarray) -> np.ndarray:
        """Rows of the table of codes of one column (0: items, shifted by one)."""
        valid = np.where((codes >= 0) & (codes < self.sizes[column]), codes, 0)
        return self.table[self.begins[column] + valid]

    @property
    def unknown(self) -> np.ndarray:
        """int64: the rows of "unknown", one a column."""
        return self.table[self.begins[self.sizes > 0]].astype(np.int64)


def _distribution(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Knots, mean and standard deviation of the known values of each column."""
    columns = numbers.shape[1]
    knots = np.zeros((columns, N_KNOTS), dtype=np.float32)
    mean, deviation = np.zeros(columns, np.float32), np.ones(columns, np.float32)
    for at in range(columns):
        finite = numbers[np.isfinite(numbers[:, at]), at]
        if len(finite):
            knots[at] = np.quantile(finite, np.linspace(0, 1, N_KNOTS))
            mean[at] = finite.mean(dtype=np.float64)
            deviation[at] = finite.std(dtype=np.float64) or 1.0
    return knots, mean, deviation


@kernel
def _quantiles(numbers, chosen, knots, out, missing):
    """Quantile of each number, scaled to -√3..√3, so that a uniform one has mean 0 and standard deviation 1."""
    last = knots.shape[1] - 1
    for row in range(len(chosen)):
        for column in range(numbers.shape[1]):
            value = numbers[chosen[row], column]
            if not np.isfinite(value):
                missing[row, column] = 1
                continue
            line = knots[column]
            # Several knots of one value: the middle one, as half of these rows are below.
            low, high = np.searchsorted(line, value), np.searchsorted(line, value, side="right")
            if low < high:
                place = 0.5 * (low + high - 1)
            elif low == 0:
                place = 0.0
            elif low > last:
                place = float(last)
            else:
                place = low - 1 + (value - line[low - 1]) / (line[low] - line[low - 1])
            out[row, column] = (2 * place / last - 1) * 1.7320508


class ExampleRows:
    """Batches of rows of examples, drawn anew each epoch.

    Parameters
    ----------
    max_len: how many of the last events of a history are read; 0: none.
    scaling: "quantile" or "standard".
    masked: share of items and codes replaced by unknown in training.
    """

    def __init__(
        self,
        examples: Examples,
        encoding: Encoding,
        *,
        max_len: int,
        scaling: str,
        batch_size: int = 1,
        labels: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        masked: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.examples, self.encoding, self.scaling = examples, encoding, scaling
        self.batch_size, self.masked, self.seed = batch_size, masked, seed
        m = len(examples)
        self.n_batches = -(-m // batch_size)
        self.mean_targets = m / max(1, self.n_batches)
        self.labels = np.zeros((m, 0), np.float32) if labels is None else labels
        self.weights = np.ones(m, np.float32) if weights is None else weights
        # Table rows of all cells, looked up once: 4 bytes per cell.
        columns = [encoding.places(0, examples.items + 1)]
        columns += [encoding.places(1 + at, column) for at, column in enumerate(examples.codes.T)]
        self.places = np.column_stack(columns) if columns else np.zeros((m, 0), np.int32)
        self.max_len = max_len
        if max_len:
            histories = positive(examples.histories)
            lengths = np.minimum(histories.lengths, max_len)
            owners = examples.owners
            self.firsts, self.lengths = (histories.offsets[1:] - lengths)[owners], lengths[owners]
            self.had = encoding.places(0, histories.items + 1)

    def epoch(self, number: int) -> Iterator[RowSelection]:
        """All rows, shuffled."""
        order = np.random.default_rng([self.seed, 23, number]).permutation(len(self.examples))
        for start in range(0, len(order), self.batch_size):
            yield RowSelection(self, order[start : start + self.batch_size], (number, start))

    def rows(self, chosen: np.ndarray, draw: tuple[int, ...] | None = None) -> ExampleBatch:
        """The given rows as tensors; `draw`: key of the random masks, None for no masks."""
        examples, b = self.examples, len(chosen)
        numbers = np.zeros((b, examples.numbers.shape[1]), dtype=np.float32)
        missing = np.zeros_like(numbers)
        if self.scaling == "quantile":
            _quantiles(examples.numbers, chosen, self.encoding.knots, numbers, missing)
        else:
            numbers = (examples.numbers[chosen] - self.encoding.mean) / self.encoding.deviation
            missing = (~np.isfinite(numbers)).astype(np.float32)
            # Bounds the influence of outliers.
            numbers = np.clip(np.nan_to_num(numbers, nan=0.0, posinf=0.0, neginf=0.0), -8, 8)
        places = self.places[chosen].astype(np.int64)
        if self.masked and draw is not None:
            hidden = np.random.default_rng([self.seed, 24, *draw]).random(places.shape, dtype=np.float32) < self.masked
            places = np.where(hidden, self.encoding.unknown[: places.shape[1]], places)
        members, ends, size = [], [], 0
        for at, (starts, codes, _) in enumerate(examples.bags.values()):
            begin, picked = rows_of(starts, chosen)
            members.append(self.encoding.places(1 + len(examples.cards) + at, codes[picked]))
            ends.append(begin[:-1] + size)
            size += len(picked)
        history, starts, owners = np.zeros(0, np.int64), np.zeros(b, np.int64), np.zeros(0, np.int64)
        if self.max_len:
            lengths = self.lengths[chosen]
            starts = np.cumsum(lengths) - lengths
            owners = np.repeat(np.arange(b), lengths)
            history = self.had[np.arange(len(owners)) + (self.firsts[chosen] - starts)[owners]]
        return ExampleBatch(
            torch.from_numpy(places),
            torch.from_numpy(numbers),
            torch.from_numpy(missing),
            torch.from_numpy(np.concatenate([*members, np.zeros(0, np.int32)]).astype(np.int64)),
            torch.from_numpy(np.concatenate([*ends, np.zeros(0, np.int64)]).astype(np.int64)),
            torch.from_numpy(history.astype(np.int64)),
            torch.from_numpy(starts.astype(np.int64)),
            torch.from_numpy(owners.astype(np.int64)),
            torch.from_numpy(self.labels[chosen]),
            torch.from_numpy(self.weights[chosen]),
        )


@dataclasses.dataclass(frozen=True)
class RowSelection:
    """The rows of a training step; converted to tensors once a process has taken its share."""

    source: ExampleRows
    chosen: np.ndarray
    draw: tuple[int, ...]

    @property
    def events(self) -> int:
        return len(self.chosen)

    def share(self, rank: int, world: int) -> RowSelection:
        """Every world-th row: the part of one of several processes."""
        return self if world == 1 else RowSelection(self.source, self.chosen[rank::world], (*self.draw, rank))

    def to(self, device: torch.device) -> Any:
        """The rows as tensors."""
        return self.source.rows(self.chosen, self.draw).to(device)
