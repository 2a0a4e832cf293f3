"""Base of recommenders over item columns: choice of the columns, their encoding and their state."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, ClassVar

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.errors import ConfigError, suggest
from zhiyin.core.params import param
from zhiyin.core.run import Run, log
from zhiyin.data.dataset import Dataset
from zhiyin.features.feature_inference import SKIP, guess
from zhiyin.features.feature_table import Features, FeatureTable, parse


@dataclasses.dataclass
class ItemFeatureMixin:
    """Hyperparameters and learned state of item columns.

    Vocabularies are learned from items with events; all items of the catalogue, and items added later (`table_for`),
    are encoded by them.
    """

    columns: str = param(
        "",
        'item columns with optional weights, separated by commas or |: "title*2,authors"; '
        "empty: all columns of text, categories and tags, but not of numbers, times and vectors",
    )
    kinds: str = param("", 'kinds of columns, instead of guessed ones, separated by |: "title=text:bm25|year=number"')
    text: str = param("tfidf", "weighting of words", choices=("tfidf", "bm25"), tune=("tfidf", "bm25"))
    ngrams: int = param(1, "longest n-gram of words", at_least=1, at_most=5, tune=(1, 2))
    pieces: bool = param(False, "use character n-grams of words, too: heart matches hearts", tune=(False, True))
    min_count: int = param(1, "fewest items with events that have a word or value", at_least=1, tune=(1, 3))

    columns_: ClassVar[list[dict[str, Any]]]
    arrays_: ClassVar[dict[str, np.ndarray]]

    @property
    def notes(self) -> tuple[str, ...]:
        """The kind of each column, and the columns left out, as sentences."""
        return self._features().notes

    def table_for(self, frame: pl.DataFrame, now: int | None = None) -> FeatureTable:
        """Encode the columns of any items; a missing column counts as unknown."""
        return self._features().encode(frame, now)

    def vectors_for(self, frame: pl.DataFrame) -> sparse.csr_matrix:
        """CSR float32[n, v], rows of length 1 or less: vectors of any items from their columns.

        Unknown words and missing columns shorten a row.
        """
        weights = self._weights()
        full = np.sqrt(sum(weights.get(name, 1.0) ** 2 for name in self._features().names))
        matrix = self.table_for(frame).matrix(weights)
        matrix.data /= np.float32(full or 1.0)
        return matrix

    def _learn_columns(self, data: Dataset, run: Run) -> None:
        """Choose and learn columns. Training rows are the items with a positive event, or all if there is none."""
        event_counts = np.bincount(
            data.events["item"].to_numpy()[data.events["weight"].to_numpy() > 0], minlength=data.n_items
        )
        learned = event_counts > 0 if event_counts.any() else np.ones(data.n_items, dtype=bool)
        frame = data.items.drop("id")
        weights = self._named(frame)
        given = self._kinds_given(frame)
        rows = frame.filter(pl.Series(learned)) if frame.width else frame
        kinds, notes = {}, []
        for name in weights or frame.columns:
            kind, why = (given[name], "as asked") if name in given else guess(rows[name])
            head = kind.partition(":")[0]
            if not weights and name not in given and head in ("number", "time", "vector"):
                kind, why = SKIP, f"a column of kind {head} is used where it is named"
            elif name not in given:
                kind = self._options(kind)
            notes.append(f"{name}: left out, {why}" if kind == SKIP else f"{name}: {kind}, {why}")
            kinds[name] = kind
        features = Features.learn(frame.select(list(kinds)), kinds, learned, run)
        features = dataclasses.replace(features, notes=tuple(notes))
        if not features.columns:
            log.info(
                "%s: items have no column to know them by%s",
                type(self).__name__,
                "".join(f"; {note}" for note in notes),
            )
        state = features.state()
        self.arrays_ = {name: v for name, v in state.items() if isinstance(v, np.ndarray)}  # type: ignore[misc]
        values = {name: value for name, value in state.items() if name not in self.arrays_}
        self.columns_ = [values | {"weights": weights}]  # type: ignore[misc]
        self._features_cache = features

    def _features(self) -> Features:
        """The learned columns, built once from the arrays."""
        if "_features_cache" not in vars(self):
            self._features_cache = Features.from_state({**self.columns_[0], **self.arrays_})
        return self._features_cache

    def _weights(self) -> dict[str, float]:
        return self.columns_[0]["weights"]

    def _options(self, kind: str) -> str:
        """A guessed kind with options from the hyperparameters."""
        if kind == "text":
            pieces = ",pieces" if self.pieces else ""
            return f"text:{self.text},ngrams={self.ngrams},min={self.min_count}{pieces}"
        return f"{kind}:min={self.min_count}" if kind in ("category", "tags") else kind

    def _named(self, frame: pl.DataFrame) -> dict[str, float]:
        """Weights of the columns named in `columns`; empty for all columns."""
        weights = {}
        for part in filter(None, (part.strip() for part in re.split("[,|]", self.columns))):
            name, _, weight = part.partition("*")
            weights[name.strip()] = _weight(part, weight)
        _there(weights, frame, "columns")
        return weights

    def _kinds_given(self, frame: pl.DataFrame) -> dict[str, str]:
        kinds = {}
        for part in filter(None, (part.strip() for part in self.kinds.split("|"))):
            name, equals, kind = (piece.strip() for piece in part.partition("="))
            if not equals:
                raise ConfigError(f"kinds: cannot read {part!r}", remedy='write column=kind, such as "title=text"')
            if kind != SKIP:
                parse(name, kind)
            kinds[name] = kind
        _there(kinds, frame, "kinds")
        return kinds


def _weight(part: str, text: str) -> float:
    try:
        weight = float(text or 1)
        if not 0 <= weight < float("inf"):
            raise ValueError
        return weight
    except ValueError:
        raise ConfigError(f"columns: {part!r} has no weight", remedy='a number from 0: "title*2"') from None


def _there(names: dict[str, Any], frame: pl.DataFrame, setting: str) -> None:
    for name in names:
        if name not in frame.columns:
            remedy = suggest(name, frame.columns or ["none"])
            raise ConfigError(f"{setting}: there is no item column {name!r}", remedy=remedy)
