"""Candidates, and the feature rows (examples) that rankers are trained on and score."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl

from zhiyin.data.histories import Histories


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Ragged candidates of n requests, m in all; no item twice in a request.

    Parameters
    ----------
    offsets: int64[n + 1]; request r has candidates offsets[r]:offsets[r + 1].
    items: int32[m], item codes.
    sources: names of the s retrievers.
    scores: float32[m, s], NaN where a source did not name the item.
    ranks: int32[m, s], from 0; -1 where a source did not name the item.
    """

    offsets: np.ndarray
    items: np.ndarray
    sources: tuple[str, ...]
    scores: np.ndarray
    ranks: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def owners(self) -> np.ndarray:
        """int64[m]: the request each candidate belongs to."""
        if len(self) == 1:
            return np.zeros(len(self.items), dtype=np.int64)
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def take(self, requests: np.ndarray) -> Candidates:
        """The candidates of some requests, in their order. `requests`: int64, which of the n."""
        offsets, rows = rows_of(self.offsets, requests)
        return Candidates(offsets, self.items[rows], self.sources, self.scores[rows], self.ranks[rows])


def rows_of(offsets: np.ndarray, requests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """New offsets int64[r + 1] of the given requests of a ragged array, and int64: which of its rows are theirs."""
    sizes = np.diff(offsets)[requests]
    new = np.concatenate([[0], np.cumsum(sizes)])
    return new, np.repeat(offsets[requests] - new[:-1], sizes) + np.arange(new[-1])


@dataclasses.dataclass(frozen=True)
class Examples:
    """m rows to be scored, of n requests.

    Parameters
    ----------
    offsets: int64[n + 1]; rows of request r are offsets[r]:offsets[r + 1].
    items: int32[m], item codes.
    numbers: float32[m, a], NaN where unknown; `number_names` says what they are.
    codes: int32[m, b], one category a row and column, 0 for unknown; `cards[c]` codes in column c.
    bags: for each name, several categories a row: (offsets int64[m + 1], codes int32[...]) and their number.
    histories: of the n requests, only events before the request; what attention over the history reads.
    """

    offsets: np.ndarray
    items: np.ndarray
    numbers: np.ndarray
    number_names: tuple[str, ...]
    codes: np.ndarray
    code_names: tuple[str, ...]
    cards: tuple[int, ...]
    histories: Histories
    bags: dict[str, tuple[np.ndarray, np.ndarray, int]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def owners(self) -> np.ndarray:
        """int64[m]: the request each row belongs to."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def take(self, requests: np.ndarray) -> Examples:
        """The rows of some requests, in their order. `requests`: int64, which of the n."""
        offsets, rows = rows_of(self.offsets, requests)
        return dataclasses.replace(
            self,
            offsets=offsets,
            items=self.items[rows],
            numbers=self.numbers[rows],
            codes=self.codes[rows],
            histories=self.histories.take(requests),
            bags=self._bags_of(rows),
        )

    def only(self, rows: np.ndarray) -> Examples:
        """Some rows, in order, each still of its request. `rows`: ascending int64."""
        sizes = np.bincount(self.owners[rows], minlength=len(self.offsets) - 1)
        return dataclasses.replace(
            self,
            offsets=np.concatenate([[0], np.cumsum(sizes)]),
            items=self.items[rows],
            numbers=self.numbers[rows],
            codes=self.codes[rows],
            bags=self._bags_of(rows),
        )

    def _bags_of(self, rows: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
        """The bags of some rows, in their order."""
        bags = {}
        for name, (starts, codes, n_codes) in self.bags.items():
            begins, picked = rows_of(starts, rows)
            bags[name] = (begins, codes[picked], n_codes)
        return bags


@dataclasses.dataclass(frozen=True)
class ItemFeatures:
    """Feature values of items of one request, as the ranker read them.

    Parameters
    ----------
    items: int32[r], item codes.
    values: float32[r, f], numbers (NaN where unknown) and codes of categories; columns with several categories per row
        are left out.
    names: names of the f columns.
    """

    items: np.ndarray
    values: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def of(cls, examples: Examples, items: np.ndarray | None = None) -> ItemFeatures:
        """The features of all rows, or of the given items, in their order."""
        rows = np.arange(len(examples))
        if items is not None:
            _, places, rows = np.intersect1d(items, examples.items, return_indices=True)
            rows = rows[np.argsort(places)]
        values = np.concatenate([examples.numbers[rows], examples.codes[rows].astype(np.float32)], axis=1)
        return cls(examples.items[rows], values, (*examples.number_names, *examples.code_names))


def join(parts: list[Examples]) -> Examples:
    """Examples one after another; their columns must be the same. Codes of categories keep the larger number."""
    first = parts[0]
    bags = {}
    for name in first.bags:
        starts = _after([part.bags[name][0] for part in parts])
        codes = np.concatenate([part.bags[name][1] for part in parts])
        bags[name] = (starts, codes, max(part.bags[name][2] for part in parts))
    return dataclasses.replace(
        first,
        offsets=_after([part.offsets for part in parts]),
        items=np.concatenate([part.items for part in parts]),
        numbers=np.concatenate([part.numbers for part in parts]),
        codes=np.concatenate([part.codes for part in parts]),
        cards=tuple(max(part.cards[at] for part in parts) for at in range(len(first.cards))),
        histories=joined_histories([part.histories for part in parts]),
        bags=bags,
    )


def joined_histories(parts: list[Histories]) -> Histories:
    """Histories one batch after another; user features are joined where all parts have them."""
    whole = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("items", "weights", "times", "kinds", "values", "now", "users")
    }
    features = None
    if all(part.features is not None for part in parts):
        features = pl.concat([part.features for part in parts])  # type: ignore[type-var]
    return Histories(_after([part.offsets for part in parts]), **whole, features=features)


def _after(parts: list[np.ndarray]) -> np.ndarray:
    """Offsets of ragged arrays that are joined."""
    ends = [np.zeros(1, np.int64)]
    for part in parts:
        ends.append(part[1:] + ends[-1][-1])
    return np.concatenate(ends)


def flag_of_code(codes: np.ndarray, size: int) -> np.ndarray:
    """int32[size]: the place of each code among the given ones, -1 where it is none of them."""
    flags = np.full(size, -1, dtype=np.int32)
    known = np.flatnonzero(codes < size)
    flags[codes[known]] = known
    return flags


def bag_flags(bag: tuple[np.ndarray, np.ndarray, int], codes: np.ndarray) -> np.ndarray:
    """float32[m, len(codes)]: 1 where a row of a bag has a code, else 0."""
    offsets, members, size = bag
    flags = np.zeros((len(offsets) - 1, len(codes)), dtype=np.float32)
    column, owner = flag_of_code(codes, size)[members], np.repeat(np.arange(len(flags)), np.diff(offsets))
    flags[owner[column >= 0], column[column >= 0]] = 1
    return flags
