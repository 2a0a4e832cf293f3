"""Segments of users: values of their columns, and pairs of values of two columns, that enough users have.

A category is taken as it is; a number of few distinct values as a category, another as the quantile bin it lies in.
A list gives no segment. Unknown values belong to none.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.errors import ConfigError, suggest

# A whole number with at most so many distinct values names categories, such as an age group or a code of an occupation.
MAX_CATEGORIES = 50
# Columns whose pairs are segments: those with the most users in their segments.
MAX_PAIRED_COLUMNS = 8
# Parts the values of a pair; no value holds it.
_BETWEEN = "\x1f"


@dataclasses.dataclass(frozen=True)
class UserSegments:
    """The learned segments.

    Parameters
    ----------
    columns: {"name", "edges"}: the inner edges of the bins of a number, None for a category.
    segments: {"columns": the places in `columns` of one or two columns, "values": their values as texts}.
    """

    columns: list[dict[str, Any]]
    segments: list[dict[str, Any]]

    @classmethod
    def learn(
        cls, frame: pl.DataFrame, names: str = "", *, min_users: int, max_segments: int, bins: int, pairs: bool
    ) -> UserSegments:
        """Learn from the columns of users; the largest segments where there are more than `max_segments`.

        names: the columns to use, separated by commas or |; empty: all. Raises ConfigError for one that is not there.
        """
        wanted = [name.strip() for name in names.replace("|", ",").split(",") if name.strip()]
        for name in wanted:
            if name not in frame.columns:
                remedy = suggest(name, frame.columns or ["none"])
                raise ConfigError(f"columns: there is no user column {name!r}", remedy=remedy)
        columns = [
            {"name": name, "edges": _edges(frame[name], bins)}
            for name in wanted or frame.columns
            if not frame[name].dtype.is_nested() and frame[name].dtype not in (pl.Binary, pl.Object)
        ]
        values = _values(frame, columns)
        single = [(at,) for at in range(len(columns))]
        counted: list[tuple[tuple[int, ...], list[str], np.ndarray]] = []
        counted += [(places, *_counts(values, places, min_users)) for places in single]
        counted = [entry for entry in counted if len(entry[1]) > 1]  # a value that all have tells nobody apart
        singles = sorted(counted, key=lambda entry: (-int(entry[2].sum()), entry[0]))[:MAX_PAIRED_COLUMNS]
        if pairs:
            at = sorted(entry[0][0] for entry in singles)
            counted += [(two, *_counts(values, two, min_users)) for two in itertools.combinations(at, 2)]
        every = [(int(n), places, key) for places, keys, counts in counted for key, n in zip(keys, counts)]
        # Of pairs only the largest: single values are what they fall back to.
        every.sort(key=lambda entry: (len(entry[1]), -entry[0], entry[1], entry[2]))
        segments = [{"columns": list(places), "values": key.split(_BETWEEN)} for _, places, key in every[:max_segments]]
        return cls(columns, segments)

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def groups(self) -> dict[tuple[int, ...], dict[str, int]]:
        """Of each column or pair of columns, the segment by the joined values."""
        if "_groups" not in vars(self):
            groups: dict[tuple[int, ...], dict[str, int]] = {}
            for code, segment in enumerate(self.segments):
                groups.setdefault(tuple(segment["columns"]), {})[_BETWEEN.join(segment["values"])] = code
            object.__setattr__(self, "_groups", groups)
        return vars(self)["_groups"]

    def names_of(self, code: int) -> list[str]:
        """The columns that make a segment."""
        return [self.columns[at]["name"] for at in self.segments[code]["columns"]]

    def encode(self, frame: pl.DataFrame | None, n: int) -> sparse.csr_matrix:
        """CSR float32[n, segments]: 1 for each segment that a user is in. A missing column counts as unknown."""
        rows, codes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        if frame is not None and self.segments:
            values = _values(frame, self.columns)
            for places, by_key in self.groups.items():
                keys = _joined(values, places)
                if len(frame) == 1:
                    code = by_key.get(keys[0], -1) if keys[0] is not None else -1
                    found = np.array([code])
                else:
                    coded = keys.replace_strict(by_key, default=-1, return_dtype=pl.Int64)
                    found = coded.fill_null(-1).to_numpy()
                inside = np.flatnonzero(found >= 0)
                rows.append(inside)
                codes.append(found[inside])
        at = (np.concatenate(rows), np.concatenate(codes))
        return sparse.csr_matrix((np.ones(len(at[0]), np.float32), at), shape=(n, len(self)))


def _counts(values: list[pl.Series], places: tuple[int, ...], min_users: int) -> tuple[list[str], np.ndarray]:
    """The joined values that enough users have, in a fixed order, and how many users."""
    keys = _joined(values, places).alias("key").drop_nulls()
    counts = keys.to_frame().group_by("key").len().filter(pl.col("len") >= min_users).sort("key")
    return counts["key"].to_list(), counts["len"].to_numpy()


def _joined(values: list[pl.Series], places: tuple[int, ...]) -> pl.Series:
    """The values of one or two columns as one text; null where one is unknown."""
    if len(places) == 1:
        return values[places[0]]
    one, other = (values[at] for at in places)
    return one + _BETWEEN + other


def _values(frame: pl.DataFrame, columns: list[dict[str, Any]]) -> list[pl.Series]:
    """Each column as texts: categories, or the numbers of bins."""
    result = []
    for column in columns:
        if column["name"] not in frame.columns:
            result.append(pl.repeat(None, len(frame), dtype=pl.String, eager=True))
            continue
        values = frame[column["name"]]
        if column["edges"] is None:
            text = _plain(values).cast(pl.String, strict=False).str.replace_all(_BETWEEN, " ", literal=True)
            result.append(text.str.strip_chars().replace("", None))
        else:
            numbers = _numbers(values)
            bins = np.searchsorted(np.array(column["edges"]), numbers.fill_null(0.0).to_numpy(), side="right")
            result.append(pl.Series(bins).cast(pl.String).set(numbers.is_null(), None))
    return result


def _plain(values: pl.Series) -> pl.Series:
    """Whole numbers as such, however they came: 5.0 and 5 are one value."""
    if values.dtype.is_float():
        return values.fill_nan(None).cast(pl.Int64, strict=False)
    return values


def _numbers(values: pl.Series) -> pl.Series:
    if values.dtype.is_temporal():
        values = values.to_physical()
    return values.cast(pl.Float64, strict=False).fill_nan(None)


def _edges(values: pl.Series, bins: int) -> list[float] | None:
    """Inner edges of bins of equally many users; None for categories."""
    if not (values.dtype.is_numeric() or values.dtype.is_temporal()):
        return None
    numbers = _numbers(values).drop_nulls()
    if not len(numbers):
        return []
    if numbers.n_unique() <= MAX_CATEGORIES and bool((numbers == numbers.round()).all()):
        return None
    return np.unique(np.quantile(numbers.to_numpy(), np.arange(1, bins) / bins)).tolist()
