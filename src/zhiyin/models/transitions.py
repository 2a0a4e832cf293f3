"""Transitions: item-to-item sequential rules, the baseline of sequence models."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy import sparse

from zhiyin.core.array_table import ArrayTable
from zhiyin.core.durations import microseconds
from zhiyin.core.parallel import kernel
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.data.sessions import session_numbers
from zhiyin.models import search_plan
from zhiyin.models.item_to_item import keep_largest, powers, recent, row_of, rows_of, score_by_table, to_csr
from zhiyin.models.recommender import Recommender
from zhiyin.models.row_computation import RowComputation, table_outputs


@dataclasses.dataclass
class Transitions(Recommender):
    """Sequential rules (Kamehkhosh, Jannach & Ludewig 2017; "SR" in session-rec).

    rule(i → j) = sum over the occurrences of j after i, within `window` events of the same history (and session), of
    1 / distance · 2^(-gap / half_life), plus `backward` times that over the occurrences of j before i; divided by the
    number of events of i to the power of `damping`. rule(i → i) is `repeats` times the sum over the occurrences of i
    after itself. score(u, j) = sum of vote(e) · rule(i_e → j) over the last `last` events e of the history; the newest
    event votes with 1, each older one with `decay` times the vote of the next.

    The paper uses backward = damping = 0, last = 1 and repeats = 1. Where seen items may be recommended again, as in
    sessions, all four should be tuned.
    """

    window: int = param(
        10, "largest distance, in events, at which an item counts as a follower", at_least=1, tune=(1, 20)
    )
    last: int = param(10, "newest events of a history that are used", at_least=1, tune=(1, 50), log=True)
    decay: float = param(
        0.8, "weight of an event as a share of that of the next newer one", at_least=0, at_most=1, tune=(0.1, 1.0)
    )
    half_life: str | None = param(
        None,
        "half-life of the weight of a following item by its time gap; none: no decay",
        tune=("1h", "1d", "7d", "30d"),
    )
    session_gap: str | None = param(None, "pause that ends a session; none: sessions do not end", tune=("30m", "1d"))
    k_neighbors: int = param(200, "followers kept for each item", at_least=1, tune=(20, 500), log=True)
    repeats: float = param(0.0, "weight of the transition of an item to itself; 0: none", at_least=0, tune=(0.0, 5.0))
    backward: float = param(0.0, "weight of preceding items relative to following ones", at_least=0, tune=(0.0, 1.0))
    damping: float = param(
        0.0, "power of an item's popularity that its transitions are divided by", at_least=0, at_most=1, tune=(0.0, 1.0)
    )

    def _fit(self, data: Dataset, run: Run) -> None:
        followers, values = self.table_rows(data).run(run, label="Transitions")
        self.rules_ = to_csr(followers, values, data.n_items)

    def table_rows(self, data: Dataset) -> RowComputation:
        """The computation of the rules."""
        positive = data.events["weight"].to_numpy() > 0
        user, item = data.events["user"].to_numpy()[positive], data.events["item"].to_numpy()[positive]
        time = data.events["time"].to_numpy()[positive]
        gap = microseconds(self.session_gap) if self.session_gap is not None else None
        session = session_numbers(user, time if data.has_times else None, gap)
        # Positions of each item in the log, as CSR, so that each row of rules is computed by one thread.
        n_items = data.n_items
        places = sparse.csr_matrix(
            (np.ones(len(item), np.int8), (item, np.arange(len(item)))), shape=(n_items, max(len(item), 1))
        )
        timed = self.half_life is not None and data.has_times
        rate = 1 / microseconds(self.half_life) if timed and self.half_life else 0.0
        scale = np.maximum(np.diff(places.indptr), 1).astype(np.float64) ** -self.damping
        k = min(self.k_neighbors, max(1, n_items - (self.repeats == 0)))
        inputs = (places.indptr, places.indices, item, session, time, scale)
        settings = (self.window, float(rate), self.repeats, self.backward)
        return RowComputation(n_items, inputs, settings, _rule_rows, table_outputs(k), np.diff(places.indptr) + 1.0)

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        return score_by_table(recent(histories, self.last, self.decay), self.rules_, run)

    def _put_search(self, table: ArrayTable, base: int, run: Run) -> int:
        if type(self)._score is not Transitions._score:
            return search_plan.LIST
        return search_plan.put_table(table, base, self.rules_, powers(self.last, self.decay))

    def _similar(self, items: np.ndarray, run: Run) -> np.ndarray:
        return rows_of(self.rules_, items)

    def _similar_to_item(self, item: int, k: int, run: Run) -> tuple[np.ndarray, np.ndarray]:
        return row_of(self.rules_, item)


def _rule_rows(
    inputs: tuple[np.ndarray, ...], settings: tuple[Any, ...], start: int, stop: int, outputs: tuple[np.ndarray, ...]
) -> None:
    *arrays, scale = inputs
    window, rate, repeats, backward = settings
    _rules(*arrays, window, np.float64(rate), repeats, backward, scale, start, stop, *outputs)


@kernel
def _rules(indptr, places, item, session, time, window, rate, repeats, backward, scale, start, stop, neighbors, values):
    n_items = len(scale)
    total = np.zeros(n_items, dtype=np.float32)
    touched = np.empty(n_items, dtype=np.int32)
    for source in range(start, stop):
        n_touched = 0
        for at in range(indptr[source], indptr[source + 1]):
            place = places[at]
            for way in range(-1, 2, 2):
                share = scale[source] * (backward if way < 0 else 1.0)
                if share == 0:
                    continue
                for distance in range(1, window + 1):
                    other = place + way * distance
                    if other < 0 or other >= len(item) or session[other] != session[place]:
                        break
                    follower, weight = item[other], share / distance
                    if follower == source:
                        weight *= repeats if way > 0 else 0.0
                    if rate > 0:
                        weight *= 2.0 ** (-rate * abs(time[other] - time[place]))
                    if weight < 1e-30:  # negligible; a sum of 0 would mark the item as untouched
                        continue
                    if total[follower] == 0:
                        touched[n_touched] = follower
                        n_touched += 1
                    total[follower] += weight
        keep_largest(total, touched, n_touched, neighbors[source - start], values[source - start])
