"""Lists by scores that are the same for everyone, such as popular or similar items, under the rules of a request."""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.models.masked_search import Mask
from zhiyin.pipeline.rulebook import Rulebook
from zhiyin.pipeline.slate import RequestBatch, Slates


@dataclasses.dataclass(frozen=True, eq=False)
class ListRules:
    """What applies to the list of one request.

    Parameters
    ----------
    k: length of the list.
    mask: items that the filter and the include lists let through.
    excluded: int32[m], items that are not listed.
    visible: bool[n_items], items that may be shown at this moment; None: all.
    """

    k: int
    rulebook: Rulebook
    requests: RequestBatch
    mask: Mask
    excluded: np.ndarray
    visible: np.ndarray | None

    def allowed(self, items: np.ndarray) -> np.ndarray:
        """bool[m]: which items, by code, may be listed."""
        allowed = np.ones(len(items), dtype=bool)
        if self.mask.count < self.mask.n:
            allowed &= self.mask.contains(items)
        if 4 * len(items) < self.mask.n:
            allowed &= ~np.isin(items, self.excluded)
        else:  # nearly all items: faster by a bit for each
            excluded = np.zeros(self.mask.n, dtype=bool)
            excluded[self.excluded] = True
            allowed &= ~excluded[items]
        return allowed if self.visible is None else allowed & self.visible[items]


def best_under_rules(rules: ListRules, items: np.ndarray, scores: np.ndarray, priority: np.ndarray) -> Slates:
    """The slate of the best items, int[m] codes with float32[m] scores; of equal scores that of the higher priority.

    The rules see the best 4 · k items first, and more where these are too few for k.
    """
    allowed = rules.allowed(items)
    items, scores = items[allowed], scores[allowed]
    most = 4 * rules.k
    while True:
        best = np.arange(len(items))
        if len(items) > most:
            threshold = np.partition(scores, len(items) - most)[len(items) - most]
            best = np.flatnonzero(scores >= threshold)
            best = _with_required_groups(rules, items, scores, best)
        best = best[np.lexsort((-priority[items[best]], -scores[best]))]
        slates = Slates.best_first(np.array([0, len(best)]), items[best].astype(np.int32), scores[best])
        slates = rules.rulebook.rerank_qualified(slates, rules.requests, rules.k)
        if len(slates.items) >= rules.k or len(best) == len(items):
            return slates
        most *= 8


def _with_required_groups(rules: ListRules, items: np.ndarray, scores: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Positions of the best items, and of the best of each group that the list needs members of."""
    for group, count in rules.rulebook.required_groups(rules.requests, rules.k):
        values = rules.rulebook.request_values(rules.requests)
        members = np.flatnonzero(rules.rulebook.filters.where(group, items, values))
        if len(members) > count:
            members = members[np.argpartition(-scores[members], count - 1)[:count]]
        best = np.union1d(best, members)
    return best
