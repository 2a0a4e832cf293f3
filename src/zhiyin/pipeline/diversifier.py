"""Diversity of lists over one catalogue: which features tell items apart, and the re-ranker that a request selects."""

from __future__ import annotations

from typing import Any

import polars as pl
from scipy import sparse

from zhiyin.core.array_table import ArrayTable
from zhiyin.core.errors import ConfigError
from zhiyin.core.run import Run
from zhiyin.data.catalogue import category_columns
from zhiyin.data.histories import Histories
from zhiyin.models.recommender import VectorRecommender
from zhiyin.pipeline import diversity_rerankers
from zhiyin.pipeline.cold_start import NewItems
from zhiyin.pipeline.filters import Filters
from zhiyin.pipeline.list_plan import NO_VARIETY, Variety
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.variety_kernels import CALIBRATE, DPP, MMR

_CODES = {"mmr": MMR, "dpp": DPP}


class Diversifier:
    """Re-ranks lists for diversity. Any number of threads may use one.

    Parameters
    ----------
    model: its content features or item vectors give the similarity of items.
    items: the catalogue, row = item code.
    filters: over the catalogue.
    new_items: its last rows.
    category_column: column of categories; "": inferred from the names of the columns.
    """

    def __init__(
        self,
        model: Pipeline,
        items: pl.DataFrame,
        filters: Filters,
        new_items: NewItems,
        category_column: str,
        run: Run,
    ) -> None:
        self.model, self.items, self.filters, self.new_items = model, items, filters, new_items
        self.category_column, self.run = category_column, run
        self._features: ArrayTable | None = None
        self._features_are_categories = bool(category_column)
        self._categories: sparse.csr_matrix | None = None
        self._category_features: ArrayTable | None = None

    def with_catalogue(self, items: pl.DataFrame, filters: Filters, new_items: NewItems) -> Diversifier:
        """The same over another catalogue with the same ids. Features of the model are not computed again; those that
        are categories of the catalogue are."""
        changed = Diversifier(self.model, items, filters, new_items, self.category_column, self.run)
        features = self._features  # read before the flag, which another thread may set at its first request
        if not self._features_are_categories and new_items is self.new_items:
            changed._features = features
        return changed

    def variety(self, histories: Histories, method: str, balance: float) -> Variety:
        """How lists are varied by a method of `request.DIVERSITY_METHODS`. Raises ConfigError where neither the model
        nor the catalogue gives a similarity of items."""
        if method == "none":
            return NO_VARIETY
        if method != "calibrate":
            return Variety(_CODES[method], method, balance, self._item_features())
        if self._category_features is None:
            self._category_features = diversity_rerankers.table_of_categories(self._category_table())
        return Variety(CALIBRATE, method, balance, self._category_features, histories)

    def check(self, method: str) -> None:
        """Raises ConfigError where the catalogue lacks what a method needs."""
        if method == "calibrate":
            self._category_table()
        elif method != "none":
            self._item_features()

    def _item_features(self) -> ArrayTable:
        """Rows that give the similarity of items: features of a content model, item vectors, or categories."""
        if self._features is None:
            sources = [] if self.category_column else list(self.model.sources_.values())
            described = (getattr(source, "items_", None) for source in sources)
            features: Any = next((table for table in described if isinstance(table, sparse.csr_matrix)), None)
            if features is None:
                vectors = (source.item_vectors_ for source in sources if isinstance(source, VectorRecommender))
                features = next(vectors, None)
            if features is None:
                self._features_are_categories = True  # before `_features` is set, see `with_catalogue`
                features = self._category_table()
            else:
                features = self.new_items.extended(features)
            self._features = diversity_rerankers.feature_table(features)
        return self._features

    def _category_table(self) -> sparse.csr_matrix:
        if self._categories is None:
            column = self.category_column or next(iter(category_columns(self.items.columns)), "")
            if not column:
                raise ConfigError(
                    "there is nothing to spread lists over",
                    remedy="name a column of categories of the items (by=), or leave diversity out: diversity='none', "
                    "on the command line --diversity none",
                )
            self._categories = diversity_rerankers.category_table(self.filters.column(column), len(self.items))
        return self._categories
