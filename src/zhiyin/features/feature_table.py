"""Features: the columns of a frame of items or users, learned on training rows, and frames encoded into a FeatureTable.

>>> import polars as pl
>>> items = pl.DataFrame({"title": ["Red shoe", "Blue shoe", "Red hat"] * 2, "price": [1.0, 2.0, 4.0] * 2})
>>> features = Features.learn(items, {"title": "text", "price": "number:log"})
>>> table = features.encode(items)
>>> table.number_names, table.texts["title"].shape
(('price',), (6, 4))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.errors import ConfigError, DataError, suggest
from zhiyin.core.run import Run, log
from zhiyin.features.column_encoders import Category, Column, Number, Tags, Time, Vector
from zhiyin.features.feature_inference import MAX_SAMPLED_ROWS, SKIP, guess
from zhiyin.features.text import Text, unit_rows

KINDS: dict[str, type[Column]] = {kind.kind: kind for kind in (Number, Category, Tags, Text, Vector, Time)}
# Knots of the hat functions of numbers in `matrix`, half a standard deviation apart.
KNOTS = np.arange(-2.5, 2.75, 0.5)


@dataclasses.dataclass(frozen=True)
class FeatureTable:
    """The columns of n rows, encoded as arrays.

    Parameters
    ----------
    numbers: float32[n, a], standardised, 0 where unknown; `number_names` says what they are, `number_columns` which
        column each comes from, `number_roles` how to read it: "value", "missing" (1: unknown) or "circle" (sine or
        cosine).
    codes: int32[n, b], one category a row and column, 0 for unknown; `cards[c]` codes in column c, that of the
        unknown included; `code_columns`: which column each comes from.
    bags: for each name, several categories a row: (offsets int64[n + 1], codes int32[...], ascending, 0 once for
        all that are unknown); `sizes[name]` codes, 0 included.
    rarity: for each column of categories or tags, float32[its codes]: 0 for what all training rows have, 1 for what
        none has.
    texts: for each name, weighted words, CSR float32[n, v], rows of length 1 or less.
    vectors: for each name, float32[n, d], zeros where unknown.
    """

    n: int
    numbers: np.ndarray
    number_names: tuple[str, ...]
    number_columns: tuple[str, ...]
    number_roles: tuple[str, ...]
    codes: np.ndarray
    code_names: tuple[str, ...]
    code_columns: tuple[str, ...]
    cards: tuple[int, ...]
    bags: dict[str, tuple[np.ndarray, np.ndarray]]
    sizes: dict[str, int]
    rarity: dict[str, np.ndarray]
    texts: dict[str, sparse.csr_matrix]
    vectors: dict[str, np.ndarray]

    def __len__(self) -> int:
        return self.n

    def matrix(self, weights: Mapping[str, float] | None = None) -> sparse.csr_matrix:
        """All columns as one CSR float32[n, v]: one block per column, each row of a block of length 1 or less.

        `weights`: factors of the blocks by column name, default 1; 0 leaves a column out. The inner product of two rows
        is the sum of weight² · similarity over the columns.

        - Text: its weighted words, of length 1 where all of them are known. Vectors: of length 1.
        - Categories and tags: one-hot, weighted by rarity, scaled to the length of the greatest rarity: a common
          language of two books counts less than a common author. An unknown tag takes its share of the length.
        - A number: the values of the two nearest hat functions, so that near numbers are similar. A time: those of its
          age, and its hour and weekday as points on circles.
        - Unknown values: zeros.
        """
        weights = weights or {}
        blocks = [
            block * np.float32(weights.get(name, 1.0)) for name, block in self._blocks() if weights.get(name, 1.0) != 0
        ]
        if not blocks:
            return sparse.csr_matrix((self.n, 0), dtype=np.float32)
        joined = sparse.csr_matrix(sparse.hstack(blocks, format="csr"), dtype=np.float32)
        joined.sort_indices()
        return joined

    def _blocks(self) -> list[tuple[str, sparse.csr_matrix]]:
        """(column, CSR) in a fixed order, so that matrices of training and serving have the same columns."""
        blocks: list[tuple[str, sparse.csr_matrix]] = []
        missing = {
            column: self.numbers[:, at] > 0
            for at, (column, role) in enumerate(zip(self.number_columns, self.number_roles))
            if role == "missing"
        }
        for column in dict.fromkeys(self.number_columns):
            positions = [at for at, name in enumerate(self.number_columns) if name == column]
            present = ~missing.get(column, np.zeros(self.n, dtype=bool))
            parts = [
                _hat_functions(self.numbers[:, at], present) for at in positions if self.number_roles[at] == "value"
            ]
            circles = [at for at in positions if self.number_roles[at] == "circle"]
            if circles:
                parts.append(sparse.csr_matrix(self.numbers[:, circles]))
            blocks.append((column, unit_rows(sparse.csr_matrix(sparse.hstack(parts, format="csr")))))
        clocks = {column for column, role in zip(self.number_columns, self.number_roles) if role == "circle"}
        for at, column in enumerate(self.code_columns):
            if column not in clocks:  # hours and weekdays are numbers already
                row_starts = np.arange(self.n + 1)
                blocks.append(
                    (
                        column,
                        _rarity_weighted(
                            row_starts, self.codes[:, at], self.rarity[column], present=self.codes[:, at] > 0
                        ),
                    )
                )
        for name, (offsets, codes) in self.bags.items():
            blocks.append(
                (name, _rarity_weighted(offsets, codes, self.rarity[name], present=np.ones(len(codes), dtype=bool)))
            )
        blocks += list(self.texts.items())
        return blocks + [(name, unit_rows(sparse.csr_matrix(vectors))) for name, vectors in self.vectors.items()]


@dataclasses.dataclass(frozen=True)
class Features:
    """Learned columns, in the order of the frame they were learned from.

    notes: sentences on guessed kinds and columns left out, for display.
    """

    columns: tuple[Column, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def learn(
        cls,
        frame: pl.DataFrame,
        kinds: Mapping[str, str] | None = None,
        learned: np.ndarray | None = None,
        run: Run | None = None,
    ) -> Features:
        """Learn the columns of a frame.

        Parameters
        ----------
        frame: one row an item or user; a column `id` is left out unless a kind is given for it.
        kinds: kind by column, for those not to be guessed: "number", "number:log", "number:quantile", "category",
            "category:hash=1000", "tags", "text", "text:bm25,ngrams=2,min=3", "text:pieces", "time", "time:s",
            "vector", "vector:/path/to/model" or "skip"; see the classes of these columns.
        learned: bool[n], the rows to learn from (vocabularies, means, guesses); all where None.

        Raises ConfigError for a column that is not there and for a kind or option that is not known.
        """
        kinds, notes, columns = dict(kinds or {}), [], []
        for name in kinds:
            if name not in frame.columns:
                remedy = suggest(name, frame.columns or ["none"])
                raise ConfigError(f"features: there is no column {name!r}", remedy=remedy)
        rows = frame if learned is None or not frame.width else frame.filter(pl.Series(np.asarray(learned, dtype=bool)))
        some = rows
        if len(rows) > MAX_SAMPLED_ROWS:
            some = rows[np.sort((run or Run()).rng(71).choice(len(rows), MAX_SAMPLED_ROWS, replace=False))]
        for name in frame.columns:
            kind = kinds.get(name)
            if kind is None:
                if name == "id":
                    continue
                kind, why = guess(some[name])
                notes.append(f"{name}: left out, {why}" if kind == SKIP else f"{name}: {kind}, {why}")
            if kind != SKIP:
                owner, options = parse(name, kind)
                columns.append(owner.learn(name, rows[name], options))
        log.debug("features: %s", "; ".join(notes))
        return cls(tuple(columns), tuple(notes))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that are used."""
        return tuple(column.name for column in self.columns)

    def encode(self, frame: pl.DataFrame, now: int | None = None) -> FeatureTable:
        """Encode a frame. Columns may be in any order; a missing one counts as unknown, others are ignored.

        `now`: microseconds UTC, from which ages are counted; None for the last moment of the training rows.
        """
        n = len(frame)
        numbers: list[tuple[str, str, str, np.ndarray]] = []
        codes: list[tuple[str, str, np.ndarray, int]] = []
        bags, sizes, rarity, texts, vectors = {}, {}, {}, {}, {}
        for column in self.columns:
            is_present = column.name in frame.columns
            values = (
                frame[column.name] if is_present else pl.repeat(None, n, dtype=pl.Null, eager=True).alias(column.name)
            )
            try:
                piece = column.encode(values, now)
            except (pl.exceptions.PolarsError, ValueError):
                raise DataError(
                    f"column {column.name!r} is of another type than the one that was learned: {values.dtype}",
                    column=column.name,
                    remedy="bring the column as it was, or train without what has learned it",
                ) from None
            numbers += [(name, column.name, role, array) for name, role, array in piece.numbers]
            codes += [(name, column.name, array, card) for name, array, card in piece.codes]
            if piece.bag is not None:
                bags[column.name], sizes[column.name] = piece.bag[:2], piece.bag[2]
            if piece.rarity is not None:
                rarity[column.name] = piece.rarity
            if piece.text is not None:
                texts[column.name] = piece.text
            if piece.vector is not None:
                vectors[column.name] = piece.vector
        return FeatureTable(
            n,
            _stack_columns([array for *_, array in numbers], n, np.float32),
            tuple(name for name, *_ in numbers),
            tuple(column for _, column, *_ in numbers),
            tuple(role for _, _, role, _ in numbers),
            _stack_columns([array for _, _, array, _ in codes], n, np.int32),
            tuple(name for name, *_ in codes),
            tuple(column for _, column, *_ in codes),
            tuple(card for *_, card in codes),
            bags,
            sizes,
            rarity,
            texts,
            vectors,
        )

    def state(self) -> dict[str, Any]:
        """Learned state: "columns" and "notes" are JSON values, all other entries arrays."""
        state: dict[str, Any] = {"columns": [], "notes": list(self.notes)}
        for number, column in enumerate(self.columns):
            settings, arrays = column.state()
            state["columns"].append(settings | {"arrays": list(arrays)})
            state |= {f"{number}.{name}": array for name, array in arrays.items()}
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Features:
        """The object from what `state` returned."""
        columns = []
        for number, settings in enumerate(state["columns"]):
            arrays = {name: state[f"{number}.{name}"] for name in settings["arrays"]}
            columns.append(KINDS[settings["kind"]].restore(settings, arrays))
        return cls(tuple(columns), tuple(state["notes"]))


