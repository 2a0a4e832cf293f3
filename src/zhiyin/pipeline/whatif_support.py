"""What of another configuration a logged list could not show, and how its weight varies, both exactly.

The log has the probabilities that each slot was drawn with, of all items. So it is known, and not estimated, with what
probability the other configuration would put an item into a slot that could not have been drawn there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zhiyin.pipeline.decision_record import DecisionRecord
from zhiyin.pipeline.list_policy import ListDecision
from zhiyin.policies.action_sets import action_keys


def slot_support_terms(
    items: Sequence[str], record: DecisionRecord, target_items: Sequence[str], decision: ListDecision | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Support of each slot of a logged list of k items, given the logged items above.

    Parameters
    ----------
    items: ids of the logged list, k.
    record: what it was drawn by. A slot whose logged propensity is not that of its pmf was not drawn: it could have its
        own item alone.
    target_items: ids of the target's own list, which stand where nothing is drawn; none where it is shorter.
    decision: what the target draws by, given the logged items above; None: nothing is drawn.

    Returns
    -------
    float64[k], the target's probability of items that could not be drawn into the slot; float64[k], the mean square of
    the slot's weight over the log's draws of its item. None where the log does not have its pmfs.
    """
    if record.pmfs is None or record.keys is None:
        return None
    k = len(items)
    logged_keys, own_keys = action_keys(items), action_keys(list(target_items)[:k])
    is_drawn = np.zeros(k, dtype=bool)
    drawn_keys, pmfs = np.zeros(0, dtype=np.int64), np.zeros((0, 0))
    if decision is not None and decision.mode != "shadow":
        inside = decision.slots < k
        drawn_keys, pmfs = decision.keys, decision.pmfs[inside]
        is_drawn[decision.slots[inside]] = True
    keys = np.concatenate([drawn_keys, own_keys])
    target, logging = np.zeros((k, len(keys))), np.zeros((k, len(keys)))
    target[is_drawn, : len(drawn_keys)] = pmfs
    fixed = np.flatnonzero(~is_drawn[: len(own_keys)])
    target[fixed, len(drawn_keys) + fixed] = 1.0

    logging[:] = keys == logged_keys[:, None]
    rows = np.flatnonzero(record.slots < k)
    if len(rows):
        at = np.maximum(record.chosen[rows], 0)
        of_pmf = record.pmfs[rows, at] if record.pmfs.shape[1] else np.zeros(len(rows))
        rows = rows[(record.chosen[rows] >= 0) & (of_pmf == record.propensities[rows])]
    if len(rows) and len(keys):
        order = np.argsort(record.keys)
        place = order[np.minimum(np.searchsorted(record.keys, keys, sorter=order), len(order) - 1)]
        logging[record.slots[rows]] = np.where(record.keys[place] == keys, record.pmfs[rows][:, place], 0.0)
    return support_terms(target, logging)


def support_terms(target: np.ndarray, logging: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """See `slot_support_terms`. target, logging: float64[k, m], both policies' probabilities of the same items."""
    shown = logging > 0
    squares = np.divide(target**2, logging, out=np.zeros_like(target), where=shown).sum(axis=1)
    return np.minimum(np.where(shown, 0.0, target).sum(axis=1), 1.0), squares