def parse(name: str, kind: str) -> tuple[type[Column], dict[str, str]]:
    """The column class and the options of a kind such as "text:bm25,ngrams=2"."""
    head, _, rest = kind.partition(":")
    owner = KINDS.get(head.strip())
    if owner is None:
        raise ConfigError(f"column {name!r}: there is no kind {head!r}", remedy=suggest(head, [*KINDS, SKIP]))
    if owner is Vector:
        options = {rest.strip(): ""} if rest.strip() else {}
    else:
        parts = [part.partition("=") for part in rest.split(",") if part.strip()]
        options = {key.strip(): value.strip() for key, _, value in parts}
    owner.check(name, options)
    return owner, options


def _stack_columns(columns: list[np.ndarray], n: int, dtype: Any) -> np.ndarray:
    """Columns as one array [n, len(columns)]."""
    return np.stack(columns, axis=1).astype(dtype, copy=False) if columns else np.zeros((n, 0), dtype=dtype)


def _hat_functions(z: np.ndarray, present: np.ndarray) -> sparse.csr_matrix:
    """CSR float32[n, len(KNOTS)]: linear interpolation between the two nearest knots; a row sums to 1."""
    step = KNOTS[1] - KNOTS[0]
    position = np.clip((z - KNOTS[0]) / step, 0, len(KNOTS) - 1)
    low = np.minimum(position.astype(np.int64), len(KNOTS) - 2)
    share = (position - low).astype(np.float32)
    row = np.flatnonzero(present)
    data = np.concatenate([1 - share[row], share[row]])
    at = (np.concatenate([row, row]), np.concatenate([low[row], low[row] + 1]))
    matrix = sparse.csr_matrix((data, at), shape=(len(z), len(KNOTS)), dtype=np.float32)
    matrix.eliminate_zeros()
    return matrix


def _rarity_weighted(
    offsets: np.ndarray, codes: np.ndarray, rarity: np.ndarray, present: np.ndarray
) -> sparse.csr_matrix:
    """CSR float32[n, len(rarity)] of codes weighted by rarity; the length of a row is the greatest rarity in it.

    Codes where `present` is not set are ignored; a present code 0, a value not seen in training, counts in the length
    only.
    """
    n = len(offsets) - 1
    owner = np.repeat(np.arange(n), np.diff(offsets))[present]
    codes = codes[present].astype(np.int64)
    weight = rarity[codes]
    square = np.bincount(owner, weights=weight.astype(np.float64) ** 2, minlength=n)
    greatest = np.zeros(n, dtype=np.float32)
    np.maximum.at(greatest, owner, rarity[codes])
    share = (weight * (greatest / np.sqrt(np.maximum(square, 1e-30)))[owner]).astype(np.float32)
    seen = codes > 0
    matrix = sparse.csr_matrix((share[seen], (owner[seen], codes[seen])), shape=(n, len(rarity)))
    matrix.eliminate_zeros()
    return matrix
